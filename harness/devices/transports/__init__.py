"""How bytes and commands reach a device, one file per way."""
