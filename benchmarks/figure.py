"""A figure the project promises, and the interval arithmetic the figures share."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One promise, measured: what came out, what was promised, what it was compared with."""

    name: str
    value: float
    unit: str
    bound: str
    holds: bool
    against: str
    """What was measured beside it in the same run, with its number."""
    detail: str = ""

    def line(self) -> str:
        verdict = "PASS" if self.holds else "MISS"
        value = f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:.4g}"
        text = (
            f"{verdict}  {self.name:<30} {value:>8} {self.unit:<3} "
            f"bound {self.bound:<21} against {self.against}"
        )
        return f"{text}  ({self.detail})" if self.detail else text


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A ratio of paired measurements with its two-sided 95 % t interval, on the logs."""

    value: float
    low: float
    high: float
    pairs: int

    @property
    def half_width(self) -> float:
        return (self.high - self.low) / (2 * self.value)


def paired_ratio(ours: Sequence[float], theirs: Sequence[float]) -> Ratio:
    """Ratio of the pairs `ours[i] / theirs[i]`; needs three pairs or more."""
    from scipy.stats import t

    logs = [math.log(a / b) for a, b in zip(ours, theirs, strict=True)]
    mean = statistics.fmean(logs)
    half = float(t.ppf(0.975, len(logs) - 1)) * statistics.stdev(logs) / math.sqrt(len(logs))
    return Ratio(
        value=math.exp(mean),
        low=math.exp(mean - half),
        high=math.exp(mean + half),
        pairs=len(logs),
    )
