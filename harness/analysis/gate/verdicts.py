"""Verdicts of a gate over all its rows, as pure functions of data.

    judged = judge(rows)                     # once, over all rows of the gate
    judged = confirm(judged, fresh)          # with fresh pairs for each REGRESSION
    code = exit_code(judged, away=[])

Nothing here measures. docs/gate-statistics.md has the rules with their reasons and figures, the
formulas are in harness/stats/paired.py, the statistics of one row in findings.py.
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
    SKEWED,
    TOO_NOISY,
    Accuracy,
    Comparison,
    Exact,
    Finding,
    Key,
    Row,
    find,
    has_interval,
)
from harness.analysis.gate.noise import NOISY_HALF_WIDTH
from harness.measure import pairs as fresh_pairs
from harness.measure.pairs import MAX_PAIRS, Pair, discard_reason, needs_more
from harness.printable import counted
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
"""An absolute difference: two of a hundred inputs. The other margins are ratios."""

UNCONFIRMED = "unconfirmed"


class Verdict(enum.StrEnum):
    """The verdict of a row of a gate."""

    REGRESSION = "REGRESSION"
    PASS = "PASS"  # noqa: S105 - a verdict, no password
    SLOWER_WITHIN_MARGIN = "SLOWER_WITHIN_MARGIN"
    EQUIVALENT = "EQUIVALENT"
    IMPROVED = "IMPROVED"
    INCONCLUSIVE = "INCONCLUSIVE"


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A row with its verdict and the reason."""

    key: Key
    metric: str
    verdict: Verdict
    reason: str
    """One sentence with the decisive numbers."""
    ratio: Interval | None = None
    """B over A with its 95 % interval; null for accuracy and if it cannot be computed.

    The interval is from 0 to infinity if there are fewer than 6 pairs or they bound nothing."""
    drop: Interval | None = None
    """Accuracy only: A minus B, absolute, with its 95 % interval."""
    p_adjusted: float | None = None
    """One-sided, "B is worse", Benjamini-Hochberg over the gate's rows; null for exact rows."""
    hodges_lehmann: float | None = None
    """The Hodges-Lehmann estimate, to cross-check the ratio."""
    pairs: int = 0
    """Number of pairs used; inputs for accuracy."""
    discarded: int = 0
    pairs_needed: int | None = None
    """For an inconclusive row: about how many pairs in all (inputs for accuracy) would decide."""
    labels: tuple[str, ...] = ()
    confirmed: bool = False
    """Whether fresh pairs alone show the REGRESSION again, or the row has no noise."""
    fresh: Judged | None = None
    """The verdict of the fresh pairs alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Limits:
    """The thresholds of a row on the scale of its finding."""

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

    REGRESSION: adjusted one-sided p < 0.05, the 95 % interval entirely above "the same", and a
    ratio of at least 1 + min_effect. PASS: the one-sided 95 % upper bound is below 1 + margin. Both:
    SLOWER_WITHIN_MARGIN. IMPROVED: the mirror of REGRESSION. EQUIVALENT: the 90 % interval is inside
    +-3 %. If several hold, the first of SLOWER_WITHIN_MARGIN, REGRESSION, IMPROVED, EQUIVALENT, PASS.
    Otherwise INCONCLUSIVE. A row is always INCONCLUSIVE if it has fewer than 6 pairs, a value that
    is not a number, or over 20 % dropped blocks, if it was cut short, or if the device is too noisy.

    Exact rows follow the same rules with an interval of no width and take no part in the adjustment.
    Accuracy is an absolute drop: McNemar's exact one-sided p and `accuracy_margin`.

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
    """Adjust p over the tested rows: an exact row must not make the others more lenient."""
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
        ratio=None if accuracy or effect is None else _ratio(row, finding),
        drop=effect if accuracy else None,
        p_adjusted=p_worse if finding.tested else None,
        hodges_lehmann=None if finding.hodges_lehmann is None else math.exp(finding.hodges_lehmann),
        pairs=finding.n,
        discarded=finding.discarded,
        pairs_needed=needed,
        labels=labels,
        # The same files give the same outputs for the same inputs, so fresh pairs cannot differ.
        confirmed=verdict is Verdict.REGRESSION and not isinstance(row, Comparison),
    )


def _pairs_needed(finding: Finding, limits: _Limits, p_worse: float) -> int | None:
    """Return about how many pairs would show the nearer of "worse" and "within the margin".

    It assumes the current effect, spread and adjustment. None if 10,000 pairs are not enough.
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


