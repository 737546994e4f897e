"""A gate's contests, their evidence, and the rows computed from it.

A contest compares A with B: one model, one recipe per side, one device, one number of threads. Its
evidence is the launches of both sides in blocks; :func:`rows` computes the rows that verdicts.py
judges. Nothing here measures, so the same functions judge a stored gate again.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Literal

from harness import columns, stats
from harness.analysis.gate import budget
from harness.analysis.gate.budget import ContestPace
from harness.analysis.gate.findings import HOT, Accuracy, Comparison, Exact, Key, Row
from harness.analysis.gate.noise import DeviceNoise
from harness.devices.delegation import CPU_TARGETS, judge, outputs_doubt
from harness.measure.output_check import CheckedOutputs
from harness.measure.pairs import (
    FIRST_PAIRS,
    WANTED_HALF_WIDTH,
    Pair,
    discard_reason,
    log_differences,
    needs_more,
)
from harness.records.table.trust import INCLUDE, why_left_out
from harness.stats import paired
from harness.types import (
    Agreement,
    Cell,
    Dose,
    Failure,
    GateRules,
    Launch,
    Plan,
    SelfCheck,
    Variant,
)

LAUNCH_METRICS = ("latency", "load", "first")
"""Metrics that every timed launch gives."""

METRICS = tuple(columns.gate_metrics())
CONFIRMING = 10_000
"""Number of the first block of fresh pairs in a confirmation."""

SideName = Literal["baseline", "candidate"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules(GateRules):
    """The [gate] table of a plan, with the half-width of the stop rule."""

    half_width: float = WANTED_HALF_WIDTH
    include_suspect: bool = False
    """Whether sides whose verdict is SUSPECT are measured and judged too."""
    is_selftest: bool = False
    """Whether A is measured against itself: nothing is confirmed, and no plan has the budget."""

    @classmethod
    def of(cls, plan: Plan) -> Rules:
        """Return a plan's rules; raises ConfigError if the budget is too small for its launches."""
        rules = cls.from_table(plan.gate)
        budget.require_enough(
            plan, confirms=rules.confirms, confirms_memory="memory" in rules.metrics
        )
        return rules

    @classmethod
    def from_table(cls, rules: GateRules) -> Rules:
        """Return the rules of a [gate] table, with the default half-width."""
        given = {item.name: getattr(rules, item.name) for item in fields(GateRules)}
        return cls(**given)

    @property
    def timed_metrics(self) -> tuple[str, ...]:
        """The judged metrics of timed launches."""
        return tuple(metric for metric in LAUNCH_METRICS if metric in self.metrics)

    @property
    def confirms(self) -> bool:
        """Whether timed pairs may have to be confirmed."""
        return bool(self.timed_metrics) and not self.is_selftest

    @property
    def timed_pairs(self) -> int:
        """The largest number of first pairs of timed launches; 6 if they are only shown."""
        return self.max_pairs if self.timed_metrics else FIRST_PAIRS

    @property
    def memory_pairs(self) -> int:
        """Number of pairs of memory launches: enough to judge, or one to show."""
        return FIRST_PAIRS if "memory" in self.metrics else 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """A or B of a contest."""

    cell: Cell
    runtime: str | None = None
    """NAME=VERSION of the runtime to use; None takes the device's first."""

    @property
    def variant(self) -> Variant:
        """The file; a contest with a failed build is never measured."""
        assert isinstance(self.cell.variant, Variant)
        return self.cell.variant


