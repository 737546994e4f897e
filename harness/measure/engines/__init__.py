"""Engines run picklable work and yield its events; they never know what the work is."""
