"""Manage devices: first contact, the checks of doctor, setup of a runtime, cleaning."""
