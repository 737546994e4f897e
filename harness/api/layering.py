"""Time per operator of the files of stored runs."""

from __future__ import annotations

from harness.analysis.layers.procedure import LayersFound, layers

__all__ = ["LayersFound", "layers"]