@dataclass(frozen=True, slots=True, kw_only=True)
class Contest:
    """A comparison of A and B on one device."""

    key: Key
    a: Side
    b: Side
    stretch: bool = False
    """Whether the dose of slow inferences is stretched (blocks.stretched)."""

    @property
    def identical(self) -> bool:
        """Whether both sides are the same bytes in the same runtime."""
        return self.a.variant.digest == self.b.variant.digest and self.a.runtime == self.b.runtime

    @property
    def failure(self) -> Failure | None:
        """Why the contest cannot be measured: the failure of a side's build."""
        for side in (self.a, self.b):
            if isinstance(side.cell.variant, Failure):
                return side.cell.variant
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One launch of a contest and the values computed from its samples."""

    side: SideName
    launch: Launch
    """The launch without samples."""
    inferences: int = 0
    """Number of latency samples."""
    quantiles: Mapping[float, float] = field(default_factory=dict)
    """Latency in ns by the quantiles of paired.QUANTILES; empty if the launch has none."""
    peak_rss: float = math.nan
    """Peak memory of a memory launch, bytes."""

    @classmethod
    def of(cls, side: SideName, launch: Launch) -> Reading:
        """Compute the values of a launch from its samples."""
        values = {part.series: part.value for part in launch.samples}
        latency, peak = values.get("latency"), values.get("peak_rss")
        ordered = sorted(latency or ())
        return cls(
            side=side,
            launch=replace(launch, samples=()),
            inferences=len(ordered),
            quantiles={q: stats.quantile(ordered, q) for q in paired.QUANTILES if ordered},
            peak_rss=max(peak) if peak else math.nan,
        )

    def value(self, metric: str, quantile: float) -> float:
        """Return the launch's value of a metric; NaN if it has none."""
        if metric == "latency":
            return self.quantiles.get(quantile, math.nan)
        if metric == "memory":
            return self.peak_rss
        found = self.launch.load_ns if metric == "load" else self.launch.first_ns
        return math.nan if found is None else float(found)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """The measurements of a contest, complete or not."""

    contest: Contest
    readings: tuple[Reading, ...] = ()
    dose: Dose | None = None
    """The dose of its timed launches; None before the pilot."""
    cut_short: str | None = None
    """Why measuring ended early; the earlier readings are kept."""
    fresh_cut_short: str | None = None
    """Why measuring the fresh pairs ended early."""
    ended_early: str | None = None
    """Why the first pairs ended before the stop rule, though they may allow a verdict: the budget."""
    out_of_budget: float | None = None
    """The budget, s, that ended its pairs early; None if something else did, or nothing."""
    pace: ContestPace = field(default_factory=ContestPace)
    """How long its parts take."""
    seconds: float = 0.0
    """What it used of its budget of time, waits and earlier attempts included, soaking excluded."""
    failure: Failure | None = None
    """Why a side cannot be measured: refused, crashed, inaccurate."""
    away: str | None = None
    """Why the device could not be reached when the gate started."""
    pinned_mhz: float | None = None
    fixed_performance: bool = False
    """Measured in Android's fixed-performance mode."""
    hot: bool = False
    agreements: Mapping[str, Agreement] = field(default_factory=dict)
    """Agreements with the host by cell id."""
    noise: DeviceNoise | None = None
    """The device's selftest, as it was when the gate was judged first."""
    selfchecks: Mapping[str, SelfCheck] = field(default_factory=dict)
    """What outputs show by themselves, by cell id."""

    def launches(self, side: SideName) -> tuple[Launch, ...]:
        """Return a side's launches in the order of measurement."""
        return tuple(one.launch for one in self.readings if one.side == side)

    def with_check(self, cell: Cell, checked: CheckedOutputs) -> Evidence:
        """Add the check of a side's outputs."""
        made = self
        if checked.agreement is not None:
            made = replace(made, agreements={**made.agreements, cell.id: checked.agreement})
        if checked.selfcheck is not None:
            made = replace(made, selfchecks={**made.selfchecks, cell.id: checked.selfcheck})
        return made

    def check_of(self, cell: Cell) -> CheckedOutputs:
        """Return the check of a side's outputs, also if an earlier part of the gate made it."""
        return CheckedOutputs(
            agreement=self.agreements.get(cell.id), selfcheck=self.selfchecks.get(cell.id)
        )

    def flags(self) -> list[str]:
        """Return the flags of both sides and their launches."""
        found = {flag for one in self.readings for flag in one.launch.flags}
        for side in (self.contest.a, self.contest.b):
            found |= set(side.cell.flags) | set(side.variant.flags)
        return sorted(found)


