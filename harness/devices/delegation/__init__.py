"""Determine which processor ran which operators, and whether a number is the accelerator's.

    verdict = judge(cell, launches)
    verdict.validity, verdict.status, verdict.reason

These are pure functions of the stored launches. docs/accelerators.md describes their rules.
"""

from harness.devices.delegation.adapters import is_software
from harness.devices.delegation.coverage import GraphNode, graph_walk
from harness.devices.delegation.evidence import KINDS, kinds
from harness.devices.delegation.judging import (
    CPU_TARGETS,
    OUTPUTS_DRIFTED,
    SHOWN,
    DelegationVerdict,
    Timing,
    judge,
    share,
)
from harness.devices.delegation.outputs import disagreement, findings, outputs_doubt

__all__ = [
    "CPU_TARGETS",
    "KINDS",
    "OUTPUTS_DRIFTED",
    "SHOWN",
    "DelegationVerdict",
    "GraphNode",
    "Timing",
    "disagreement",
    "findings",
    "graph_walk",
    "is_software",
    "judge",
    "kinds",
    "outputs_doubt",
    "share",
]
