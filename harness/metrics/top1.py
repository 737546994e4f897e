"""The metric top1: `metric = "top1"` in the plan's [data]."""

from __future__ import annotations

from harness.metrics.classes import TopK


class Top1(TopK):
    """Share of samples whose highest score is their class."""

    name = "top1"
    summary = "share of samples whose highest score is their class; y is integer classes"
    k = 1
