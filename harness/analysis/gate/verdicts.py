"""Verdicts of a gate: what its rows come to together. Pure data to data.

    judged = judge(rows)                     # once, over all rows of the gate
    judged = confirm(judged, fresh)          # fresh pairs for what came out REGRESSION
    code = exit_code(judged, away=[])

Nothing here measures. docs/gate-statistics.md has the rules with their reasons and figures, the
formulas are in paired.py, the numbers of one row in findings.py.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from harness import columns
from harness.analysis.gate.findings import (
    ALPHA,
    CONSTANT,
    EQUIVALENCE,
    HOT,
    NOISY_HALF_WIDTH,
    SKEWED,
    TOO_NOISY,
    Accuracy,
    Comparison,
    Exact,
    Finding,
    Key,
    Row,
    find,
)
from harness.measure.pairs import MAX_PAIRS, Pair, discard_reason, needs_more
from harness.stats import Interval, paired

__all__ = [
    "CONSTANT",
    "HOT",
    "SKEWED",
    "TOO_NOISY",
    "UNCONFIRMED",
    "Accuracy",
    "Comparison",
    "Exact",
    "Judged",
    "Key",
    "Pair",
    "Row",
    "Verdict",
    "confirm",
    "discard_reason",
    "exit_code",
    "judge",
    "needs_more",
    "pairs_to_confirm",
]

MARGIN = 0.05
MIN_EFFECT = 0.02
ACCURACY_MARGIN = 0.02
"""Absolute: two of a hundred inputs. The others are ratios."""

CONFIRM_PAIRS = 10
UNCONFIRMED = "unconfirmed"


class Verdict(enum.StrEnum):
    """What a row of a gate came to."""

    REGRESSION = "REGRESSION"
    PASS = "PASS"  # noqa: S105 - the word of the interface
    SLOWER_WITHIN_MARGIN = "SLOWER_WITHIN_MARGIN"
    EQUIVALENT = "EQUIVALENT"
    IMPROVED = "IMPROVED"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A row with its verdict and why."""

    key: Key
    metric: str
    verdict: Verdict
    reason: str
    """One sentence with the numbers that decided."""
    ratio: Interval | None = None
    """B over A with its 95 % interval; null for accuracy and where it cannot be had."""
    drop: Interval | None = None
    """Accuracy only: A minus B, absolute, with its 95 % interval."""
    p_adjusted: float | None = None
    """One-sided, "B is worse", Benjamini-Hochberg over the gate's rows; null where exact."""
    hodges_lehmann: float | None = None
    """The cross-check of the ratio."""
    pairs: int = 0
    """Used: pairs, or inputs for accuracy."""
    discarded: int = 0
    pairs_needed: int | None = None
    """Of an inconclusive row: about how many pairs in all (inputs for accuracy) would decide."""
    labels: tuple[str, ...] = ()
    confirmed: bool = False
    """A REGRESSION that fresh pairs alone showed again, or that has no noise to confirm against."""
    fresh: Judged | None = None
    """What the fresh pairs said."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """The thresholds of a row, on the scale of its finding."""

    margin: float
    min_effect: float


def judge(
    rows: Sequence[Row],
    *,
    margin: float = MARGIN,
    min_effect: float = MIN_EFFECT,
    accuracy_margin: float = ACCURACY_MARGIN,
) -> list[Judged]:
    """Judge all rows of a gate together, in their order; a row's p depends on the others.

    REGRESSION: adjusted one-sided p < 0.05, and the 95 % interval wholly above "the same", and a
    ratio of at least 1 + min_effect. PASS: the one-sided 95 % upper bound below 1 + margin. Both:
    SLOWER_WITHIN_MARGIN. IMPROVED: the mirror of REGRESSION. EQUIVALENT: the 90 % interval inside
    +-3 %. Where several hold, the first of SLOWER_WITHIN_MARGIN, REGRESSION, IMPROVED, EQUIVALENT,
    PASS. Else INCONCLUSIVE, and always where a row has fewer than 6 pairs, a value that is not a
    number, more than 20 % of its blocks dropped, an end before its time, or a device too noisy.

    Exact rows take the same rules with an interval of no width and stay out of the adjustment.
    Accuracy is a drop in absolute terms: McNemar's exact one-sided p and `accuracy_margin`.

    Raises ValueError unless 0 <= min_effect < margin and 0 < accuracy_margin.
    """
    if not (0 <= min_effect < margin and accuracy_margin > 0):
        raise ValueError(
            "a gate needs 0 <= min_effect < margin and accuracy_margin > 0, not "
            f"min_effect={min_effect}, margin={margin}, accuracy_margin={accuracy_margin}"
        )
    findings = [find(row) for row in rows]
    worse = _adjust(findings, [finding.p_worse for finding in findings])
    better = _adjust(findings, [finding.p_better for finding in findings])
    ratios = _Limits(margin=math.log(1 + margin), min_effect=math.log(1 + min_effect))
    shares = _Limits(margin=accuracy_margin, min_effect=0.0)
    return [
        _judged(row, finding, shares if isinstance(row, Accuracy) else ratios, p_worse, p_better)
        for row, finding, p_worse, p_better in zip(rows, findings, worse, better, strict=True)
    ]


def _adjust(findings: Sequence[Finding], p_values: Sequence[float]) -> list[float]:
    """Adjust over the rows that are tested: a certain row must not make room for the others."""
    tested = iter(
        paired.benjamini_hochberg(
            [p for finding, p in zip(findings, p_values, strict=True) if finding.tested]
        )
    )
    return [
        next(tested) if finding.tested else p for finding, p in zip(findings, p_values, strict=True)
    ]


def _verdict(finding: Finding, limits: _Limits, p_worse: float, p_better: float) -> Verdict:
    effect = finding.effect
    if finding.obstacle is not None or effect is None:
        return Verdict.INCONCLUSIVE
    within = finding.upper < limits.margin
    if p_worse < ALPHA and effect.low > 0 and effect.estimate >= limits.min_effect:
        return Verdict.SLOWER_WITHIN_MARGIN if within else Verdict.REGRESSION
    if p_better < ALPHA and effect.high < 0 and effect.estimate <= -limits.min_effect:
        return Verdict.IMPROVED
    if finding.equivalent:
        return Verdict.EQUIVALENT
    return Verdict.PASS if within else Verdict.INCONCLUSIVE


def _judged(row: Row, finding: Finding, limits: _Limits, p_worse: float, p_better: float) -> Judged:
    verdict = _verdict(finding, limits, p_worse, p_better)
    labels, needed = finding.labels, None
    if verdict is Verdict.INCONCLUSIVE and finding.obstacle is None:
        needed = _pairs_needed(finding, limits, p_worse)
        if _too_noisy(row, finding):
            labels = (*labels, TOO_NOISY)
    effect = finding.effect
    accuracy = isinstance(row, Accuracy)
    return Judged(
        key=row.key,
        metric=row.metric,
        verdict=verdict,
        reason=_reason(row, finding, limits, verdict=verdict, p_worse=p_worse, needed=needed),
        ratio=None if accuracy or effect is None else _ratio(row, effect),
        drop=effect if accuracy else None,
        p_adjusted=p_worse if finding.tested else None,
        hodges_lehmann=None if finding.hodges_lehmann is None else math.exp(finding.hodges_lehmann),
        pairs=finding.n,
        discarded=finding.discarded,
        pairs_needed=needed,
        labels=labels,
        # The same inputs through the same files give the same answers: nothing fresh to draw.
        confirmed=verdict is Verdict.REGRESSION and not isinstance(row, Comparison),
    )


def _pairs_needed(finding: Finding, limits: _Limits, p_worse: float) -> int | None:
    """Return about how many pairs would show the nearer of "worse" and "within the margin".

    Were effect, spread and the adjustment what they seem now. None where 10,000 would not do.
    """
    effect = finding.effect
    if effect is None:
        return None
    counts = []
    if effect.estimate >= limits.min_effect and effect.estimate > 0:
        factor = p_worse / finding.p_worse if finding.p_worse > 0 else 1.0
        tail = min(ALPHA / 2, ALPHA / factor)
        counts.append(paired.pairs_for(finding.spread, effect.estimate, tail))
    if effect.estimate < limits.margin:
        counts.append(paired.pairs_for(finding.spread, limits.margin - effect.estimate, ALPHA))
    known = [count for count in counts if count is not None]
    if not known:
        return None
    needed = max(min(known), finding.n + 1)
    return needed + needed % 2


def _too_noisy(row: Row, finding: Finding) -> bool:
    if not isinstance(row, Comparison) or finding.effect is None or finding.n < MAX_PAIRS:
        return False
    return finding.effect.high - finding.effect.estimate > NOISY_HALF_WIDTH


def _ratio(row: Row, effect: Interval) -> Interval | None:
    """Return B over A of an effect, whichever is better."""
    if not math.isfinite(effect.estimate):
        return None
    sign, low, high = _sign(row), effect.low, effect.high
    if sign < 0:
        low, high = high, low
    return Interval(
        estimate=math.exp(sign * effect.estimate),
        low=math.exp(sign * low),
        high=math.exp(sign * high),
    )


def _sign(row: Row) -> int:
    """Return the sign of ln(B / A) where B is worse."""
    return -1 if isinstance(row, Exact) and row.better == "higher" else 1


# --- why, in one sentence ----------------------------------------------------------------------


def _reason(
    row: Row,
    finding: Finding,
    limits: _Limits,
    *,
    verdict: Verdict,
    p_worse: float,
    needed: int | None,
) -> str:
    if finding.obstacle is not None or finding.effect is None:
        return finding.obstacle or "nothing was measured"
    if isinstance(row, Exact):
        return _exact_reason(row, limits, verdict)
    worse, better = _words(row.metric)
    unit = "inputs" if isinstance(row, Accuracy) else "pairs"
    margin, upper = _change(row, limits.margin), _change(row, finding.upper)
    more = f"about {needed}" if needed else f"more than {paired.MAX_PAIRS_NEEDED:,}"
    words = {
        Verdict.REGRESSION: worse,
        Verdict.SLOWER_WITHIN_MARGIN: f"{worse}, but by less than the margin {margin}",
        Verdict.IMPROVED: better,
        Verdict.EQUIVALENT: f"the same within {EQUIVALENCE:.0%}",
        Verdict.PASS: f"within the margin {margin}",
        Verdict.INCONCLUSIVE: f"neither {worse} nor within the margin {margin} is shown",
    }
    endings = {
        Verdict.REGRESSION: f", adjusted p {p_worse:.2g}",
        Verdict.SLOWER_WITHIN_MARGIN: f", upper bound {upper}",
        Verdict.PASS: f", upper bound {upper}",
        Verdict.INCONCLUSIVE: f"; {more} {unit} would tell",
    }
    dropped = f", {finding.discarded} dropped" if finding.discarded else ""
    return (
        f"{words[verdict]}: {_change(row, finding.effect.estimate)} (95 % interval "
        f"{_change(row, finding.effect.low)} to {_change(row, finding.effect.high)}), "
        f"{finding.n} {unit}{dropped}{endings.get(verdict, '')}"
    )


def _words(metric: str) -> tuple[str, str]:
    """Name a worse and a better value of a metric: `slower`, `faster`."""
    column = columns.gate_metrics().get(metric)
    return column.comparatives if column else ("larger", "smaller")


def _exact_reason(row: Exact, limits: _Limits, verdict: Verdict) -> str:
    worse, better = _words(row.metric)
    numbers = f"{row.a:,.10g} to {row.b:,.10g}"
    if row.a == row.b:
        return f"the same: {row.a:,.10g}"
    word = worse if _sign(row) * (row.b - row.a) > 0 else better
    change = f" ({row.b / row.a - 1:+.1%})" if row.a else ""
    side = ""
    if verdict is Verdict.REGRESSION:
        side = f", the margin is {_change(row, limits.margin)}"
    return f"{word}: {numbers}{change}{side}"


def _change(row: Row, value: float) -> str:
    """Write a value of a finding's scale: a signed percentage, or points of accuracy lost."""
    if isinstance(row, Accuracy):
        return f"{-100 * value:+.2f} points"
    return f"{math.exp(_sign(row) * value) - 1:+.1%}"


