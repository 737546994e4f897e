"""The effects that a gate can see on a device, from A measured against itself.

From the pairs of launches of one file, many gates are drawn: pairs with replacement and random signs,
since A and B are the same, with B's samples scaled by 1, 1.02, 1.05 and 1.10. They follow the stop
rule, the verdicts and the confirmation of a real gate. The results are stored in one file per device,
named by its identity.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness import assets, stats
from harness.analysis.gate import verdicts
from harness.analysis.gate.contest import Evidence, Rules, pairs, quantile
from harness.analysis.gate.findings import NOISY_HALF_WIDTH, Comparison, Key
from harness.analysis.gate.verdicts import Verdict
from harness.errors import StoreError
from harness.measure.pairs import FIRST_PAIRS, MAX_PAIRS, Pair, needs_more
from harness.records.store import checksums
from harness.records.store.codec import dump, load
from harness.records.store.journal import appearing
from harness.stats import paired

SCALES = (1.0, 1.02, 1.05, 1.10)
GATES = 300
"""Gates per scale: the standard error of a share is at most 2.9 points."""

POWER = 0.95
_SLOWER = frozenset({Verdict.REGRESSION, Verdict.SLOWER_WITHIN_MARGIN})


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """The results of the gates of one scale; the field names are those of the stored file."""

    scale: float
    told: float
    """Share with a first verdict of slower: REGRESSION or SLOWER_WITHIN_MARGIN."""
    red: float
    """Share that fails the build: a confirmed REGRESSION. At scale 1, the false-alarm rate."""
    pairs: float
    """Mean number of first pairs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selftest:
    """The result of a selftest on one device, with one file and number of threads."""

    identity: str
    device: str
    model: str
    digest: str
    threads: int
    run: str
    created: str
    p50_ns: float
    quantile: float
    """The quantile that represents a launch."""
    pairs: int
    spread: float
    """Standard deviation of ln(B / A) over pairs."""
    half_width: float
    """Half-width of the 95 % interval at 20 pairs, on the log scale."""
    smallest_effect: float
    """The smallest slowdown that 20 pairs show in 95 % of gates."""
    arms: tuple[Arm, ...]

    @property
    def fit(self) -> bool:
        """Whether the device is quiet enough to gate."""
        return self.half_width <= NOISY_HALF_WIDTH

    def plain(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {**dump(self), "fit": self.fit}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """The content of one device's file."""

    selftests: tuple[Selftest, ...] = field(default_factory=tuple)


def analyse(
    evidence: Evidence, rules: Rules, *, identity: str, run: str, created: str, seed: int = 0
) -> Selftest:
    """Compute the effects that a gate can see, from pairs of a file against itself.

    Raises StoreError if fewer than six pairs count.
    """
    used = [pair for pair in pairs(evidence, "latency") if pair.discarded is None]
    key = evidence.contest.key
    if len(used) < FIRST_PAIRS:
        why = evidence.cut_short or "blocks were dropped for their covariates"
        raise StoreError(
            f"{key.device}: only {len(used)} of at least {FIRST_PAIRS} pairs count ({why}); "
            f"check the device (`edge-harness doctor {key.device}`) and try again"
        )
    differences = paired.log_ratios([pair.a for pair in used], [pair.b for pair in used])
    spread = paired.deviation(differences)
    df = MAX_PAIRS - 1
    error = spread / math.sqrt(MAX_PAIRS)
    seen = (stats.t_quantile(0.975, df) + stats.t_quantile(POWER, df)) * error
    timed = [one for one in evidence.readings if one.launch.kind == "timed"]
    return Selftest(
        identity=identity,
        device=key.device,
        model=key.model,
        digest=evidence.contest.a.variant.digest,
        threads=key.threads,
        run=run,
        created=created,
        p50_ns=stats.median([one.quantiles[paired.HALF] for one in timed]),
        quantile=quantile(timed),
        pairs=len(used),
        spread=spread,
        half_width=stats.t_quantile(0.975, df) * error,
        smallest_effect=math.exp(max(seen, math.log(1 + rules.min_effect))) - 1,
        arms=tuple(arm(differences, scale, rules, seed=seed) for scale in SCALES),
    )


def arm(differences: Sequence[float], scale: float, rules: Rules, *, seed: int = 0) -> Arm:
    """Draw gates from the differences of A against A, with B's samples scaled."""
    chance = random.Random(f"{seed}/{scale}")  # noqa: S311 - a simulation
    slower = red = count_of_pairs = 0
    for _ in range(GATES):
        first = _first_pairs(differences, scale, rules, chance)
        count_of_pairs += len(first.pairs)
        judged = verdicts.judge([first], margin=rules.margin, min_effect=rules.min_effect)
        slower += judged[0].verdict in _SLOWER
        if judged[0].verdict is Verdict.REGRESSION:
            count = verdicts.pairs_to_confirm(judged[0])
            fresh = _row([_drawn(differences, scale, chance, block) for block in range(count)])
            final = verdicts.confirm(
                judged, [fresh], margin=rules.margin, min_effect=rules.min_effect
            )
            red += verdicts.exit_code(final) == 1
    return Arm(scale=scale, told=slower / GATES, red=red / GATES, pairs=count_of_pairs / GATES)


def _first_pairs(
    differences: Sequence[float], scale: float, rules: Rules, chance: random.Random
) -> Comparison:
    found: list[Pair] = []
    while needs_more(found, max_pairs=rules.max_pairs):
        found.append(_drawn(differences, scale, chance, len(found)))
    return _row(found)


def _drawn(differences: Sequence[float], scale: float, chance: random.Random, block: int) -> Pair:
    shift = chance.choice(differences) * chance.choice((-1, 1))
    return Pair(block=block, a=1.0, b=scale * math.exp(shift))


def _row(found: Sequence[Pair]) -> Comparison:
    return Comparison(key=Key(model="a", device="d"), metric="latency", pairs=tuple(found))


def half_width(known: Sequence[Selftest], evidence: Evidence) -> float | None:
    """Return the half-width at 20 pairs that applies to a contest; None if no selftest does.

    That of the same file and number of threads; else the lowest of the files that take at least as
    long. Shorter inferences are noisier: a device that is too noisy for a slower file is too noisy
    for this one, but a faster file does not show that.
    """
    contest = evidence.contest
    comparable = [one for one in known if one.threads == contest.key.threads]
    same = [one for one in comparable if one.digest == contest.a.variant.digest]
    if same:
        return same[-1].half_width
    times = [one.quantiles[paired.HALF] for one in evidence.readings if one.quantiles]
    p50_ns = stats.median(times) if times else math.inf
    return min((one.half_width for one in comparable if one.p50_ns >= p50_ns), default=None)


def path_of(identity: str) -> Path:
    """Return the path of a device's selftests."""
    return assets.config_folder() / "selftest" / f"{identity}.json"


def read(identity: str) -> tuple[Selftest, ...]:
    """Return a device's selftests, oldest first; empty if it has none.

    Raises StoreError if the file is damaged.
    """
    path = path_of(identity)
    try:
        plain: Mapping[str, Any] = checksums.read_document(path, path.stem, needed=False)
    except FileNotFoundError:
        return ()
    except ValueError as error:
        raise StoreError(
            f"{path} is damaged ({error}); remove it and run selftest again"
        ) from error
    return load(_Kept, plain).selftests


def keep(made: Selftest) -> Path:
    """Store a selftest; it replaces an earlier one with the same file and threads."""
    known = [
        one
        for one in read(made.identity)
        if (one.digest, one.threads) != (made.digest, made.threads)
    ]
    path = path_of(made.identity)
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as part:
        text = checksums.summed(dump(_Kept(selftests=(*known, made))), path.stem)
        part.write_text(text + "\n", encoding="utf-8")
    return path
