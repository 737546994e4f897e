"""How well a file answers: one file per metric, found by name (entry point `harness.metrics`).

    metric = metrics.load("top1")()
    metric.update({"scores": scores}, {"y": classes})
    metric.result().value, metric.direction

The seam is :class:`harness.protocols.Metric`. `classes.py` and `differences.py` hold what several
metrics share; the metrics never import each other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from harness import plugins
from harness.protocols import Metric
from harness.types import Direction

GROUP = "harness.metrics"


def names() -> list[str]:
    """List the known metrics, sorted."""
    return plugins.names(GROUP)


def load(name: str) -> Callable[[], Metric]:
    """Load a metric's class; raises ConfigError for an unknown name, with the known ones."""
    return cast("Callable[[], Metric]", plugins.load(GROUP, name))


def direction(name: str) -> Direction:
    """Return which values of a metric are better; raises ConfigError for an unknown name."""
    return load(name)().direction