# --- fresh pairs, and the answer ---------------------------------------------------------------


def pairs_to_confirm(judged: Judged) -> int:
    """Return how many fresh pairs a REGRESSION needs: as many as it used, at least 10, even."""
    most = max(CONFIRM_PAIRS, judged.pairs)
    return most + most % 2


def confirm(
    first: Sequence[Judged],
    fresh: Sequence[Comparison],
    *,
    margin: float = MARGIN,
    min_effect: float = MIN_EFFECT,
) -> list[Judged]:
    """Return the rows with each REGRESSION confirmed, or INCONCLUSIVE with the label unconfirmed.

    The fresh pairs alone (none of the first) must be :func:`pairs_to_confirm` blocks at least and
    say surely slower too, REGRESSION or SLOWER_WITHIN_MARGIN; they are judged together, apart from
    the first. The first verdict's numbers stay in the row, what the fresh pairs said is in `fresh`,
    and since only rows that looked bad are measured again, that ratio is the fairer one. Other rows
    are returned as they are.

    Raises ValueError where two fresh comparisons have one key and metric.
    """
    by_row = {(one.key, one.metric): one for one in fresh}
    if len(by_row) != len(fresh):
        raise ValueError("two fresh comparisons of the same key and metric")
    open_rows = [row for row in first if row.verdict is Verdict.REGRESSION and not row.confirmed]
    asked = [by_row[row.key, row.metric] for row in open_rows if (row.key, row.metric) in by_row]
    again = {
        (one.key, one.metric): one for one in judge(asked, margin=margin, min_effect=min_effect)
    }
    made = []
    for row in first:
        if row.verdict is not Verdict.REGRESSION or row.confirmed:
            made.append(row)
            continue
        found = again.get((row.key, row.metric))
        made.append(_confirmed(row, found))
    return made


