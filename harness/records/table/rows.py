"""Records to rows: the columns of INTERFACE's "A row", computed when they are read.

A row that failed or is not measured yet has nulls where a measurement would be, never zeros.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import stats
from harness.devices.delegation import CPU_TARGETS, Timing, judge
from harness.records.store import StoredRun
from harness.records.table.quantiles import Quantiles, quantiles
from harness.types import Cell, Failure, Launch, Outcome, Scenario, Variant

Row = dict[str, Any]

COLUMNS = (
    *("run", "model", "recipe", "variant", "target", "device", "threads", "runtime", "delegate"),
    *("status", "reason", "latency_p50_ms", "latency_p50_low_ms", "latency_p50_high_ms"),
    *("latency_p90_ms", "latency_p99_ms", "load_ms", "first_ms", "launches", "inferences"),
    *("peak_rss_mb", "model_memory_mb", "size_bytes", "size_zstd_bytes", "delegated_ops"),
    *("total_ops", "partitions", "evidence", "accuracy", "accuracy_source", "accuracy_host"),
    *("energy_mj", "energy_low_mj", "energy_high_mj", "energy_source", "ticks", "arena_bytes"),
    *("flash_bytes", "ram_bytes", "temperature_max_c", "flags"),
    *("scenario", "throughput_per_s", "missed_deadlines", "sustained_ratio"),
    *("verdict", "verdict_reason", "adapter"),
)
"""Of every row, in this order; units are in the names, MB is 10^6 bytes."""

PENDING = "pending"
MEASURED = ("ok", "partial")
"""The statuses that have numbers."""

STEADY_DRIFT = 0.02
"""|ln(last third / first third)| of a launch above this is flagged `drift`."""

_NS_PER_MS = 1e6
_BYTES_PER_MB = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A run read once: what rows, comparisons and pages are made of."""

    run: StoredRun
    outcomes: Mapping[str, Outcome]
    """By cell id."""
    launches: Mapping[str, tuple[Launch, ...]]
    """By cell id; also those of cells without an outcome."""
    quantiles: Quantiles

    def medians(self, cell_id: str) -> list[float]:
        """Return the medians of a measured cell's timed launches, ns, in order of the blocks."""
        outcome = self.outcomes.get(cell_id)
        timed = _of_kind(outcome.launches, "timed") if outcome else []
        known = self.quantiles.launches
        return [known[launch.id].p50 for launch in timed if launch.id in known]


def read(run: StoredRun) -> Measured:
    """Read a run's journals and quantiles; raises StoreError where samples are damaged."""
    stored = run.stored_launches()
    by_cell: dict[str, list[Launch]] = {}
    for launch in stored.by_id.values():
        by_cell.setdefault(launch.cell_id, []).append(launch)
    return Measured(
        run=run,
        outcomes={outcome.cell.id: outcome for outcome in run.outcomes(stored)},
        launches={cell: tuple(launches) for cell, launches in by_cell.items()},
        quantiles=quantiles(run, stored),
    )


def rows(run: StoredRun) -> list[Row]:
    """Return one row for every cell of the run, in the plan's order, with exactly COLUMNS."""
    return rows_of(read(run))


def rows_of(measured: Measured) -> list[Row]:
    """Return the rows of a run that was read already."""
    return [_row(measured, cell) for cell in measured.run.record.cells]


def _row(measured: Measured, cell: Cell) -> Row:
    outcome = measured.outcomes.get(cell.id)
    # The outcome's cell is the cell as it was measured.
    cell = outcome.cell if outcome else cell
    row: Row = dict.fromkeys(COLUMNS)
    row |= {
        "run": measured.run.id,
        "model": cell.model,
        "recipe": cell.recipe,
        "target": cell.target,
        "device": cell.device,
        "threads": cell.threads,
        "flags": _flags(cell, measured.launches.get(cell.id, ())),
        "scenario": cell.dose.scenario,
    }
    if isinstance(cell.variant, Variant):
        row |= _variant_part(cell.variant)
    if outcome is None:
        row["status"] = PENDING
        row["reason"] = (
            f"not measured yet: the run is going on, or was cut short and goes on with "
            f"--resume {measured.run.id}"
        )
        return row
    if outcome.failure is not None:
        return row | _failed_part(cell, outcome.failure)
    row |= _delegation_part(measured, cell, outcome)
    if row["verdict"] == "SUSPECT" and cell.target not in CPU_TARGETS:
        row["flags"] = sorted({*row["flags"], "suspect"})
    if row["status"] in MEASURED:
        row |= _latency_part(measured, cell.id, outcome.launches)
        row |= _scenario_part(measured.quantiles, cell.dose.scenario, outcome.launches)
        row |= _memory_part(measured, cell, outcome.launches)
        if isinstance(cell.variant, Variant) and cell.variant.accuracy is not None:
            row |= {"accuracy": cell.variant.accuracy, "accuracy_source": "host"}
    return row


