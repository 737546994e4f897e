"""Real launches dealt as gates: our rules and the usual ones on the same launches.

A comparison takes launches that lie next to each other in their series, so that whatever the
machine did in those minutes is in it: first the pairs of the first look, then as many for the
confirmation. A and B alternate in mirrored blocks; where both sides are one file, B may be scaled.
"""

from __future__ import annotations

import json
import lzma
import math
import random
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.common import HERE, NotAsked
from harness.analysis.gate import verdicts
from harness.analysis.gate.findings import Comparison, Key
from harness.analysis.gate.verdicts import Judged, Verdict
from harness.measure.pairs import FIRST_PAIRS, MAX_PAIRS, Pair, needs_more
from harness.stats import paired

LAUNCHES = HERE / "launches"
SLOWER = (Verdict.REGRESSION, Verdict.SLOWER_WITHIN_MARGIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept of a launch; times in ns, `at` in seconds since the first launch."""

    side: str
    at: float
    n: int
    share: float | None
    quantiles: dict[float, float]
    samples: tuple[float, ...]

    def scaled(self, factor: float) -> Kept:
        return replace(
            self,
            quantiles={q: value * factor for q, value in self.quantiles.items()},
            samples=tuple(value * factor for value in self.samples),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Launches in the order they were made."""

    name: str
    machine: str
    launches: tuple[Kept, ...]


@cache
def read(name: str) -> Series:
    """Read a packed series; NotAsked where it was never collected."""
    path = LAUNCHES / f"{name}.jsonl.xz"
    if not path.exists():
        raise NotAsked(f"no launches of {name}: `python benchmarks/gate_launches.py collect`")
    header, *lines = lzma.decompress(path.read_bytes()).decode().splitlines()
    about = json.loads(header)
    quantiles = tuple(about["quantiles"])
    launches = []
    for line in lines:
        one: dict[str, Any] = json.loads(line)
        one["quantiles"] = dict(zip(quantiles, map(float, one["quantiles"]), strict=True))
        launches.append(Kept(**{**one, "samples": tuple(map(float, one["samples"]))}))
    return Series(name=name, machine=about["machine"], launches=tuple(launches))


@dataclass(frozen=True, slots=True, kw_only=True)
class Dealt:
    """A and B of one comparison, pair by pair; the first half is the first look's."""

    a: tuple[Kept, ...]
    b: tuple[Kept, ...]


def deal(
    series: Series,
    chance: random.Random,
    *,
    scale: float = 1.0,
    drift: float = 0.0,
    max_pairs: int = MAX_PAIRS,
) -> Dealt:
    """Draw one comparison: B `scale` times slower, all slower by `drift` in every ten minutes.

    Where the series has two files its own sides are kept, else sides are dealt afresh.
    """
    wanted = 4 * max_pairs
    launches = series.launches
    if len(launches) < wanted:
        raise NotAsked(f"{series.name}: {len(launches)} launches are too few, {wanted} are needed")
    start = 2 * chance.randrange((len(launches) - wanted) // 2 + 1)
    window = launches[start : start + wanted]
    two_files = "-" in series.name and not series.name.endswith("load")
    a: list[Kept] = []
    b: list[Kept] = []
    a_first = True
    for block in range(wanted // 2):
        first, second = window[2 * block : 2 * block + 2]
        a_first = chance.random() < 0.5 if block % 2 == 0 else not a_first
        if two_files:
            a_first = first.side == "a"
        for side, one in zip((a, b) if a_first else (b, a), (first, second), strict=True):
            minutes = max(0.0, one.at - window[0].at) / 60
            slower = math.exp(math.log1p(drift) * minutes / 10)
            factor = slower * (scale if side is b else 1.0)
            side.append(one if factor == 1.0 else one.scaled(factor))
    return Dealt(a=tuple(a), b=tuple(b))


def look(dealt: Dealt, *, fresh: int = 0, max_pairs: int = MAX_PAIRS) -> Comparison:
    """Take the pairs of the first look by the stop rule, or so many of the fresh ones."""
    half = len(dealt.a) // 2
    if fresh:
        found = _pairs(dealt.a[half : half + fresh], dealt.b[half : half + fresh])
    else:
        for count in range(FIRST_PAIRS, half + 1):
            found = _pairs(dealt.a[:count], dealt.b[:count])
            if not needs_more(found, max_pairs=max_pairs):
                break
    return Comparison(key=Key(model="m", device="d"), metric="latency", pairs=tuple(found))


def _pairs(a: Sequence[Kept], b: Sequence[Kept]) -> list[Pair]:
    both = [*a, *b]
    floor = paired.floor_quantile(min(one.n for one in both))
    share = paired.launch_quantile(
        [one.share for one in both],
        [one.quantiles[paired.HALF] / one.quantiles[floor] for one in both],
        floor,
    )
    return [
        Pair(block=block, a=x.quantiles[share], b=y.quantiles[share])
        for block, (x, y) in enumerate(zip(a, b, strict=True))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Said:
    """What our gate said of one comparison."""

    slower_first: bool
    """First verdict slower: REGRESSION or SLOWER_WITHIN_MARGIN."""
    red: bool
    """Fails the build: REGRESSION, confirmed."""
    pairs: int
    """Of the first look."""


def ours(dealt: Dealt, *, max_pairs: int = MAX_PAIRS) -> Said:
    """Hold our gate over one comparison."""
    first = look(dealt, max_pairs=max_pairs)
    judged = verdicts.judge([first])
    final = confirmed(judged, [dealt])
    return Said(
        slower_first=judged[0].verdict in SLOWER,
        red=verdicts.exit_code(final) == 1,
        pairs=len(first.pairs),
    )


def confirmed(judged: Sequence[Judged], dealt: Sequence[Dealt]) -> list[Judged]:
    """Confirm the rows that came out REGRESSION by the fresh pairs of their comparisons."""
    fresh = [
        replace(look(one, fresh=verdicts.pairs_to_confirm(row)), key=row.key)
        for row, one in zip(judged, dealt, strict=True)
        if row.verdict is Verdict.REGRESSION
    ]
    return verdicts.confirm(judged, fresh)


# --- the usual rules: launches of A and of B -> says slower ---------------------------------------


def _inferences(launches: Sequence[Kept]) -> list[float]:
    return [value for one in launches for value in one.samples]


def mean_threshold(a: Sequence[Kept], b: Sequence[Kept]) -> bool:
    return statistics.fmean(_inferences(b)) > 1.05 * statistics.fmean(_inferences(a))


def welch(a: Sequence[Kept], b: Sequence[Kept]) -> bool:
    from scipy.stats import ttest_ind

    found = ttest_ind(_inferences(b), _inferences(a), equal_var=False, alternative="greater")
    return bool(found.pvalue < 0.05)


def mann_whitney(a: Sequence[Kept], b: Sequence[Kept]) -> bool:
    from scipy.stats import mannwhitneyu

    return bool(mannwhitneyu(_inferences(b), _inferences(a), alternative="greater").pvalue < 0.05)


USUAL: dict[str, Callable[[Sequence[Kept], Sequence[Kept]], bool]] = {
    "mean + 5 %": mean_threshold,
    "Welch": welch,
    "Mann-Whitney": mann_whitney,
}


def pyperf_says_slower(compared: Sequence[tuple[Sequence[Kept], Sequence[Kept]]]) -> list[bool]:
    """Ask the real `pyperf compare_to` of all comparisons in one call; a run is a launch."""
    import pyperf  # type: ignore[import-untyped]

    with tempfile.TemporaryDirectory(prefix="bench-pyperf-") as folder:
        files = []
        for side in (0, 1):
            suite = pyperf.BenchmarkSuite(
                [
                    pyperf.Benchmark(
                        [
                            pyperf.Run(
                                [value * 1e-9 for value in launch.samples],
                                metadata={"name": f"c{number:04}"},
                                collect_metadata=False,
                            )
                            for launch in pair[side]
                        ]
                    )
                    for number, pair in enumerate(compared)
                ]
            )
            files.append(str(Path(folder) / f"{'ab'[side]}.json"))
            suite.dump(files[-1])
        argv = [sys.executable, "-m", "pyperf", "compare_to", *files, "-v"]
        printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    sections = re.split(r"^(c\d{4})\n=+\n", printed, flags=re.MULTILINE)
    found = dict(zip(sections[1::2], sections[2::2], strict=True))
    said = [found[f"c{number:04}"] for number in range(len(compared))]
    return ["slower" in text and "\nSignificant" in text for text in said]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """How often each rule said slower, over so many comparisons."""

    comparisons: int
    slower_first: float
    red: float
    pairs: float
    usual: dict[str, float]

    def beside(self) -> str:
        return ", ".join(f"{name} {share:.1%}" for name, share in self.usual.items())


def replay(
    series: Series,
    *,
    comparisons: int = 200,
    scale: float = 1.0,
    drift: float = 0.0,
    max_pairs: int = MAX_PAIRS,
) -> Shares:
    """Hold so many comparisons by our gate and by the usual rules, on the same launches."""
    chance = random.Random(f"{series.name}/{scale}/{drift}")
    said: list[Said] = []
    compared: list[tuple[Sequence[Kept], Sequence[Kept]]] = []
    for _ in range(comparisons):
        dealt = deal(series, chance, scale=scale, drift=drift, max_pairs=max_pairs)
        said.append(ours(dealt, max_pairs=max_pairs))
        compared.append((dealt.a[: said[-1].pairs], dealt.b[: said[-1].pairs]))
    usual = {
        name: sum(rule(a, b) for a, b in compared) / comparisons for name, rule in USUAL.items()
    }
    usual["pyperf compare_to"] = sum(pyperf_says_slower(compared)) / comparisons
    return Shares(
        comparisons=comparisons,
        slower_first=sum(one.slower_first for one in said) / comparisons,
        red=sum(one.red for one in said) / comparisons,
        pairs=statistics.fmean(one.pairs for one in said),
        usual=usual,
    )


def nights(
    all_series: Sequence[Series], *, count: int, cells: int = 600
) -> Iterator[tuple[int, int]]:
    """Simulate nights of unchanged cells; yields (first verdicts of REGRESSION, reds) of each."""
    chance = random.Random("nights")
    for _ in range(count):
        dealt = [deal(chance.choice(all_series), chance) for _ in range(cells)]
        rows = [
            replace(look(one), key=Key(model=str(number), device="d"))
            for number, one in enumerate(dealt)
        ]
        judged = verdicts.judge(rows)
        first = sum(row.verdict is Verdict.REGRESSION for row in judged)
        final = confirmed(judged, dealt) if first else judged
        yield first, sum(row.verdict is Verdict.REGRESSION for row in final)
