"""The gate against the usual rules, on real launches: collected once, replayed as many gates.

    python benchmarks/gate_campaign.py collect --launches 500 [--load] [MODEL...]
    python benchmarks/gate_campaign.py replay [--comparisons 200] [--drift 0.1]

`collect` adds launches of each model (default: the keyword model) to .cache/bench/gate/. `replay`
draws comparisons from launches that lie next to each other, takes A and B in mirrored blocks, scales B
by 1, 1.05 and 1.10, and prints how often each rule says slower: ours (first verdict, and red in the
end), a mean with a threshold of 5 %, Welch's t and Mann-Whitney on inferences (p < 0.05). `--drift`
slows the machine by so much in ten minutes, on top of what it did. `--load` keeps every processor
busy meanwhile. Run it on a machine that does nothing else.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import random
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.common import CACHE, KEYWORD_INT8, need  # noqa: E402
from harness import paired, stats  # noqa: E402
from harness.gate import verdicts  # noqa: E402
from harness.gate.findings import Comparison, Key  # noqa: E402
from harness.gate.verdicts import Verdict  # noqa: E402
from harness.measure import pinning  # noqa: E402
from harness.measure.pairs import Pair, needs_more  # noqa: E402
from harness.types import Device, Dose, LaunchOrder  # noqa: E402

FOLDER = CACHE / "gate"
KEPT_SAMPLES = 200
"""Inferences kept of a launch, evenly taken, for the rules that look at inferences."""

MAX_PAIRS = 20
SCALES = (1.0, 1.05, 1.10)
SLOWER = (Verdict.REGRESSION, Verdict.SLOWER_WITHIN_MARGIN)


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """What is kept of a launch; times in ns, `at` in seconds since the first launch."""

    at: float
    floor: float
    p25: float
    p50: float
    share: float | None
    samples: tuple[float, ...]

    def scaled(self, factor: float) -> Kept:
        return replace(
            self,
            floor=self.floor * factor,
            p25=self.p25 * factor,
            p50=self.p50 * factor,
            samples=tuple(value * factor for value in self.samples),
        )


@contextmanager
def busy(*, wanted: bool) -> Iterator[None]:
    """Keep every processor busy with processes of our own, ended by their id."""
    argv = [sys.executable, "-c", "while True: pass"]
    spinning = [subprocess.Popen(argv) for _ in range(os.cpu_count() or 1)] if wanted else []
    try:
        yield
    finally:
        for one in spinning:
            one.kill()
            one.wait()


def collect(model: Path, launches: int, *, load: bool) -> Path:
    """Add launches of a model to its file, one JSON line each."""
    from harness.sessions import Session

    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    target = FOLDER / f"{model.stem}{'-load' if load else ''}-{digest[:8]}.jsonl"
    target.parent.mkdir(parents=True, exist_ok=True)
    device = Device(name="here", profile="linux_x86_64", address="local:", python=sys.executable)
    session = Session(device)
    try:
        session.bring({digest: model})
        order = LaunchOrder(
            cell_id="campaign",
            kind="timed",
            block=0,
            position=0,
            variant_digest=digest,
            target="xnnpack",
            threads=1,
            dose=Dose(min_seconds=1.0),
            processors=pinning.processors(session.facts, 1),
        )
        with busy(wanted=load), target.open("a", encoding="utf-8") as file:
            for number in range(launches):
                launch = session.dialect.launch(replace(order, block=number))
                (latency,) = (part for part in launch.samples if part.series == "latency")
                step = max(1, len(latency) // KEPT_SAMPLES)
                line = {
                    "at": latency.at_ns[0] / 1e9,
                    "floor": stats.quantile(latency.value, paired.FLOOR),
                    "p25": stats.quantile(latency.value, 0.25),
                    "p50": stats.quantile(latency.value, 0.5),
                    "share": launch.cpu_share,
                    "samples": list(latency.value[::step][:KEPT_SAMPLES]),
                }
                file.write(json.dumps(line) + "\n")
                file.flush()
    finally:
        session.close()
    return target


def read(path: Path) -> list[Kept]:
    plain: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    return [Kept(**{**one, "samples": tuple(one["samples"])}) for one in plain]


# --- the rules: launches of A and of B -> says slower ----------------------------------------------


def ours(a: Sequence[Kept], b: Sequence[Kept]) -> tuple[bool, bool, int]:
    """Say slower at first, red in the end, and how many pairs the first look took."""
    half = len(a) // 2
    first = _look(a[:half], b[:half], whole=False)
    judged = verdicts.judge([first])
    red = False
    if judged[0].verdict is Verdict.REGRESSION:
        count = verdicts.pairs_to_confirm(judged[0])
        fresh = _look(a[half : half + count], b[half : half + count], whole=True)
        red = verdicts.exit_code(verdicts.confirm(judged, [fresh])) == 1
    return judged[0].verdict in SLOWER, red, len(first.pairs)


def _look(a: Sequence[Kept], b: Sequence[Kept], *, whole: bool) -> Comparison:
    found: list[Pair] = []
    for count in range(1, len(a) + 1):
        both = [*a[:count], *b[:count]]
        share = paired.launch_quantile(
            [one.share for one in both], [one.p50 / one.floor for one in both]
        )
        name = {paired.FLOOR: "floor", 0.25: "p25"}.get(share, "p50")
        found = [
            Pair(block=block, a=getattr(x, name), b=getattr(y, name))
            for block, (x, y) in enumerate(zip(a[:count], b[:count], strict=True))
        ]
        if not whole and not needs_more(found, max_pairs=MAX_PAIRS):
            break
    return Comparison(key=Key(model="m", device="d"), metric="latency", pairs=tuple(found))


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


def replay(path: Path, comparisons: int, drift: float) -> None:
    """Print how often each rule says slower, for every scale."""
    launches = read(path)
    wanted = 4 * MAX_PAIRS  # A and B, the first look and the fresh pairs
    if len(launches) < wanted:
        print(f"{path.name}: {len(launches)} launches are too few, {wanted} are needed")
        return
    chance = random.Random(0)
    print(f"{path.name}: {len(launches)} launches, {comparisons} comparisons a line")
    print(f"{'B':>6} {'ours':>7} {'red':>7} {'pairs':>6} " + " ".join(f"{n:>13}" for n in USUAL))
    for scale in SCALES:
        told = red = pairs = 0
        usual = dict.fromkeys(USUAL, 0)
        for _ in range(comparisons):
            start = chance.randrange(len(launches) - wanted + 1)
            a, b = _sides(launches[start : start + wanted], scale, drift, chance)
            first, final, count = ours(a, b)
            told, red, pairs = told + first, red + final, pairs + count
            for name, rule in USUAL.items():
                usual[name] += rule(a[:count], b[:count])
        shares = " ".join(f"{usual[name] / comparisons:>13.1%}" for name in USUAL)
        print(
            f"{scale:>6} {told / comparisons:>7.1%} {red / comparisons:>7.1%} "
            f"{pairs / comparisons:>6.1f} {shares}"
        )


def _sides(
    launches: Sequence[Kept], scale: float, drift: float, chance: random.Random
) -> tuple[list[Kept], list[Kept]]:
    """Deal launches to A and B in mirrored blocks, B scaled, all the slower the later they are."""
    a: list[Kept] = []
    b: list[Kept] = []
    a_first = True
    for block in range(len(launches) // 2):
        a_first = chance.random() < 0.5 if block % 2 == 0 else not a_first
        for side, one in zip((a, b) if a_first else (b, a), launches[2 * block :], strict=False):
            minutes = max(0.0, one.at - launches[0].at) / 60
            slower = math.exp(math.log1p(drift) * minutes / 10)
            side.append(one.scaled(slower * (scale if side is b else 1.0)))
    return a, b


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("what", choices=("collect", "replay"))
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--launches", type=int, default=500)
    parser.add_argument("--comparisons", type=int, default=200)
    parser.add_argument("--drift", type=float, default=0.0)
    parser.add_argument("--load", action="store_true")
    options = parser.parse_args()
    print(f"load average {os.getloadavg()[0]:.2f} on {os.cpu_count()} processors")
    if options.what == "collect":
        for model in options.models or [need(KEYWORD_INT8, "the keyword model")]:
            print(collect(model, options.launches, load=options.load))
        return 0
    found = options.models or sorted(FOLDER.glob("*.jsonl"))
    for path in found:
        replay(path, options.comparisons, options.drift)
    return 0 if found else 3


if __name__ == "__main__":
    sys.exit(main())