def _variant_part(variant: Variant) -> Row:
    """What is known of the file itself, whatever became of it on the device."""
    return {
        "variant": variant.digest,
        "size_bytes": variant.size_bytes,
        "size_zstd_bytes": variant.size_zstd_bytes,
        "accuracy_host": variant.accuracy,
    }


def _failed_part(cell: Cell, failure: Failure) -> Row:
    """Of an accelerator that was asked for, no number is the accelerator's; of a CPU nothing follows."""
    part: Row = {"status": failure.kind, "reason": failure.reason}
    if cell.target not in CPU_TARGETS:
        part |= {"verdict": "INVALID", "verdict_reason": failure.reason}
    return part


def _delegation_part(measured: Measured, cell: Cell, outcome: Outcome) -> Row:
    """Say what ran where, and whether the number is the target's (harness.devices.delegation)."""
    launches = outcome.launches
    part: Row = {"status": "ok", "runtime": _words(launch.runtime for launch in launches)}
    verdict = judge(cell, launches, _timing(measured, cell), outcome.agreement)
    if verdict is None:
        return part
    told = [*_of_kind(launches, "timed"), *_of_kind(launches, "memory")]
    worst = verdict.delegation
    part |= {
        "delegate": _words(launch.delegation.delegate for launch in told),
        "delegated_ops": worst.delegated_ops,
        "total_ops": worst.total_ops,
        "partitions": worst.partitions,
        "evidence": "; ".join(
            filter(None, (worst.evidence, worst.library and f"library {worst.library}"))
        )
        or None,
        "adapter": _words(
            ", ".join(filter(None, (one.name, one.type, one.driver, launch.delegation.settings)))
            for launch in told
            for one in [launch.delegation.adapter]
            if one is not None
        ),
        "status": verdict.status,
        "verdict": verdict.word,
        "verdict_reason": verdict.reason,
    }
    return part if verdict.status == "ok" else part | {"reason": verdict.reason}


def _timing(measured: Measured, cell: Cell) -> Timing | None:
    """Find the time of the cell and that of the same model on the same CPU in this run.

    The launch of this very file on the CPU is the best companion, then a row of the same file, of the
    same recipe for the CPU, of the recipe before a compiler's step.
    """
    if cell.target in CPU_TARGETS or not isinstance(cell.variant, Variant):
        return None
    own = measured.medians(cell.id)
    written = cell.recipe.partition("@")[0].strip()
    before = written.rpartition(">")[0].strip()
    # A compiler's step alone took the model's own file.
    chains = (written, before or ("as_is" if cell.variant.compiled else ""))
    found: dict[int, float] = {}
    known = measured.quantiles.launches
    beside = [one.id for one in measured.launches.get(cell.id, ()) if one.kind == "cpu"]
    if beside and beside[-1] in known:
        found[-1] = known[beside[-1]].p50
    for other in measured.run.record.cells:
        place = (other.model, other.device, other.threads, other.dose.scenario)
        if place != (cell.model, cell.device, cell.threads, cell.dose.scenario):
            continue
        medians = measured.medians(other.id) if other.target in CPU_TARGETS else []
        if not medians or not isinstance(other.variant, Variant):
            continue
        recipe = other.recipe.partition("@")[0].strip()
        if other.variant.digest == cell.variant.digest:
            found[0] = stats.median(medians)
        elif recipe in chains:
            found[1 + chains.index(recipe)] = stats.median(medians)
    if not own:
        return None
    return Timing(own=stats.median(own), cpu=found[min(found)] if found else None)


