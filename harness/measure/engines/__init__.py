"""Engines run picklable work and yield its events, whatever the work does."""
