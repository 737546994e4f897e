"""The operators that vendors' compilers leave in a file in place of those they took."""

from __future__ import annotations

from collections.abc import Mapping

EDGETPU = "edgetpu-custom-op"
DISPATCH = "DISPATCH_OP"
"""Of every vendor's compiler behind ai-edge-litert's aot."""

COMPILED_FOR: Mapping[str, str] = {EDGETPU: "edgetpu", DISPATCH: "npu"}
"""The target of each."""


def compiled_ops(operators: Mapping[str, int]) -> int:
    """Count them among a file's operators."""
    return sum(operators.get(name, 0) for name in COMPILED_FOR)
