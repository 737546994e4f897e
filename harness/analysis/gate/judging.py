"""A whole gate on connected devices: measure every contest, judge all rows together, confirm.

The verdicts of a gate depend on each other (p is adjusted over all rows), so judging starts after
every contest is measured once. Rows with the verdict REGRESSION are then measured again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.analysis.gate import loop, verdicts
from harness.analysis.gate.contest import (
    CONFIRMING,
    LAUNCH_METRICS,
    Contest,
    Evidence,
    Rules,
    comparison,
    rows,
)
from harness.analysis.gate.document import GateRow, Result
from harness.analysis.gate.findings import Accuracy, Key, Row
from harness.analysis.gate.noise import DeviceNoise
from harness.analysis.gate.running import FreshPairs
from harness.analysis.gate.verdicts import Judged, Verdict
from harness.events import Confirming
from harness.printable import counted


def gate(
    context: loop.GateContext,
    contests: Sequence[Contest],
    result: Result,
    *,
    accuracies: Mapping[Key, Row] | None = None,
    noise: Callable[[Evidence], DeviceNoise | None] = lambda _: None,
    known: Mapping[Key, Evidence] | None = None,
) -> Result:
    """Measure the contests and return `result` with their rows and verdicts.

    The sessions stay open. `context.emit` gets a ContestEnded per contest, and another one per
    contest that is confirmed.

    Args:
        context: The devices and the rules.
        contests: The contests to measure, also those of the same bytes.
        result: The known part: names, contests that are identical or failed.
        accuracies: Rows of the accuracy on the host, by key.
        noise: Returns what the device's selftest says about a contest; it is stored with the gate.
        known: The evidence that an interrupted gate stored, by key.
    """
    measured = loop.measure_first(context, contests, known)
    found = {one.contest.key: replace(one, noise=noise(one)) for one in measured}
    first = _FirstLook.of(found, context.rules, accuracies or {})
    fresh = loop.measure_fresh(context, _to_confirm(context, first, found))
    found |= {one.contest.key: one for one in fresh}
    return _with_verdicts(first, found, [one.key for one in contests], result)


def judge_again(
    found: Sequence[Evidence],
    result: Result,
    *,
    rules: Rules,
    accuracies: Mapping[Key, Row] | None = None,
) -> Result:
    """Judge stored evidence by these rules, without measuring.

    A row that is a REGRESSION now but has no stored fresh pairs is INCONCLUSIVE, unconfirmed.
    """
    by_key = {one.contest.key: one for one in found}
    first = _FirstLook.of(by_key, rules, accuracies or {})
    return _with_verdicts(first, by_key, list(by_key), result)


@dataclass(frozen=True, slots=True, kw_only=True)
class _FirstLook:
    """Rows of the first pairs, judged together."""

    rules: Rules
    made: tuple[Row, ...]
    judged: tuple[Judged, ...]

    @classmethod
    def of(
        cls,
        found: Mapping[Key, Evidence],
        rules: Rules,
        accuracies: Mapping[Key, Row],
    ) -> _FirstLook:
        """Make the rows of all evidence and judge those whose metric the rules name."""
        made = tuple(
            row
            for evidence in found.values()
            if evidence.away is None and evidence.failure is None
            for row in rows(evidence, rules, accuracy=accuracies.get(evidence.contest.key))
        )
        decisive = [row for row in made if row.metric in rules.metrics]
        return cls(rules=rules, made=made, judged=tuple(_judge(rules, decisive)))

    @property
    def to_confirm(self) -> list[Judged]:
        """The rows that look worse and need confirmation, because they have noise."""
        return [
            one for one in self.judged if one.verdict is Verdict.REGRESSION and not one.confirmed
        ]


def _to_confirm(
    context: loop.GateContext, first: _FirstLook, found: Mapping[Key, Evidence]
) -> list[tuple[Evidence, FreshPairs]]:
    """Return the number of fresh pairs per contest to confirm, and emit a Confirming per row."""
    counts: dict[Key, FreshPairs] = {}
    for one in first.to_confirm:
        before = counts.get(one.key, FreshPairs())
        counts[one.key] = wanted = before.also(one.metric, verdicts.pairs_to_confirm(one))
        stored = sum(reading.launch.block >= CONFIRMING for reading in found[one.key].readings)
        more = max(0, wanted.launches - stored) - max(0, before.launches - stored)
        if wanted.launches > stored:
            context.emit(Confirming(row=str(one.key), reason=one.reason, launches=more))
    return [(found[key], count) for key, count in counts.items()]


def _with_verdicts(
    first: _FirstLook, found: Mapping[Key, Evidence], order: Sequence[Key], result: Result
) -> Result:
    """Judge the fresh pairs alone and add all rows to the result."""
    rules = first.rules
    fresh = [comparison(found[one.key], one.metric, confirming=True) for one in first.to_confirm]
    judged = verdicts.confirm(first.judged, fresh, margin=rules.margin, min_effect=rules.min_effect)
    by_row = {(one.key, one.metric): one for one in judged}
    shown = tuple(
        GateRow(
            row=row,
            judged=_with_hint(by_row[row.key, row.metric], found[row.key])
            if (row.key, row.metric) in by_row
            else _shown_only(rules, row),
            is_judged=(row.key, row.metric) in by_row,
            evidence=found[row.key],
        )
        for row in sorted(first.made, key=lambda row: order.index(row.key))
    )
    ordered = [found[key] for key in order if key in found]
    failed = tuple(
        (one.contest.key, one.failure.kind, one.failure.reason) for one in ordered if one.failure
    )
    away = {one.contest.key.device: one.away for one in ordered if one.away is not None}
    return replace(
        result,
        evidence=(*result.evidence, *ordered),
        shown=(*result.shown, *shown),
        failed=(*result.failed, *failed),
        away={**result.away, **away},
    )


def _with_hint(judged: Judged, evidence: Evidence) -> Judged:
    """Add to a row that more pairs would decide that the budget ended them."""
    if judged.pairs_needed is None or judged.metric not in LAUNCH_METRICS:
        return judged
    if evidence.ended_early is None:
        return judged
    return replace(judged, reason=f"{judged.reason}; {evidence.ended_early}")


def _judge(rules: Rules, found: Sequence[Row]) -> list[Judged]:
    return verdicts.judge(found, margin=rules.margin, min_effect=rules.min_effect)


def _shown_only(rules: Rules, row: Row) -> Judged:
    """Return the numbers of a row that does not count for the verdict."""
    judged = _judge(rules, [row])[0]
    noun = "input" if isinstance(row, Accuracy) else "pair"
    count = counted(judged.pairs, noun)
    reason = f"gate.metrics does not have it; {count}" if judged.pairs else ""
    if judged.ratio is not None:
        low, high = judged.ratio.low - 1, judged.ratio.high - 1
        between = f" ({low:+.1%} to {high:+.1%})" if low < high < math.inf else ""
        reason = f"{judged.ratio.estimate - 1:+.1%}{between}; {reason}"
    return replace(judged, reason=reason.strip("; "), pairs_needed=None, labels=())
