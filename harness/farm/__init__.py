"""Many devices: who is there, are they fit, first contact."""
