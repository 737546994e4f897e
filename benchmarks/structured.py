"""Half of the filters, and half of the parameters, of the digits CNN: what it costs and what it gives.

The CNN of the demo is trained from three seeds on the demo's split; each is made smaller and
trained by the recipe as a user would write it, seeded alike. Accuracy is of the built files on the
540 images that nothing was trained or chosen on (one of them is 0.19 points). Time is of the files
of one seed, the shapes being the same: launches of `bare_loop.py` in turn, one thread, one
processor.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.common import HERE, ROOT, NotAsked, digits, run
from benchmarks.figure import Figure, Ratio, paired_ratio
from harness.optimize import build
from harness.tflite import flatbuffer
from harness.types import DataSource, ModelSource, Recipe, StepCall, Variant

SEEDS = (7, 8, 9)
RECIPES: Mapping[str, Mapping[str, object]] = {
    "float32": {},
    "prune_filters": {"keep": 0.5},
    "decompose": {"keep": 0.5},
}
FASTER = 1.5
LOST_BY_PRUNING, LOST_BY_FACTORS = 1.5, 1.0
"""Points of accuracy."""
KEPT = 0.5
LEAST_PAIRS, MOST_PAIRS = 10, 60
TIGHT = 0.02
"""Half-width of the interval at which no more pairs are added."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One recipe over the seeds."""

    lost: Sequence[float]
    """Points of accuracy, by seed."""
    kept: float
    """Share of the float32 file's weights."""
    path: Path
    """Of the first seed."""
    size_bytes: int

    def words(self) -> str:
        spread = statistics.stdev(self.lost)
        each = ", ".join(f"{points:+.2f}" for points in self.lost)
        return f"{each} by seed, standard deviation {spread:.2f}; {self.kept:.1%} of the weights"


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-structured-") as folder:
        variants = [_built(seed, Path(folder, str(seed))) for seed in SEEDS]
        pruned, factored = (_side(variants, name) for name in ("prune_filters", "decompose"))
        plain = variants[0]["float32"]
        accuracy = statistics.fmean(found["float32"].accuracy or 0 for found in variants)
        yield _lost("prune_filters", pruned, LOST_BY_PRUNING, accuracy)
        yield _lost("decompose", factored, LOST_BY_FACTORS, accuracy, kept=KEPT)
        faster, own = _faster(plain.path, pruned.path)
        yield Figure(
            name="structured.prune_filters.speed",
            value=faster.value,
            unit="x",
            bound=f"95 % at least {FASTER}",
            holds=faster.low >= FASTER,
            against=f"the float32 file, p50 {own / 1000:.1f} us",
            detail=f"[{faster.low:.3f}, {faster.high:.3f}], {faster.pairs} pairs; "
            f"{pruned.size_bytes:,} B instead of {plain.size_bytes:,}",
        )
        beside, _ = _faster(plain.path, factored.path)
        print(
            f"      decompose beside float32: {beside.value:.3f}x as fast "
            f"[{beside.low:.3f}, {beside.high:.3f}], {beside.pairs} pairs; "
            f"{factored.size_bytes:,} B (nothing promised)"
        )


def _built(seed: int, cache: Path) -> dict[str, Variant]:
    data = ROOT / "harness" / "demo" / "data"
    model = ModelSource(
        name="digits",
        path=digits(seed),
        data=DataSource(
            training=str(data / "digits_training.npz"),
            evaluation=str(data / "digits_evaluation.npz"),
        ),
    )
    requests = [
        build.BuildRequest(
            model=model,
            recipe=Recipe(name=name, steps=(StepCall(name=name, parameters=parameters),)),
            target="xnnpack",
        )
        for name, parameters in RECIPES.items()
    ]
    variants = {}
    for request, result in build.build_all(requests, cache=cache, seed=seed):
        if not isinstance(result, Variant):
            raise NotAsked(f"{request.recipe.name} of seed {seed}: {result}")
        variants[request.recipe.name] = result
    return variants


def _side(variants: Sequence[Mapping[str, Variant]], name: str) -> Side:
    lost = [
        100 * ((found["float32"].accuracy or 0) - (found[name].accuracy or 0)) for found in variants
    ]
    kept = max(_weights(found[name]) / _weights(found["float32"]) for found in variants)
    first = variants[0][name]
    return Side(lost=lost, kept=kept, path=first.path, size_bytes=first.size_bytes)


def _weights(variant: Variant) -> int:
    return sum(
        weight.elements
        for weight in flatbuffer.read(variant.path).weights
        if weight.dtype == "float32"
    )


def _lost(
    name: str, side: Side, most: float, accuracy: float, *, kept: float | None = None
) -> Figure:
    lost = statistics.fmean(side.lost)
    share = "" if kept is None else f", {kept:.0%} kept"
    return Figure(
        name=f"structured.{name}.lost",
        value=lost,
        unit="pt",
        bound=f"< {most:g} points{share}",
        holds=lost < most and (kept is None or side.kept <= kept),
        against=f"the float32 files, mean accuracy {accuracy:.4f} of {len(side.lost)} seeds",
        detail=side.words(),
    )


def _faster(plain: Path, less: Path) -> tuple[Ratio, float]:
    """How many times faster the second file is, and the median of the first in ns."""
    slow: list[float] = []
    fast: list[float] = []
    for pair in range(MOST_PAIRS):
        sides = [(slow, plain), (fast, less)]
        for times, path in reversed(sides) if pair % 2 else sides:
            times.append(_p50(path))
        if len(slow) >= LEAST_PAIRS and paired_ratio(slow, fast).half_width <= TIGHT:
            break
    return paired_ratio(slow, fast), statistics.median(slow)


def _p50(path: Path) -> float:
    """Median of a launch in ns, always on the same processor."""
    processor = max(os.sched_getaffinity(0))
    argv: list[str | Path] = [
        sys.executable,
        HERE / "bare_loop.py",
        path,
        "1",
        str(processor),
    ]
    return float(run(argv).stdout.split()[0])
