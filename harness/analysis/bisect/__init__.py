"""Find the first bad one of an ordered list of models, with the gate as the oracle.

search.py    the bisection: the next point to gate, and the result of all answers
points.py    the list of points; model files as points
commits.py   commits as points, each checked out and built in its own worktree
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
