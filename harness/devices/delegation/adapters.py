"""Adapters that are no hardware: their times are a processor's, under a GPU's name."""

from __future__ import annotations

from harness.types import Adapter

_SOFTWARE = ("swiftshader", "llvmpipe", "lavapipe", "softpipe", "software", "subzero")


def is_software(adapter: Adapter) -> bool:
    """Tell whether an adapter computes on the processor: by its type, else by its name."""
    kind = adapter.type.lower()
    if "cpu" in kind or "software" in kind:
        return True
    words = f"{adapter.name} {adapter.driver}".lower()
    return any(word in words for word in _SOFTWARE)
