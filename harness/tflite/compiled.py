"""The custom operators with which vendors' compilers replace the operators they map."""

from __future__ import annotations

from collections.abc import Mapping

EDGETPU = "edgetpu-custom-op"
DISPATCH = "DISPATCH_OP"
"""The operator that every vendor's compiler behind ai-edge-litert's aot writes."""

COMPILED_FOR: Mapping[str, str] = {EDGETPU: "edgetpu", DISPATCH: "npu"}
"""Target by custom operator."""


def compiled_ops(operators: Mapping[str, int]) -> int:
    """Count the compiled operators among a file's operators (name to count)."""
    return sum(operators.get(name, 0) for name in COMPILED_FOR)
