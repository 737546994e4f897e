"""A whole gate over live devices: measure every contest, judge all rows together, confirm.

The verdicts of a gate depend on each other (the adjustment of p over its rows), so nothing is
judged before everything was measured once. What came out REGRESSION is then measured afresh.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from harness.gate import loop, verdicts
from harness.gate.contest import Contest, Evidence, comparison, rows
from harness.gate.document import Result, Shown
from harness.gate.findings import Key, Row
from harness.gate.verdicts import Judged, Verdict


def gate(
    lab: loop.Lab,
    contests: Sequence[Contest],
    result: Result,
    *,
    accuracies: Mapping[Key, Row] | None = None,
    noise: Callable[[Evidence], float | None] = lambda _: None,
    tell: Callable[[Evidence], None] = lambda _: None,
) -> Result:
    """Hold the contests and return `result` with what they came to. The sessions stay open.

    Args:
        lab: The devices and the rules.
        contests: To be measured; same bytes are measured too.
        result: What is known already: names, contests that are identical or failed.
        accuracies: Rows of the host's answers, by key.
        noise: The half-width at 20 pairs of a device's selftest that goes for the evidence.
        tell: Is given the evidence of every contest as it is whole, and again when confirmed.
    """
    found: dict[Key, Evidence] = {}
    for evidence in loop.first(lab, contests):
        tell(evidence)
        found[evidence.contest.key] = evidence
    ordered = [found[one.key] for one in contests if one.key in found]
    held = [one for one in ordered if one.away is None and one.failure is None]
    made = [
        (row, evidence)
        for evidence in held
        for row in rows(
            evidence,
            lab.rules,
            noise=noise(evidence),
            accuracy=(accuracies or {}).get(evidence.contest.key),
        )
    ]
    decisive = [row for row, _ in made if row.metric in lab.rules.metrics]
    judged = _judge(lab, decisive)
    judged, found = _confirmed(lab, judged, found, tell)
    by_row = {(one.key, one.metric): one for one in judged}
    shown = tuple(
        Shown(
            row=row,
            judged=by_row.get((row.key, row.metric)) or _shown_only(lab, row),
            is_judged=(row.key, row.metric) in by_row,
            evidence=found[evidence.contest.key],
        )
        for row, evidence in made
    )
    failed = tuple(
        (one.contest.key, one.failure.kind, one.failure.reason) for one in ordered if one.failure
    )
    away = {one.contest.key.device: one.away for one in ordered if one.away is not None}
    return replace(
        result,
        shown=(*result.shown, *shown),
        failed=(*result.failed, *failed),
        away={**result.away, **away},
    )


def _judge(lab: loop.Lab, found: Sequence[Row]) -> list[Judged]:
    return verdicts.judge(found, margin=lab.rules.margin, min_effect=lab.rules.min_effect)


def _shown_only(lab: loop.Lab, row: Row) -> Judged:
    """Find the numbers of a row that decides nothing."""
    judged = _judge(lab, [row])[0]
    words = f"gate.metrics does not have it; {judged.pairs} pairs" if judged.pairs else ""
    if judged.ratio is not None:
        low, high = judged.ratio.low - 1, judged.ratio.high - 1
        words = f"{judged.ratio.estimate - 1:+.1%} ({low:+.1%} to {high:+.1%}); {words}"
    return replace(judged, reason=words.strip("; "), pairs_needed=None, labels=())


def _confirmed(
    lab: loop.Lab,
    judged: Sequence[Judged],
    found: dict[Key, Evidence],
    tell: Callable[[Evidence], None],
) -> tuple[list[Judged], dict[Key, Evidence]]:
    """Measure afresh what came out REGRESSION and has noise; judge that alone."""
    open_rows = [one for one in judged if one.verdict is Verdict.REGRESSION and not one.confirmed]
    if not open_rows:
        return list(judged), found
    counts: dict[Key, int] = {}
    for one in open_rows:
        lab.observer.log({"event": "confirming", "row": str(one.key), "reason": one.reason})
        counts[one.key] = max(counts.get(one.key, 0), verdicts.pairs_to_confirm(one))
    again = dict(found)
    for evidence in loop.again(lab, [(found[key], count) for key, count in counts.items()]):
        tell(evidence)
        again[evidence.contest.key] = evidence
    fresh = [comparison(again[one.key], one.metric, confirming=True) for one in open_rows]
    rules = lab.rules
    return (
        verdicts.confirm(judged, fresh, margin=rules.margin, min_effect=rules.min_effect),
        again,
    )
