"""Find the first bad one of an ordered list of models, with the gate as the oracle.

search.py    which point is asked next, and what the answers come to
points.py    the list: model files as they are, and what a point is
commits.py   the list: commits, each checked out and built in a worktree of its own
"""

from __future__ import annotations

from harness.analysis.bisect.points import BisectPoint, ModelFiles, Points, Untestable
from harness.analysis.bisect.search import BisectResult, BisectStep, GateAnswer, Oracle, search

__all__ = [
    "BisectPoint",
    "BisectResult",
    "BisectStep",
    "GateAnswer",
    "ModelFiles",
    "Oracle",
    "Points",
    "Untestable",
    "search",
]
