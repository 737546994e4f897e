"""The source of each column: a function that computes its value for one cell of a run.

`SOURCES` has a function for every column of :mod:`harness.columns`. `PER_LAUNCH` has one for each
column with one value per launch. A function is called only for the rows that the column's `known`
selects, so it does not check the status.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from typing import Any

from harness import columns, stats
from harness.devices.delegation import CPU_TARGETS, DelegationVerdict, Timing, judge
from harness.errors import Inaccurate
from harness.records.store import continuing
from harness.records.table import trust_columns
from harness.records.table.measured import Measured, cpu_place, of_kind, recipe_of
from harness.records.table.row import DAMAGED, PENDING
from harness.stats import Interval
from harness.types import Cell, Failure, Launch, Variant

STEADY_DRIFT = 0.02
"""A launch is flagged `drift` if its |ln(last third / first third)| is above this."""


class CellReading:
    """One cell of a run, and the values that several columns need, each computed once."""

    def __init__(self, measured: Measured, cell: Cell) -> None:
        """Take a cell; if it has an outcome, use the cell as it was measured."""
        self.measured = measured
        self.outcome = measured.outcomes.get(cell.id)
        self.cell = self.outcome.cell if self.outcome else cell
        self.launches = self.outcome.launches if self.outcome else ()

    @property
    def variant(self) -> Variant | None:
        """The variant; None if it could not be built."""
        return self.cell.variant if isinstance(self.cell.variant, Variant) else None

    @property
    def failure(self) -> Failure | None:
        """The failure of the outcome; None if there is no failure or no outcome."""
        return self.outcome.failure if self.outcome else None

    @property
    def damage(self) -> str | None:
        """What the stored row lacks; None if it is whole."""
        return self.measured.damage.cells.get(self.cell.id)

    @property
    def continued_as(self) -> str | None:
        """The device that was measured in place of this cell's, if the cell has no outcome."""
        return self.measured.continued.get(self.cell.id)

    @property
    def answered(self) -> bool:
        """Whether there are launches to read."""
        return self.outcome is not None and self.outcome.failure is None

    @property
    def refused_for_accuracy(self) -> bool:
        """Whether the row failed because the file lost too much accuracy on the host."""
        return self.failure is not None and (
            self.failure.kind == Inaccurate.kind and self.cell.lost_accuracy is not None
        )

    @cached_property
    def status(self) -> str:
        """`ok`, `partial`, `pending`, `damaged`, or the kind of failure."""
        if self.damage is not None:
            return DAMAGED
        if self.outcome is None:
            return PENDING
        if self.failure is not None:
            return self.failure.kind
        return self.verdict.status if self.verdict else "ok"

    @cached_property
    def verdict(self) -> DelegationVerdict | None:
        """The verdict whether the target ran the model (harness.devices.delegation)."""
        if self.outcome is None or self.outcome.failure is not None:
            return None
        timing = _timing(self.measured, self.cell)
        outcome = self.outcome
        return judge(self.cell, self.launches, timing, outcome.agreement, outcome.selfcheck)

    @cached_property
    def timed(self) -> list[Launch]:
        """The timed launches, ordered by block."""
        return of_kind(self.launches, "timed")

    @cached_property
    def delegating(self) -> list[Launch]:
        """The launches whose delegation counts: the timed and the memory launches."""
        return [*self.timed, *of_kind(self.launches, "memory")]

    @cached_property
    def medians(self) -> list[float]:
        """The medians of the timed launches, ns."""
        return self.measured.medians(self.cell.id)

    @cached_property
    def interval(self) -> Interval | None:
        """The median of the launches' medians and its interval, ns; None under 3 launches."""
        medians = self.medians
        return stats.median_interval(medians) if medians and min(medians) > 0 else None

    @cached_property
    def peak_bytes(self) -> float | None:
        """The median peak of the memory launches."""
        peaks = self.measured.quantiles.peak_rss_bytes
        return _median(peaks.get(launch.id) for launch in of_kind(self.launches, "memory"))


Source = Callable[[CellReading], Any]


def _never(reading: CellReading) -> None:
    """Return None; the harness does not measure this column yet."""
    del reading


def _of_variant(name: str) -> Source:
    return lambda reading: getattr(reading.variant, name, None)


def _of_cell(name: str) -> Source:
    return lambda reading: getattr(reading.cell, name)


def _of_verdict(name: str) -> Source:
    return lambda reading: getattr(reading.verdict.delegation, name) if reading.verdict else None


def _reason(reading: CellReading) -> str | None:
    if reading.damage is not None:
        record = reading.measured.run.record
        command = continuing.command(record.id, record.kind, record.call)
        again = f", or measure the row again: `{command}`" if command else ""
        return f"{reading.damage}; restore run {record.id} from a copy{again}"
    if reading.outcome is None:
        run = reading.measured.run
        options = continuing.results_option(run.path.parent)
        command = continuing.command(run.id, run.record.kind, run.record.call, options)
        if reading.continued_as is not None:
            way = f"; `{command}` on the device as it was measures it" if command else ""
            return (
                f"not measured on {reading.cell.device} as it was: the run continued as "
                f"{reading.continued_as}{way}"
            )
        way = f"; `{command}` continues it" if command else ""
        return f"not measured yet: the run is in progress, or was interrupted{way}"
    if reading.failure is not None:
        return reading.failure.reason
    return reading.verdict.reason if reading.verdict and reading.status != "ok" else None


