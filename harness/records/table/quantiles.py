"""Quantiles of a run's samples: one query, cached in the run's folder, rebuilt when stale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from harness import decoding, stats
from harness.errors import StoreError
from harness.records.store import StoredRun, checksums
from harness.records.store.codec import dump, load
from harness.records.store.journal import appearing, scope
from harness.records.store.layout import QUANTILES
from harness.records.store.read import StoredLaunches

FORMULA = 4
"""The version of the formulas; a cache with another version is not used."""

_LAUNCHES = """
    SELECT launch, count(*), quantile_cont(value, [0.25, 0.5, 0.9, 0.99]),
        1e9 * sum("count") / nullif(sum(value * "count"), 0)
    FROM samples WHERE kind IN ('timed', 'cpu') AND series = 'latency' GROUP BY launch
"""
_POOLED = """
    SELECT cell, count(*), quantile_cont(value, [0.9, 0.99])
    FROM samples WHERE kind = 'timed' AND series = 'latency' AND "count" = 1 GROUP BY cell
"""
_SUSTAINED_CELLS = """
    (SELECT launch, at_ns, value, min(at_ns) OVER l AS first, max(at_ns) OVER l AS last
    FROM samples WHERE kind = 'timed' AND series = 'latency' AND cell IN ({cells})
    WINDOW l AS (PARTITION BY launch))
"""
_MINUTES = f"""
    SELECT launch, (at_ns - first) // 60000000000 AS minute, median(value)
    FROM {_SUSTAINED_CELLS} GROUP BY launch, minute ORDER BY launch, minute
"""  # noqa: S608 - a constant
_RATIOS = f"""
    SELECT launch, median(value) FILTER (WHERE at_ns >= last - width)
        / nullif(median(value) FILTER (WHERE at_ns <= first + width), 0)
    FROM (SELECT *, least(60000000000, (last - first) / 2) AS width FROM {_SUSTAINED_CELLS})
    GROUP BY launch
"""  # noqa: S608 - a constant
_PEAKS = """
    SELECT launch, max(value) FROM samples
    WHERE kind IN ('memory', 'bare') AND series = 'peak_rss' GROUP BY launch
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchQuantiles:
    """Latency of one timed launch, or of an accelerator's file on the CPU, ns per inference."""

    samples: int
    p25: float
    p50: float
    p90: float
    p99: float
    per_second: float | None = None
    """Inferences per second; None if the clock read only zeros."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooled:
    """Latency over the samples of a cell that average one inference, ns."""

    samples: int
    p90: float | None
    """None under 36 samples."""
    p99: float | None
    """None under 368 samples."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantiles:
    """All values that rows need from the samples."""

    launches: Mapping[str, LaunchQuantiles] = field(default_factory=dict)
    """By launch id."""
    pooled: Mapping[str, Pooled] = field(default_factory=dict)
    """By cell id."""
    peak_rss_bytes: Mapping[str, float] = field(default_factory=dict)
    """The peak of each memory and bare launch, by launch id."""
    sustained_ratio: Mapping[str, float] = field(default_factory=dict)
    """p50 of the last minute over that of the first, by id of the sustained launch."""
    minutes: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    """p50 of each minute, ns, by id of the sustained launch."""


def quantiles(run: StoredRun, launches: StoredLaunches) -> Quantiles:
    """Return the run's quantiles, from the cache if it was made from exactly these launches.

    A damaged cache is made again. Raises StoreError if a samples file cannot be read.
    """
    with decoding.many_objects():
        cached = _cached(run, launches)
    if cached is not None:
        return cached
    made = compute(run, launches)
    plain = {"formula": FORMULA, "launches_sha256": launches.digest, "quantiles": dump(made)}
    try:
        with appearing(run.path / QUANTILES) as part:
            part.write_text(checksums.summed(plain, _scope(run)), encoding="utf-8")
    except StoreError:
        # On a read-only disk the run is readable without a cache, only slower.
        return made
    return made


def compute(run: StoredRun, stored: StoredLaunches) -> Quantiles:
    """Compute from the samples, in DuckDB (quantiles of type 7, as :func:`stats.quantile`)."""
    # A cell's id is hexadecimal, so it needs no quoting.
    sustained = ", ".join(
        f"'{cell.id}'" for cell in run.record.cells if cell.dose.scenario == "sustained"
    )
    of_sustained = [one.format(cells=sustained) for one in (_RATIOS, _MINUTES) if sustained]
    found = run.queries([_LAUNCHES, _POOLED, _PEAKS, *of_sustained], stored)
    launches, pooled, peaks, ratios, minutes = [*found, [], []][:5]
    least_p90, least_p99 = stats.least_count(0.9), stats.least_count(0.99)
    by_launch: dict[str, list[float]] = {}
    for launch, _, median in minutes:
        by_launch.setdefault(launch, []).append(median)
    return Quantiles(
        launches={
            launch: LaunchQuantiles(
                samples=count, p25=q[0], p50=q[1], p90=q[2], p99=q[3], per_second=rate
            )
            for launch, count, q, rate in launches
        },
        pooled={
            cell: Pooled(
                samples=count,
                p90=q[0] if count >= least_p90 else None,
                p99=q[1] if count >= least_p99 else None,
            )
            for cell, count, q in pooled
        },
        peak_rss_bytes=dict(peaks),
        sustained_ratio={launch: ratio for launch, ratio in ratios if ratio is not None},
        minutes={launch: tuple(medians) for launch, medians in by_launch.items()},
    )


def _cached(run: StoredRun, launches: StoredLaunches) -> Quantiles | None:
    try:
        plain: Any = checksums.read_document(run.path / QUANTILES, _scope(run), needed=True)
    except (OSError, ValueError):
        return None
    if not isinstance(plain, dict) or plain.get("formula") != FORMULA:
        return None
    if plain.get("launches_sha256") != launches.digest:
        return None
    try:
        return load(Quantiles, plain.get("quantiles"))
    except StoreError:
        return None


def _scope(run: StoredRun) -> str:
    return scope(run.record.key, QUANTILES)
