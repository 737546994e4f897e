"""Quantiles of a run's samples: one query, cached in the run's folder, rebuilt when stale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness import stats
from harness.errors import StoreError
from harness.store import StoredRun
from harness.store.codec import decode, dump, encode, load
from harness.store.journal import appearing
from harness.store.read import QUANTILES, StoredLaunches

FORMULA = 1
"""Version of what is computed here; a cache with another one is not used."""

_LAUNCHES = """
    SELECT launch, count(*), quantile_cont(value, [0.25, 0.5, 0.9, 0.99])
    FROM samples WHERE kind = 'timed' AND series = 'latency' GROUP BY launch
"""
_POOLED = """
    SELECT cell, count(*), quantile_cont(value, [0.9, 0.99])
    FROM samples WHERE kind = 'timed' AND series = 'latency' AND "count" = 1 GROUP BY cell
"""
_PEAKS = """
    SELECT launch, max(value) FROM samples
    WHERE kind IN ('memory', 'bare') AND series = 'peak_rss' GROUP BY launch
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchQuantiles:
    """Latency of one timed launch, ns an inference."""

    samples: int
    p25: float
    p50: float
    p90: float
    p99: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """Latency over the samples of a cell that are one inference each, ns."""

    samples: int
    p90: float | None
    """None under the least count (36)."""
    p99: float | None
    """None under the least count (368)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """Everything rows need of the samples."""

    launches: Mapping[str, LaunchQuantiles] = field(default_factory=dict)
    """By launch id."""
    pooled: Mapping[str, Pooled] = field(default_factory=dict)
    """By cell id."""
    peak_rss_bytes: Mapping[str, float] = field(default_factory=dict)
    """By launch id, of memory and bare launches."""


def quantiles(run: StoredRun, launches: StoredLaunches) -> Quantiles:
    """Return the run's quantiles, from the cache where it was made from these very launches.

    Raises StoreError where a samples file is damaged.
    """
    cached = _cached(run, launches)
    if cached is not None:
        return cached
    made = compute(run)
    plain = {"formula": FORMULA, "journal_bytes": launches.size_bytes, "quantiles": dump(made)}
    try:
        with appearing(run.path / QUANTILES) as part:
            part.write_text(encode(plain), encoding="utf-8")
    except StoreError:
        # A run on a read-only disk is read all the same, only not as fast.
        return made
    return made


def compute(run: StoredRun) -> Quantiles:
    """Compute from the samples, in DuckDB (quantiles of type 7, as :func:`stats.quantile`)."""
    return Quantiles(
        launches={
            launch: LaunchQuantiles(samples=count, p25=q[0], p50=q[1], p90=q[2], p99=q[3])
            for launch, count, q in run.ask(_LAUNCHES)
        },
        pooled={
            cell: Pooled(
                samples=count,
                p90=q[0] if count >= stats.least_count(0.9) else None,
                p99=q[1] if count >= stats.least_count(0.99) else None,
            )
            for cell, count, q in run.ask(_POOLED)
        },
        peak_rss_bytes=dict(run.ask(_PEAKS)),
    )


def _cached(run: StoredRun, launches: StoredLaunches) -> Quantiles | None:
    try:
        plain: Any = decode((run.path / QUANTILES).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(plain, dict) or plain.get("formula") != FORMULA:
        return None
    if plain.get("journal_bytes") != launches.size_bytes:
        return None
    try:
        return load(Quantiles, plain.get("quantiles"))
    except StoreError:
        return None