def _ratio(row: Row, finding: Finding) -> Interval | None:
    """Return B over A of an effect, for either direction."""
    effect = finding.effect
    if effect is None or not math.isfinite(effect.estimate):
        return None
    sign = _sign(row)
    estimate = math.exp(sign * effect.estimate)
    if not has_interval(row, finding):
        return Interval(estimate=estimate, low=0.0, high=math.inf)
    low, high = sorted((math.exp(sign * effect.low), math.exp(sign * effect.high)))
    return Interval(estimate=estimate, low=low, high=high)


def _sign(row: Row) -> int:
    """Return the sign of ln(B / A) if B is worse."""
    return -1 if isinstance(row, Exact) and row.better == "higher" else 1


# --- the reason in one sentence ----------------------------------------------------------------


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
    worse, better = _worse_and_better(row.metric)
    noun = "input" if isinstance(row, Accuracy) else "pair"
    margin, upper = _change(row, limits.margin), _change(row, finding.upper)
    more = f"about {needed}" if needed else f"more than {paired.MAX_PAIRS_NEEDED:,}"
    findings = {
        Verdict.REGRESSION: worse,
        Verdict.SLOWER_WITHIN_MARGIN: f"{worse}, but by less than the margin {margin}",
        Verdict.IMPROVED: better,
        Verdict.EQUIVALENT: f"the same within {EQUIVALENCE:.0%}",
        Verdict.PASS: f"within the margin {margin}",
        Verdict.INCONCLUSIVE: f"neither {worse} nor within the margin {margin} is shown",
    }
    # On the scale of a finding higher is worse; of accuracy the lower number is.
    low, high, bound = finding.effect.low, finding.effect.high, "upper bound"
    if isinstance(row, Accuracy):
        low, high, bound = high, low, "lower bound"
    endings = {
        Verdict.REGRESSION: f", adjusted p {p_worse:.2g}",
        Verdict.SLOWER_WITHIN_MARGIN: f", {bound} {upper}",
        Verdict.PASS: f", {bound} {upper}",
        Verdict.INCONCLUSIVE: f"; {more} {noun}s would decide",
    }
    dropped = f", {finding.discarded} dropped" if finding.discarded else ""
    between = (
        f"95 % interval {_change(row, low)} to {_change(row, high)}"
        if has_interval(row, finding)
        else "the pairs scatter too much for an interval"
    )
    return (
        f"{findings[verdict]}: {_change(row, finding.effect.estimate)} ({between}), "
        f"{counted(finding.n, noun)}{dropped}{endings.get(verdict, '')}"
    )


def _worse_and_better(metric: str) -> tuple[str, str]:
    """Return the adjectives for a worse and a better value of a metric: `slower`, `faster`."""
    column = columns.gate_metrics().get(metric)
    return column.comparatives if column else ("larger", "smaller")


def _exact_reason(row: Exact, limits: _Limits, verdict: Verdict) -> str:
    worse, better = _worse_and_better(row.metric)
    numbers = f"{row.a:,.10g} to {row.b:,.10g}"
    if row.a == row.b:
        return f"the same: {row.a:,.10g}"
    direction = worse if _sign(row) * (row.b - row.a) > 0 else better
    change = f" ({row.b / row.a - 1:+.1%})" if row.a else ""
    margin = ""
    if verdict is Verdict.REGRESSION:
        margin = f", the margin is {_change(row, limits.margin)}"
    return f"{direction}: {numbers}{change}{margin}"