def whole_blocks(readings: Iterable[Reading]) -> tuple[Reading, ...]:
    """Return the readings of blocks that have both sides."""
    found = tuple(readings)
    sides: dict[tuple[str, int], set[SideName]] = defaultdict(set)
    for one in found:
        sides[one.launch.kind, one.launch.block].add(one.side)
    return tuple(one for one in found if len(sides[one.launch.kind, one.launch.block]) > 1)


def unfit(cell: Cell, launch: Launch, *, include_suspect: bool = False) -> Failure | None:
    """Return why a launch must not be judged: its row would not be VALID.

    On an accelerator, `accept.min_delegated` allows operators on the CPU; `include_suspect` allows
    what is only suspect. On the CPU, both sides of a pair run without XNNPACK or their difference is
    what the gate is to find, so that is no reason.
    """
    if launch.kind != "timed" or cell.target in CPU_TARGETS:
        return None
    verdict = judge(cell, [launch])
    if verdict is None or not why_left_out(
        verdict.validity, verdict.reason, include_suspect=include_suspect
    ):
        return None
    if verdict.validity == "SUSPECT":
        return Failure(kind="suspect", reason=f"{cell.recipe}: {verdict.reason}; {INCLUDE}")
    way = "; accept.min_delegated allows it" if verdict.status == "partial" else ""
    return Failure(kind=verdict.status, reason=f"{cell.recipe}: {verdict.reason}{way}")


def doubted(evidence: Evidence, *, include_suspect: bool = False) -> Failure | None:
    """Return why a contest must not be judged for the outputs of a side; None if they are trusted."""
    for side in (evidence.contest.a, evidence.contest.b):
        reason = _doubt(evidence, side)
        if reason and why_left_out("SUSPECT", reason, include_suspect=include_suspect):
            return Failure(kind="suspect", reason=f"{side.cell.recipe}: {reason}; {INCLUDE}")
    return None


def left_out(evidence: Evidence, *, include_suspect: bool = False) -> Failure | None:
    """Return why a measured contest must not be judged, by its outputs and its launches."""
    cells = {"baseline": evidence.contest.a.cell, "candidate": evidence.contest.b.cell}
    found = [
        doubted(evidence, include_suspect=include_suspect),
        *(
            unfit(cells[one.side], one.launch, include_suspect=include_suspect)
            for one in evidence.readings
        ),
    ]
    return next((failure for failure in found if failure is not None), None)


def _doubt(evidence: Evidence, side: Side) -> str | None:
    cell_id = side.cell.id
    return outputs_doubt(
        side.cell, evidence.agreements.get(cell_id), evidence.selfchecks.get(cell_id)
    )


def quantile(readings: Iterable[Reading]) -> float:
    """Return the quantile that represents a launch, the same for both sides of a comparison."""
    timed = [one for one in readings if one.launch.kind == "timed" and one.quantiles]
    floor = paired.floor_quantile(min((one.inferences for one in timed), default=0))
    return paired.launch_quantile(
        [one.launch.cpu_share for one in timed],
        [
            one.quantiles[paired.HALF] / one.quantiles[floor]
            for one in timed
            if one.quantiles[floor]
        ],
        floor,
    )


def summaries(readings: Iterable[Reading]) -> list[str | None]:
    """Return the kinds of latency summaries in timed launches; None means every inference."""
    found = {one.launch.summary for one in readings if one.launch.kind == "timed"}
    return sorted(found, key=str)


def pairs(evidence: Evidence, metric: str, *, confirming: bool = False) -> tuple[Pair, ...]:
    """Return the pairs of a metric: the first ones, or the fresh ones if `confirming`.

    A block with only one launch is no pair. The covariates decide whether a block counts; they are
    compared with the device at the start of the contest (after a soak: at the plateau).
    """
    kind = "memory" if metric == "memory" else "timed"
    of_kind = [one for one in evidence.readings if one.launch.kind == kind]
    chosen = [one for one in of_kind if (one.launch.block >= CONFIRMING) == confirming]
    share = quantile(chosen)
    blocks: dict[int, list[Reading]] = defaultdict(list)
    for one in chosen:
        blocks[one.launch.block].append(one)
    start = of_kind[0].launch.before if of_kind else None
    made = []
    for number, block in sorted(blocks.items()):
        sides = {one.side: one for one in block}
        if len(sides) < 2:  # noqa: PLR2004 - a pair
            continue
        reason = discard_reason(
            [(one.launch.before, one.launch.after) for one in block],
            reference=start,
            pinned_mhz=evidence.pinned_mhz,
        )
        made.append(
            Pair(
                block=number,
                a=sides["baseline"].value(metric, share),
                b=sides["candidate"].value(metric, share),
                discarded=reason,
            )
        )
    return tuple(made)


