"""The kinds of evidence, and which of them a launch has."""

from __future__ import annotations

KINDS = (
    "graph walk",
    "is_fully_accelerated",
    "compiled file",
    "vendor's log",
    "benchmark_model log",
)
"""In a Delegation's `evidence` each part between `; ` begins with one of these, else it is no
evidence of what ran where (`log: ...` is what the runtime printed)."""


def kinds(evidence: str) -> tuple[str, ...]:
    """Return the kinds of evidence that a text names, in the order of KINDS."""
    parts = [part.strip() for part in evidence.split(";")]
    return tuple(kind for kind in KINDS if any(part.startswith(kind) for part in parts))
