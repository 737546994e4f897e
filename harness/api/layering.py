"""Time per operator of stored runs' files."""

from __future__ import annotations

from harness.analysis.layers.procedure import LayersFound, layers

__all__ = ["LayersFound", "layers"]
