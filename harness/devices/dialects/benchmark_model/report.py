"""The noun of what `benchmark_model` reports about one run, from its result file or its log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

NS_PER_MS = 1e6
NS_PER_US = 1e3


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolReport:
    """A summary of one run; the program reports no single inferences."""

    source: Literal["result file", "log"]
    runs: int
    avg_ns: float
    median_ns: float | None = None
    """A whole number of microseconds; None if the program's version does not report it."""
    min_ns: float | None = None
    max_ns: float | None = None
    p5_ns: float | None = None
    p95_ns: float | None = None
    """Percentiles that the program itself reports; none are computed from a summary."""
    init_ns: float | None = None
    """From opening the file until the graph is ready, with delegates and their compilation."""
    first_ns: float | None = None
    """The first warm-up inference; None without warm-up."""
    warmup_runs: int | None = None
    warmup_avg_ns: float | None = None
    peak_bytes: float | None = None
    """Peak resident memory by periodic checks of the program itself, if it was asked for."""

    def statistics(self) -> dict[str, float]:
        """Return the program's statistics of an inference, ns, by the names of their series."""
        named = {
            "reported_mean": self.avg_ns,
            "reported_median": self.median_ns,
            "reported_min": self.min_ns,
            "reported_max": self.max_ns,
            "reported_p5": self.p5_ns,
            "reported_p95": self.p95_ns,
        }
        return {name: value for name, value in named.items() if value is not None}

    def problem(self) -> str | None:
        """Return why the numbers cannot be one run's; None if they are consistent."""
        values = {
            "avg": self.avg_ns,
            "median": self.median_ns,
            "min": self.min_ns,
            "max": self.max_ns,
            "init": self.init_ns,
            "first": self.first_ns,
        }
        for name, value in values.items():
            if value is not None and not (math.isfinite(value) and value >= 0):
                return f"{name} is {value}"
        if self.runs < 1:
            return f"it counts {self.runs} runs"
        low, high = self.min_ns, self.max_ns
        for name in ("avg", "median"):
            value = values[name]
            if value is None:
                continue
            # The minimum and the maximum are whole microseconds, and the file has 32-bit floats.
            slack = NS_PER_US + 1e-5 * value
            if low is not None and value < low - slack:
                return f"{name} is below min"
            if high is not None and value > high + slack:
                return f"{name} is above max"
        return None
