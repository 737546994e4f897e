"""The effects that a gate can see on a device, from A measured against itself.

From the pairs of launches of one file, many gates are drawn: pairs with replacement and random signs,
since A and B are the same, with B's samples scaled by 1, 1.02, 1.05 and 1.10. They follow the stop
rule, the verdicts and the confirmation of a real gate. The results are stored in one file per device,
named by its identity.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from harness import assets, stats
from harness.analysis.gate import verdicts
from harness.analysis.gate.contest import Evidence, Rules, pairs, quantile
from harness.analysis.gate.findings import Comparison, Key
from harness.analysis.gate.noise import NOISY_HALF_WIDTH, DeviceNoise
from harness.analysis.gate.verdicts import Verdict
from harness.columns import NS_PER_MS
from harness.errors import StoreError
from harness.measure.pairs import FIRST_PAIRS, MAX_PAIRS, Pair, needs_more
from harness.printable import counted
from harness.records.store import checksums
from harness.records.store.codec import dump, load
from harness.records.store.journal import appearing
from harness.stats import paired

SCALES = (1.0, 1.02, 1.05, 1.10)
GATES = 300
"""Gates per scale: the standard error of a share is at most 2.9 points."""

POWER = 0.95

MAX_AGE = timedelta(days=30)
_CLOCKS_DIFFER = timedelta(days=1)
LATENCY_RANGE = 4.0
"""A selftest of another file counts if that takes as long as this one, and at most 4 times as long."""

MAX_OTHER_LOAD = 0.5
"""Per core: with a higher load beside its own threads, a selftest was taken in a busy hour."""

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
    """The smallest slowdown that 95 % of gates of 20 pairs judge slower."""
    arms: tuple[Arm, ...]
    runtime: str = ""
    """The runtime of its launches; empty in selftests from before it was stored."""
    load: float | None = None
    """The load average over a minute: the median before its launches. None if not reported."""
    cores: int | None = None

    @property
    def unfit(self) -> str | None:
        """Why it counts for no gate, whatever is measured there; None if it may count."""
        if self.load is None or not self.cores:
            return None
        most = self.threads + MAX_OTHER_LOAD * self.cores
        if self.load <= most:
            return None
        return (
            f"the device had a load of {self.load:.1f} on {self.cores} cores during it, "
            f"{most:.1f} is the most"
        )

    @property
    def fit(self) -> bool:
        """Whether it counts for gates, and the device is quiet enough for them."""
        return self.unfit is None and self.half_width <= NOISY_HALF_WIDTH

    def plain(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {**dump(self), "fit": self.fit, "unfit": self.unfit}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """The content of one device's file."""

    selftests: tuple[Selftest, ...] = field(default_factory=tuple)


def analyse(
    evidence: Evidence,
    rules: Rules,
    *,
    identity: str,
    run: str,
    created: str,
    cores: int | None = None,
    seed: int = 0,
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
    # Judged slower: the interval is above 0, and the estimate is at least min_effect.
    least = max(stats.t_quantile(0.975, df) * error, math.log1p(rules.min_effect))
    timed = [one for one in evidence.readings if one.launch.kind == "timed"]
    loads = [one.launch.before.load_1m for one in timed if one.launch.before.load_1m is not None]
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
        smallest_effect=math.expm1(least + stats.t_quantile(POWER, df) * error),
        arms=tuple(arm(differences, scale, rules, seed=seed) for scale in SCALES),
        runtime=timed[0].launch.runtime,
        load=stats.median(loads) if loads else None,
        cores=cores,
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


def applied(known: Sequence[Selftest], evidence: Evidence, now: datetime) -> DeviceNoise | None:
    """Return what a device's selftests say about a contest; None if it has none.

    That of the same file and number of threads; else the quietest. The first that fits counts; if
    none fits, the first is returned with the reason (`unfit`), and decides nothing.
    """
    contest = evidence.contest
    same = [
        one
        for one in reversed(known)
        if (one.digest, one.threads) == (contest.a.variant.digest, contest.key.threads)
    ]
    others = sorted((one for one in known if one not in same), key=lambda one: one.half_width)
    found = [_noise(one, next(_misfits(one, evidence, now), None)) for one in (*same, *others)]
    return next((one for one in found if one.unfit is None), found[0] if found else None)


def _noise(made: Selftest, unfit: str | None) -> DeviceNoise:
    unchanged = next((one for one in made.arms if one.scale == 1), None)
    return DeviceNoise(
        run=made.run,
        created=made.created,
        model=made.model,
        digest=made.digest,
        threads=made.threads,
        runtime=made.runtime,
        load=made.load,
        p50_ns=made.p50_ns,
        pairs=made.pairs,
        spread=made.spread,
        half_width=made.half_width,
        smallest_effect=made.smallest_effect,
        false_alarms=unchanged.red if unchanged else None,
        unfit=unfit,
    )


def _misfits(made: Selftest, evidence: Evidence, now: datetime) -> Iterator[str]:
    """Yield the reasons why a selftest says nothing about a contest."""
    contest = evidence.contest
    if made.threads != contest.key.threads:
        yield f"it used {counted(made.threads, 'thread')}, not {contest.key.threads}"
    timed = [one for one in evidence.readings if one.launch.kind == "timed" and one.quantiles]
    runtimes = {one.launch.runtime for one in timed}
    if made.runtime and runtimes and made.runtime not in runtimes:
        yield f"it used {made.runtime}, not {', '.join(sorted(runtimes))}"
    if made.digest != contest.a.variant.digest:
        p50_ns = stats.median([one.quantiles[paired.HALF] for one in timed]) if timed else math.inf
        if not p50_ns <= made.p50_ns <= LATENCY_RANGE * p50_ns:
            yield (
                f"its file takes {made.p50_ns / NS_PER_MS:.3g} ms, and the noise of such a file is "
                f"not that of one of {p50_ns / NS_PER_MS:.3g} ms"
            )
    age = _age(made.created, now)
    if age is None or age > MAX_AGE:
        old = "its time is not known" if age is None else f"it is {age.days} days old"
        yield f"{old}, {MAX_AGE.days} days are the most"
    elif age < -_CLOCKS_DIFFER:
        yield f"its time, {made.created[:10]}, is in the future"
    if made.unfit is not None:
        yield made.unfit


def _age(created: str, now: datetime) -> timedelta | None:
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        return None
    return now - (moment if moment.tzinfo else moment.replace(tzinfo=UTC))


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
    """Store a selftest; it replaces an earlier one with the same file and threads.

    One that may count is not replaced by one that counts for no gate.
    """
    known = [
        one
        for one in read(made.identity)
        if (one.digest, one.threads) != (made.digest, made.threads)
        or (one.unfit is None and made.unfit is not None)
    ]
    path = path_of(made.identity)
    path.parent.mkdir(parents=True, exist_ok=True)
    with appearing(path) as part:
        text = checksums.summed(dump(_Kept(selftests=(*known, made))), path.stem)
        part.write_text(text + "\n", encoding="utf-8")
    return path
