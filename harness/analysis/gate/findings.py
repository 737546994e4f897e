"""Rows of a gate, and the statistics of a single row.

All rows have a :class:`Finding` on one scale: 0 is "the same", above is worse. That is ln(B / A) for
measured or counted values that are better lower, ln(A / B) for values that are better higher, and
accuracy of A minus accuracy of B for shares of the same inputs. verdicts.py judges all rows of a gate
together.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from dataclasses import dataclass, replace

from harness.analysis.gate.noise import FAR_OUTSIDE, DeviceNoise
from harness.measure.pairs import FIRST_PAIRS, MAX_DISCARDED, MAX_PAIRS, Pair, log_differences
from harness.printable import counted
from harness.stats import MAX_FACTOR, Interval, paired
from harness.types import Direction

ALPHA = 0.05
"""One-sided level of the bound for PASS and of the adjusted p."""

EQUIVALENCE = 0.03
HOT, TOO_NOISY = "hot", "too_noisy"
NOISY_DEVICE = "noisy_device"
"""The device is too noisy by its selftest, and the difference is far outside that noise."""
SKEWED = "skewed"
"""Mean and Hodges-Lehmann differ by over half the half-width: a few pairs dominate the mean."""
CONSTANT = "constant"
"""Every pair has the same ratio: a deterministic device, or a clock too coarse for the model."""

_ROUNDING = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Identity of a contest: model, device, threads and recipe."""

    model: str
    device: str
    threads: int = 1
    recipe: str = ""

    def __str__(self) -> str:
        """Write it as `kws int8 on bench-pi, 1 thread`."""
        name = f"{self.model} {self.recipe}".strip()
        return f"{name} on {self.device}, {counted(self.threads, 'thread')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A metric of one key, measured in pairs; a metric that is better higher is inverted."""

    key: Key
    metric: str
    pairs: tuple[Pair, ...]
    """All pairs, including the discarded ones."""
    labels: tuple[str, ...] = ()
    """Labels of the verdict: `hot` if measured on a thermal plateau."""
    cut_short: str | None = None
    """Why measuring ended before the stop rule: `device lost after block 4`."""
    why_few: str | None = None
    """Why there may be fewer fresh pairs than were to be measured; those that there are count."""
    noise: DeviceNoise | None = None
    """The noise of the device by its selftest."""

    @property
    def device_half_width(self) -> float | None:
        """The device's half-width at 20 pairs; None without a selftest that applies."""
        return None if self.noise is None or self.noise.unfit else self.noise.half_width