def _change(row: Row, value: float) -> str:
    """Write a value on a finding's scale: a signed percentage, or points of accuracy lost."""
    if isinstance(row, Accuracy):
        return f"{-100 * value:+.2f} points"
    return f"{math.exp(_sign(row) * value) - 1:+.1%}"


# --- fresh pairs, and the exit code ------------------------------------------------------------


def pairs_to_confirm(judged: Judged) -> int:
    """Return how many fresh pairs a REGRESSION needs."""
    return fresh_pairs.pairs_to_confirm(judged.pairs)


def confirm(
    first: Sequence[Judged],
    fresh: Sequence[Comparison],
    *,
    margin: float = MARGIN,
    min_effect: float = MIN_EFFECT,
) -> list[Judged]:
    """Return the rows with each REGRESSION confirmed, or INCONCLUSIVE with the label unconfirmed.

    A REGRESSION is confirmed if the fresh pairs alone are at least :func:`pairs_to_confirm` blocks
    and their verdict is REGRESSION or SLOWER_WITHIN_MARGIN. All fresh pairs are judged together,
    without the first ones. The row keeps the numbers of the first verdict; `fresh` has those of the
    fresh pairs. That ratio is less biased, since only rows that looked bad are measured again. Other
    rows are returned unchanged.

    Raises ValueError if two fresh comparisons have the same key and metric.
    """
    by_row = {(one.key, one.metric): one for one in fresh}
    if len(by_row) != len(fresh):
        raise ValueError("two fresh comparisons of the same key and metric")
    open_rows = [row for row in first if row.verdict is Verdict.REGRESSION and not row.confirmed]
    measured = [by_row[row.key, row.metric] for row in open_rows if (row.key, row.metric) in by_row]
    again = {
        (one.key, one.metric): one for one in judge(measured, margin=margin, min_effect=min_effect)
    }
    made = []
    for row in first:
        if row.verdict is not Verdict.REGRESSION or row.confirmed:
            made.append(row)
            continue
        key = (row.key, row.metric)
        why_few = by_row[key].why_few if key in by_row else None
        made.append(_confirmed(row, again.get(key), why_few))
    return made


def _confirmed(row: Judged, fresh: Judged | None, why_few: str | None) -> Judged:
    wanted = pairs_to_confirm(row)
    blocks = fresh.pairs + fresh.discarded if fresh else 0
    if fresh is None or blocks < wanted:
        doubt = f"only {blocks} of {wanted} fresh pairs were measured"
        doubt += f": {why_few}" if why_few else ""
    elif fresh.verdict in {Verdict.REGRESSION, Verdict.SLOWER_WITHIN_MARGIN}:
        return replace(
            row,
            confirmed=True,
            fresh=fresh,
            reason=f"{row.reason}; confirmed by fresh pairs: {fresh.reason}",
        )
    else:
        doubt = f"fresh pairs alone give {fresh.verdict}: {fresh.reason}"
    return replace(
        row,
        verdict=Verdict.INCONCLUSIVE,
        fresh=fresh,
        labels=(*row.labels, UNCONFIRMED),
        reason=f"{row.reason}, but not confirmed: {doubt}",
    )


def exit_code(judged: Sequence[Judged], away: Collection[str] = ()) -> int:
    """Return the exit code of a gate; `away` has the names of the devices that were away.

    1 for any confirmed REGRESSION, else 2 for any INCONCLUSIVE or unconfirmed REGRESSION, else 4 if
    a device was away, else 0.
    """
    if any(row.verdict is Verdict.REGRESSION and row.confirmed for row in judged):
        return 1
    if any(row.verdict in {Verdict.REGRESSION, Verdict.INCONCLUSIVE} for row in judged):
        return 2
    return 4 if away else 0
