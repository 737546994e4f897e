"""The kinds of evidence of delegation, and the kinds that a launch has."""

from __future__ import annotations

RUNTIME_INFO = "model_runtime_info"
"""The file that benchmark_model writes about the runtime's own graph, operator by operator."""

KINDS = (
    "graph walk",
    RUNTIME_INFO,
    "is_fully_accelerated",
    "compiled file",
    "vendor's log",
    "benchmark_model log",
)
"""A Delegation's `evidence` has parts separated by `; `. A part that starts with none of these is not
evidence of delegation (`log: ...` is the runtime's own output)."""


def kinds(evidence: str) -> tuple[str, ...]:
    """Return the kinds of evidence in a text, in the order of KINDS."""
    parts = [part.strip() for part in evidence.split(";")]
    return tuple(kind for kind in KINDS if any(part.startswith(kind) for part in parts))