@dataclass(frozen=True, slots=True, kw_only=True)
class Exact:
    """A number without noise: bytes of a file, memory of a microcontroller, an error."""

    key: Key
    metric: str
    a: float
    b: float
    better: Direction = "lower"
    labels: tuple[str, ...] = ()
    seconds: float | None = None
    """How long it took to evaluate, on the host; None for a number that is only read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Accuracy:
    """Counts of the same evaluation inputs by which side is right."""

    key: Key
    both: int
    only_a: int
    only_b: int
    neither: int
    metric: str = "accuracy"
    labels: tuple[str, ...] = ()
    seconds: float | None = None
    """How long it took to evaluate both files, on the host."""


Row = Comparison | Exact | Accuracy


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """The statistics of one row, before the rows are judged together."""

    effect: Interval | None = None
    """The effect with its 95 % interval; null if it cannot be computed."""
    upper: float = math.inf
    """One-sided 95 % upper bound."""
    p_worse: float = 1.0
    """One-sided, not adjusted."""
    p_better: float = 1.0
    equivalent: bool = False
    spread: float = 0.0
    """Standard deviation per pair or input: the standard error is spread / sqrt(n)."""
    n: int = 0
    discarded: int = 0
    hodges_lehmann: float | None = None
    obstacle: str | None = None
    """Why the row can have no verdict, whatever its values."""
    labels: tuple[str, ...] = ()
    exact: bool = False

    @property
    def tested(self) -> bool:
        """Whether the row takes part in the adjustment of p over rows.

        An exact row does not: its p of 0 would make the adjustment of the others too lenient.
        """
        return self.obstacle is None and not self.exact


def find(row: Row) -> Finding:
    """Return the statistics of a row on its own."""
    if isinstance(row, Exact):
        return _exact(row)
    if isinstance(row, Accuracy):
        return _accuracy(row)
    return _paired(row)


def has_interval(row: Row, finding: Finding) -> bool:
    """Return whether the interval of an effect says anything.

    That of pairs does if there are as many as a verdict needs, and if it ends within a factor of 100
    of the estimate: that of two pairs may end at a billion.
    """
    if finding.effect is None or not isinstance(row, Comparison):
        return finding.effect is not None
    half = finding.effect.high - finding.effect.estimate
    return finding.n >= FIRST_PAIRS and half <= math.log(MAX_FACTOR)


def _paired(row: Comparison) -> Finding:
    used = [pair for pair in row.pairs if pair.discarded is None]
    base = Finding(n=len(used), discarded=len(row.pairs) - len(used), labels=row.labels)
    try:
        differences = log_differences(used)
    except ValueError as error:
        return replace(base, obstacle=f"a stored value cannot be used: {error}")
    base = replace(base, obstacle=_obstacle(row))
    if len(used) < paired.MIN_FOR_SPREAD:
        return _on_noisy_device(row, base, None)
    effect = paired.paired_interval(differences)
    base = _on_noisy_device(row, base, effect)
    centre = paired.hodges_lehmann(differences)
    if abs(centre - effect.estimate) > _ROUNDING + (effect.high - effect.estimate) / 2:
        base = replace(base, labels=(*base.labels, SKEWED))
    spread = paired.deviation(differences)
    if spread == 0:
        base = replace(base, labels=(*base.labels, CONSTANT))
    low, high = math.log(1 - EQUIVALENCE), math.log(1 + EQUIVALENCE)
    return replace(
        base,
        effect=effect,
        upper=paired.paired_interval(differences, 1 - 2 * ALPHA).high,
        p_worse=paired.paired_p(differences),
        p_better=paired.paired_p([-value for value in differences]),
        equivalent=paired.equivalence_p(differences, low, high) < ALPHA,
        spread=spread,
        hodges_lehmann=centre,
    )


def _on_noisy_device(row: Comparison, base: Finding, effect: Interval | None) -> Finding:
    """Add the obstacle that the device is too noisy, unless the effect is far outside its noise."""
    noise = row.noise
    if base.obstacle is not None or noise is None or not noise.is_too_noisy:
        return base
    least = FAR_OUTSIDE * noise.half_width
    if effect is not None and (effect.low > least or effect.high < -least):
        return replace(base, labels=(*base.labels, NOISY_DEVICE))
    taken = f" of {noise.created[:10]}" if noise.created else ""
    return replace(
        base,
        labels=(*base.labels, TOO_NOISY),
        obstacle=f"{row.key.device} is too noisy to gate: its selftest{taken} reached "
        f"+-{noise.half_width:.1%} with {MAX_PAIRS} pairs, {noise.threshold:.0%} is the most",
    )


def _obstacle(row: Comparison) -> str | None:
    """Return why the row's blocks allow no verdict, the most severe reason first."""
    reasons = [pair.discarded for pair in row.pairs if pair.discarded is not None]
    used = len(row.pairs) - len(reasons)
    if row.cut_short:
        return f"{row.cut_short}; {counted(used, 'pair')} {'was' if used == 1 else 'were'} kept"
    if len(reasons) > MAX_DISCARDED * len(row.pairs):
        most, _ = Counter(reasons).most_common(1)[0]
        return (
            f"{len(reasons)} of {counted(len(row.pairs), 'block')} dropped, more than {MAX_DISCARDED:.0%}; "
            f"most often: {most}"
        )
    if used < FIRST_PAIRS:
        return f"only {used} of at least {FIRST_PAIRS} pairs"
    return None


def _exact(row: Exact) -> Finding:
    if not (math.isfinite(row.a) and math.isfinite(row.b) and min(row.a, row.b) >= 0):
        reason = f"a stored value cannot be used (A is {row.a}, B is {row.b})"
        return Finding(obstacle=reason, labels=row.labels)
    if row.a == row.b:
        effect = 0.0
    elif row.a == 0 or row.b == 0:
        effect = math.inf if row.b else -math.inf
    else:
        effect = math.log(row.b / row.a)
    if row.better == "higher":
        effect = -effect
    return Finding(
        effect=Interval(estimate=effect, low=effect, high=effect),
        upper=effect,
        p_worse=0.0 if effect > 0 else 1.0,
        p_better=0.0 if effect < 0 else 1.0,
        equivalent=math.log(1 - EQUIVALENCE) < effect < math.log(1 + EQUIVALENCE),
        labels=row.labels,
        exact=True,
    )


def _accuracy(row: Accuracy) -> Finding:
    n = row.both + row.only_a + row.only_b + row.neither
    if not n:
        return Finding(obstacle="no evaluation input was run on both sides", labels=row.labels)
    counts = (row.both, row.only_a, row.only_b, row.neither)
    two_sided = statistics.NormalDist().inv_cdf(1 - ALPHA / 2)
    one_sided = statistics.NormalDist().inv_cdf(1 - ALPHA)
    upper = paired.accuracy_drop(*counts, one_sided).high
    effect = paired.accuracy_drop(*counts, two_sided)
    return Finding(
        effect=effect,
        upper=upper,
        p_worse=paired.mcnemar_worse_p(row.only_a, row.only_b),
        p_better=paired.mcnemar_worse_p(row.only_b, row.only_a),
        spread=(effect.high - effect.low) / 2 / two_sided * math.sqrt(n),
        n=n,
        labels=row.labels,
    )
