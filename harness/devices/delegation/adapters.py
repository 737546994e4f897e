"""Recognise software adapters: their times are the CPU's, under a GPU's name."""

from __future__ import annotations

from harness.types import Adapter

_SOFTWARE = ("swiftshader", "llvmpipe", "lavapipe", "softpipe", "software", "subzero")


def is_software(adapter: Adapter) -> bool:
    """Return whether an adapter computes on the CPU: by its type, else by its name."""
    kind = adapter.type.lower()
    if "cpu" in kind or "software" in kind:
        return True
    text = f"{adapter.name} {adapter.driver}".lower()
    return any(name in text for name in _SOFTWARE)