def _confirmed(row: Judged, fresh: Judged | None) -> Judged:
    wanted = pairs_to_confirm(row)
    blocks = fresh.pairs + fresh.discarded if fresh else 0
    if fresh is None or blocks < wanted:
        doubt = f"only {blocks} of {wanted} fresh pairs were measured"
    elif fresh.verdict in {Verdict.REGRESSION, Verdict.SLOWER_WITHIN_MARGIN}:
        return replace(
            row,
            confirmed=True,
            fresh=fresh,
            reason=f"{row.reason}; confirmed by fresh pairs: {fresh.reason}",
        )
    else:
        doubt = f"fresh pairs alone say {fresh.verdict}: {fresh.reason}"
    return replace(
        row,
        verdict=Verdict.INCONCLUSIVE,
        fresh=fresh,
        labels=(*row.labels, UNCONFIRMED),
        reason=f"{row.reason}, but not confirmed: {doubt}",
    )


def exit_code(judged: Sequence[Judged], away: Collection[str] = ()) -> int:
    """Return what the gate answers its shell: `away` names the devices that were not there.

    1 for any confirmed REGRESSION, else 2 for any INCONCLUSIVE or a REGRESSION that nobody
    confirmed, else 4 where a device was away, else 0.
    """
    if any(row.verdict is Verdict.REGRESSION and row.confirmed for row in judged):
        return 1
    if any(row.verdict in {Verdict.REGRESSION, Verdict.INCONCLUSIVE} for row in judged):
        return 2
    return 4 if away else 0