def wants_more(evidence: Evidence, rules: Rules) -> bool:
    """Return whether the stop rule wants another first pair of timed launches."""
    return any(
        needs_more(
            pairs(evidence, metric),
            max_pairs=rules.timed_pairs,
            half_width=rules.half_width,
            margin=rules.margin,
        )
        for metric in rules.timed_metrics or ("latency",)
    )


def rows(evidence: Evidence, rules: Rules, *, accuracy: Row | None = None) -> list[Row]:
    """Return a row per metric of a contest, in the order of METRICS.

    `accuracy` is the row of the accuracy on the host, if there is evaluation data.
    """
    made: list[Row] = []
    for metric in METRICS:
        if metric == "size":
            made.append(size_row(evidence.contest))
        elif metric == "accuracy":
            made += [accuracy] if accuracy is not None else []
        else:
            row = comparison(evidence, metric)
            if row.pairs or metric in rules.metrics:
                made.append(row)
    return made


def comparison(evidence: Evidence, metric: str, *, confirming: bool = False) -> Comparison:
    """Return the row of a metric that is measured in pairs: the first ones, or the fresh ones.

    The device's noise concerns the first pairs of latency only.
    """
    kinds = summaries(evidence.readings) if metric == "latency" else [None]
    unlike = "launches report their latency in different ways: " + ", ".join(
        kind or "every inference" for kind in kinds
    )
    return Comparison(
        key=evidence.contest.key,
        metric=metric,
        pairs=pairs(evidence, metric, confirming=confirming),
        labels=(
            *((HOT,) if evidence.hot else ()),
            *(("fixed_performance",) if evidence.fixed_performance else ()),
            *(("outputs_differ",) if _outputs_differ(evidence) else ()),
            *(f"summary_{kind}" for kind in kinds if kind),
        ),
        cut_short=evidence.cut_short or (unlike if len(kinds) > 1 else None),
        why_few=evidence.fresh_cut_short if confirming else None,
        noise=evidence.noise if metric == "latency" and not confirming else None,
    )


def _outputs_differ(evidence: Evidence) -> bool:
    """Return whether a side's outputs are wrong or doubtful."""
    return any(_doubt(evidence, side) for side in (evidence.contest.a, evidence.contest.b))


def size_row(contest: Contest) -> Exact:
    """Return the row of the files' sizes."""
    return Exact(
        key=contest.key,
        metric="size",
        a=contest.a.variant.size_bytes,
        b=contest.b.variant.size_bytes,
    )


def side_values(row: Row) -> tuple[float | None, float | None]:
    """Return one value each for A and B of a row, in the metric's base unit; None if unknown.

    For pairs these are the geometric means of the pairs that count, so their quotient is the ratio,
    but for whole bytes.
    """
    if isinstance(row, Exact):
        return row.a, row.b
    if isinstance(row, Accuracy):
        n = row.both + row.only_a + row.only_b + row.neither
        return ((row.both + row.only_a) / n, (row.both + row.only_b) / n) if n else (None, None)
    used = [pair for pair in row.pairs if pair.discarded is None]
    try:
        log_differences(used)
    except ValueError:
        return None, None
    a, b = _geometric([pair.a for pair in used]), _geometric([pair.b for pair in used])
    if columns.base_unit_of(row.metric) == "B":
        return (None if a is None else round(a)), (None if b is None else round(b))
    return a, b


def _geometric(values: Sequence[float]) -> float | None:
    """Return the geometric mean; that of equal values is exactly their value."""
    if not values:
        return None
    first = values[0]
    logs = (math.log(value / first) for value in values)
    return first * math.exp(math.fsum(logs) / len(values))