def _runtime(reading: CellReading) -> str | None:
    return _joined(launch.runtime for launch in reading.launches)


def _delegate(reading: CellReading) -> str | None:
    if reading.verdict is None:
        return None
    return _joined(launch.delegation.delegate for launch in reading.delegating)


def _evidence(reading: CellReading) -> str | None:
    if reading.verdict is None:
        return None
    worst = reading.verdict.delegation
    parts = (worst.evidence, worst.library and f"library {worst.library}")
    return "; ".join(filter(None, parts)) or None


def _adapter(reading: CellReading) -> str | None:
    if reading.verdict is None:
        return None
    return _joined(
        ", ".join(filter(None, (one.name, one.type, one.driver, launch.delegation.settings)))
        for launch in reading.delegating
        for one in [launch.delegation.adapter]
        if one is not None
    )


def _latency_p50(reading: CellReading) -> float | None:
    medians = reading.medians
    return _in_unit("latency_p50_ms", stats.median(medians) if medians else None)


def _latency_low(reading: CellReading) -> float | None:
    return _in_unit("latency_p50_low_ms", reading.interval.low if reading.interval else None)


def _latency_high(reading: CellReading) -> float | None:
    return _in_unit("latency_p50_high_ms", reading.interval.high if reading.interval else None)


def _latency_p90(reading: CellReading) -> float | None:
    pooled = reading.measured.quantiles.pooled.get(reading.cell.id)
    return _in_unit("latency_p90_ms", pooled.p90 if pooled else None)


def _latency_p99(reading: CellReading) -> float | None:
    pooled = reading.measured.quantiles.pooled.get(reading.cell.id)
    return _in_unit("latency_p99_ms", pooled.p99 if pooled else None)


def _load(reading: CellReading) -> float | None:
    return _in_unit("load_ms", _median(launch.load_ns for launch in reading.timed))


def _first(reading: CellReading) -> float | None:
    return _in_unit("first_ms", _median(launch.first_ns for launch in reading.timed))


def _inferences(reading: CellReading) -> int | None:
    timed = reading.timed
    return sum(launch.inferences for launch in timed) if timed else None


def _peak_rss(reading: CellReading) -> float | None:
    return _in_unit("peak_rss_mb", reading.peak_bytes)


def _model_memory(reading: CellReading) -> float | None:
    """Return the peak minus that of launches without a model on the same device and runtime."""
    peak, cell = reading.peak_bytes, reading.cell
    if peak is None:
        return None
    place = (cell.device, cell.threads)
    runtimes = {launch.runtime for launch in of_kind(reading.launches, "memory")}
    bare = reading.measured.bare_peak(place, frozenset(runtimes))
    return _in_unit("model_memory_mb", None if bare is None else peak - bare)


def _accuracy_source(reading: CellReading) -> str | None:
    return "host" if reading.variant and reading.variant.accuracy is not None else None


def _temperature(reading: CellReading) -> float | None:
    return max(
        (
            covariates.temperature_c
            for launch in reading.timed
            for covariates in (launch.before, launch.after)
            if covariates.temperature_c is not None
        ),
        default=None,
    )


def _flags(reading: CellReading) -> list[str]:
    cell, variant = reading.cell, reading.variant
    found = set(cell.flags)
    if variant is not None:
        found |= set(variant.flags)
        if variant.compiled is not None and variant.compiled.off_chip_bytes:
            found.add("off_chip")
    for launch in reading.measured.launches.get(cell.id, ()):
        if launch.kind not in ("bare", "cpu"):
            found |= set(launch.flags)
            if launch.summary:
                found.add(f"summary_{launch.summary}")
        if launch.kind == "timed":
            found |= _flags_of_timed(launch)
    if not reading.measured.is_checked:
        found.add("unchecked")
    suspect = reading.verdict is not None and reading.verdict.validity == "SUSPECT"
    if suspect and "no_xnnpack" not in found:
        found.add("suspect")
    return sorted(found)


def _flags_of_timed(launch: Launch) -> set[str]:
    found = set()
    if launch.warmup is not None and not launch.warmup.steady:
        found.add("unsteady")
    if launch.drift is not None and abs(launch.drift) > STEADY_DRIFT:
        found.add("drift")
    return found


def _scenario(reading: CellReading) -> str:
    return reading.cell.dose.scenario


def _throughput(reading: CellReading) -> float | None:
    if reading.cell.dose.scenario != "offline":
        return None
    known = reading.measured.quantiles.launches
    return _median(known[one.id].per_second for one in reading.timed if one.id in known)


