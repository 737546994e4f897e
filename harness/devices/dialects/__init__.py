"""Communicate with each kind of agent; one module or package per kind."""
