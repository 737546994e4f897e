"""The metric top5: `metric = "top5"` in the plan's [data]."""

from __future__ import annotations

from harness.metrics.classes import TopK


class Top5(TopK):
    """Share of samples whose class is among the five highest scores."""

    name = "top5"
    summary = "share of samples whose class is among the five highest scores; y is integer classes"
    k = 5