def _latency_part(measured: Measured, cell_id: str, launches: Sequence[Launch]) -> Row:
    timed = _of_kind(launches, "timed")
    medians = measured.medians(cell_id)
    interval = stats.geometric_interval(medians) if medians and min(medians) > 0 else None
    pooled = measured.quantiles.pooled.get(cell_id)
    return {
        "latency_p50_ms": _scaled(stats.median(medians) if medians else None, _NS_PER_MS),
        "latency_p50_low_ms": _scaled(interval.low if interval else None, _NS_PER_MS),
        "latency_p50_high_ms": _scaled(interval.high if interval else None, _NS_PER_MS),
        "latency_p90_ms": _scaled(pooled.p90 if pooled else None, _NS_PER_MS),
        "latency_p99_ms": _scaled(pooled.p99 if pooled else None, _NS_PER_MS),
        "load_ms": _scaled(_median(launch.load_ns for launch in timed), _NS_PER_MS),
        "first_ms": _scaled(_median(launch.first_ns for launch in timed), _NS_PER_MS),
        "launches": len(timed) or None,
        "inferences": sum(launch.inferences for launch in timed) if timed else None,
        "temperature_max_c": max(
            (
                covariates.temperature_c
                for launch in timed
                for covariates in (launch.before, launch.after)
                if covariates.temperature_c is not None
            ),
            default=None,
        ),
    }


def _scenario_part(known: Quantiles, scenario: Scenario, launches: Sequence[Launch]) -> Row:
    """What only one scenario tells; the others' columns stay null."""
    timed = _of_kind(launches, "timed")
    if scenario == "offline":
        found = [known.launches[one.id] for one in timed if one.id in known.launches]
        return {"throughput_per_s": _median(one.per_second for one in found)}
    if scenario == "stream":
        missed = [one.missed_deadlines for one in timed if one.missed_deadlines is not None]
        return {"missed_deadlines": sum(missed) if missed else None}
    if scenario == "sustained":
        ratios = known.sustained_ratio
        return {"sustained_ratio": _median(ratios.get(one.id) for one in timed)}
    return {}


def _memory_part(measured: Measured, cell: Cell, launches: Sequence[Launch]) -> Row:
    """Peak of the memory launches, and what is left of it without a launch of no model at all."""
    peaks = measured.quantiles.peak_rss_bytes
    memory = _of_kind(launches, "memory")
    peak = _median(peaks.get(launch.id) for launch in memory)
    if peak is None:
        return {}
    runtimes = {launch.runtime for launch in memory}
    bare = _median(
        peaks.get(launch.id)
        for other in measured.run.record.cells
        if (other.device, other.threads) == (cell.device, cell.threads)
        for launch in _of_kind(measured.launches.get(other.id, ()), "bare")
        if launch.runtime in runtimes
    )
    return {
        "peak_rss_mb": peak / _BYTES_PER_MB,
        "model_memory_mb": None if bare is None else (peak - bare) / _BYTES_PER_MB,
    }


def _flags(cell: Cell, launches: Sequence[Launch]) -> list[str]:
    found = set(cell.flags)
    if not isinstance(cell.variant, Failure):
        found |= set(cell.variant.flags)
        if cell.variant.compiled is not None and cell.variant.compiled.off_chip_bytes:
            found.add("off_chip")
    for launch in launches:
        if launch.kind not in ("bare", "cpu"):
            found |= set(launch.flags)
            if launch.summary:
                found.add(f"summary_{launch.summary}")
        if launch.kind == "timed":
            if launch.warmup is not None and not launch.warmup.steady:
                found.add("unsteady")
            if launch.drift is not None and abs(launch.drift) > STEADY_DRIFT:
                found.add("drift")
    return sorted(found)


def _of_kind(launches: Iterable[Launch], kind: str) -> list[Launch]:
    return sorted(
        (launch for launch in launches if launch.kind == kind),
        key=lambda launch: (launch.block, launch.position),
    )


def _median(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return stats.median(present) if present else None


def _scaled(value: float | None, divisor: float) -> float | None:
    return None if value is None else value / divisor


def _words(values: Iterable[str]) -> str | None:
    return ", ".join(dict.fromkeys(values)) or None