def _missed(reading: CellReading) -> int | None:
    if reading.cell.dose.scenario != "stream":
        return None
    missed = [one.missed_deadlines for one in reading.timed if one.missed_deadlines is not None]
    return sum(missed) if missed else None


def _sustained(reading: CellReading) -> float | None:
    if reading.cell.dose.scenario != "sustained":
        return None
    ratios = reading.measured.quantiles.sustained_ratio
    return _median(ratios.get(one.id) for one in reading.timed)


SOURCES: dict[str, Source] = {
    "run": lambda reading: reading.measured.run.id,
    "model": _of_cell("model"),
    "recipe": _of_cell("recipe"),
    "variant": _of_variant("digest"),
    "target": _of_cell("target"),
    "device": _of_cell("device"),
    "threads": _of_cell("threads"),
    "runtime": _runtime,
    "delegate": _delegate,
    "status": lambda reading: reading.status,
    "reason": _reason,
    "latency_p50_ms": _latency_p50,
    "latency_p50_low_ms": _latency_low,
    "latency_p50_high_ms": _latency_high,
    "latency_p90_ms": _latency_p90,
    "latency_p99_ms": _latency_p99,
    "load_ms": _load,
    "first_ms": _first,
    "launches": lambda reading: len(reading.timed) or None,
    "inferences": _inferences,
    "peak_rss_mb": _peak_rss,
    "model_memory_mb": _model_memory,
    "size_bytes": _of_variant("size_bytes"),
    "size_zstd_bytes": _of_variant("size_zstd_bytes"),
    "delegated_ops": _of_verdict("delegated_ops"),
    "total_ops": _of_verdict("total_ops"),
    "partitions": _of_verdict("partitions"),
    "evidence": _evidence,
    "accuracy": _of_variant("accuracy"),
    "accuracy_source": _accuracy_source,
    "accuracy_host": _of_variant("accuracy"),
    "energy_mj": _never,
    "energy_low_mj": _never,
    "energy_high_mj": _never,
    "energy_source": _never,
    "ticks": _never,
    "arena_bytes": _never,
    "flash_bytes": _never,
    "ram_bytes": _never,
    "temperature_max_c": _temperature,
    "flags": _flags,
    "scenario": _scenario,
    "throughput_per_s": _throughput,
    "missed_deadlines": _missed,
    "sustained_ratio": _sustained,
    "verdict": trust_columns.verdict,
    "verdict_reason": trust_columns.verdict_reason,
    "agreement": trust_columns.agreement,
    "output_error": trust_columns.output_error,
    "conditions": trust_columns.conditions,
    "cache": _of_cell("cache"),
    "adapter": _adapter,
}
"""The function of every column, by its name."""


def _peaks(reading: CellReading) -> list[float | None]:
    peaks = reading.measured.quantiles.peak_rss_bytes
    return [peaks.get(launch.id) for launch in reading.launches if launch.kind == "memory"]


PER_LAUNCH: dict[str, Callable[[CellReading], list[float | None]]] = {
    "latency_p50_ms": lambda reading: [*reading.medians],
    "load_ms": lambda reading: [launch.load_ns for launch in reading.timed],
    "first_ms": lambda reading: [launch.first_ns for launch in reading.timed],
    "peak_rss_mb": _peaks,
}
"""The values per launch, in base units (ns, bytes), of the columns whose noise is `launches`."""


def _in_unit(column: str, value: float | None) -> float | None:
    """Convert a value in base units to the column's unit."""
    return None if value is None else value / columns.get(column).scale


def _timing(measured: Measured, cell: Cell) -> Timing | None:
    """Return the time of the cell and the best comparable time on the CPU in this run.

    In order of preference: a launch of the same file on the CPU, a row of the same file, a row of
    the same recipe for the CPU, a row of the recipe without the compiler's step.
    """
    if cell.target in CPU_TARGETS or not isinstance(cell.variant, Variant):
        return None
    own = measured.medians(cell.id)
    if not own:
        return None
    return Timing(own=stats.median(own), cpu=_cpu_time(measured, cell, cell.variant))


def _cpu_time(measured: Measured, cell: Cell, variant: Variant) -> float | None:
    """Return the best comparable time on the CPU, ns; None if the run has none."""
    known = measured.quantiles.launches
    beside = [one.id for one in measured.launches.get(cell.id, ()) if one.kind == "cpu"]
    if beside and beside[-1] in known:
        return known[beside[-1]].p50
    rows = measured.cpu_rows.get(cpu_place(cell))
    if rows is None:
        return None
    if variant.digest in rows.by_digest:
        return rows.by_digest[variant.digest]
    written = recipe_of(cell)
    before = written.rpartition(">")[0].strip()
    # A recipe with only the compiler's step compiled the model's own file.
    chains = (written, before or ("as_is" if variant.compiled else ""))
    return next((rows.by_recipe[one] for one in chains if one in rows.by_recipe), None)


def _median(values: Iterable[float | None]) -> float | None:
    present = [value for value in values if value is not None]
    return stats.median(present) if present else None


def _joined(values: Iterable[str]) -> str | None:
    return ", ".join(dict.fromkeys(values)) or None
