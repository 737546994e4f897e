"""How bytes and commands reach a device; one module or package per scheme."""
