"""What the trained techniques give on the keyword model and the digits CNN, from several seeds.

The keyword model's 600 recordings are folded: seed k trains on two thirds and is judged on the
third that it has not seen, so that three seeds judge every recording once; the digits CNN is trained
from each seed and judged on the demo's 540 evaluation images. Lost points are against the float32
file on the same samples. What travels is the whole file under zstd, as a row's size_zstd_bytes is.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.common import CACHE, HERE, KEYWORD_MODEL, ROOT, NotAsked, digits, need, run
from benchmarks.figure import Figure
from harness.config.recipes import parse
from harness.optimize import build
from harness.types import DataSource, ModelSource, Variant

PQAT = "pqat(sparsity=0.5)"
PCQAT = "pcqat(sparsity=0.85, epochs=20)"
SEEDS = (7, 8, 9)
STUDENTS = (1, 2, 3, 4, 5)
STUDENT_IMAGES = 300
ALONE, TAUGHT = 0.0, 0.5
"""Share of the teacher in the student's loss."""
STUDENT_EPOCHS = int(os.environ.get("EDGE_BENCH_STUDENT_EPOCHS", "60"))

Built = Mapping[str, Variant]


def figures() -> Iterator[Figure]:
    with tempfile.TemporaryDirectory(prefix="bench-techniques-") as name:
        folder = Path(name)
        yield from _keyword(folder)
        yield from _digits(folder)
        yield _student(folder)


def _keyword(folder: Path) -> Iterator[Figure]:
    recipes = ("float32", "int8", PQAT)
    built = []
    for seed in range(len(SEEDS)):
        source = DataSource(**keyword_fold(folder, seed))
        model = ModelSource(
            name="kws", path=need(KEYWORD_MODEL, "the keyword SavedModel"), data=source
        )
        built.append(_built(model, recipes, folder / "cache", seed))
    yield _lost("keyword.int8", built, "int8", most=1.0)
    yield _lost("keyword.pqat", built, PQAT, most=1.0)
    yield _smaller("keyword.pqat", built, PQAT, least=1.2)


def keyword_fold(folder: Path, fold: int) -> dict[str, str]:
    """Write the fold's data: every third recording from `fold` on is judged, the others train."""
    from benchmarks.common import DATA

    with np.load(need(DATA / "kws" / "features.npz", "the keyword features")) as stored:
        x = (stored["x_int8"].astype(np.float32) - stored["zero_point"]) * stored["scale"]
        y = stored["y"].astype(np.int64)
    x = x.astype(np.float32)
    judged = np.arange(len(y)) % len(SEEDS) == fold
    paths = {
        word: str(folder / f"keyword-{fold}-{word}.npz")
        for word in ("training", "calibration", "evaluation")
    }
    np.savez(paths["training"], x=x[~judged], y=y[~judged])
    np.savez(paths["calibration"], x=x[~judged][:200])
    np.savez(paths["evaluation"], x=x[judged], y=y[judged])
    return paths


def _digits(folder: Path) -> Iterator[Figure]:
    data = ROOT / "harness" / "demo" / "data"
    source = DataSource(
        **{
            word: str(data / f"digits_{word}.npz")
            for word in ("training", "calibration", "evaluation")
        }
    )
    built = []
    for seed in SEEDS:
        model = ModelSource(name="digits", path=digits(seed), data=source)
        built.append(_built(model, ("float32", "int8", PCQAT), folder / "cache", seed))
    yield _smaller("digits.pcqat", built, PCQAT, least=3.0)
    yield _lost("digits.pcqat", built, PCQAT, most=1.0)


def _student(folder: Path) -> Figure:
    """Half the width, untrained, few images: alone, and beside the whole CNN as its teacher."""
    data = ROOT / "harness" / "demo" / "data"
    with np.load(data / "digits_training.npz") as stored:
        few = folder / "few.npz"
        np.savez(few, x=stored["x"][:STUDENT_IMAGES], y=stored["y"][:STUDENT_IMAGES])
    source = DataSource(training=str(few), evaluation=str(data / "digits_evaluation.npz"))
    teacher = digits(SEEDS[0])
    recipes = {
        alpha: f'distill(teacher="{teacher}", alpha={alpha}, epochs={STUDENT_EPOCHS}, patience=0)'
        for alpha in (ALONE, TAUGHT)
    }
    scores: dict[float, list[float]] = {alpha: [] for alpha in recipes}
    for seed in STUDENTS:
        path = CACHE / "digits" / f"student-{seed}.keras"
        if not path.exists():
            argv = [sys.executable, HERE / "make_digits.py", path.parent, str(seed), "--student"]
            run(argv, TF_CPP_MIN_LOG_LEVEL="2")
        model = ModelSource(name="student", path=path, data=source)
        built = _built(model, list(recipes.values()), folder / "cache", seed)
        for alpha, recipe in recipes.items():
            scores[alpha].append(100 * (built[recipe].accuracy or 0.0))
    gains = [t - a for t, a in zip(scores[TAUGHT], scores[ALONE], strict=True)]
    gain = statistics.fmean(gains)
    alone, taught = (statistics.fmean(scores[alpha]) for alpha in (ALONE, TAUGHT))
    return Figure(
        name="techniques.digits.distill.won",
        value=gain,
        unit="pt",
        bound="more than 0 points",
        holds=gain > 0,
        against=f"the same student trained alone, {alone:.2f} %",
        detail=f"{taught:.2f} % taught; by seed {_words(gains)}, standard deviation "
        f"{statistics.stdev(gains):.2f}; {STUDENT_EPOCHS} epochs of {STUDENT_IMAGES} images",
    )


def _built(model: ModelSource, recipes: Sequence[str], cache: Path, seed: int) -> Built:
    requests = [
        build.BuildRequest(model=model, recipe=parse(text), target="xnnpack") for text in recipes
    ]
    variants = {}
    for request, result in build.build_all(requests, cache=cache, seed=seed):
        if not isinstance(result, Variant):
            raise NotAsked(f"{request.recipe.name} of seed {seed}: {result}")
        variants[request.recipe.name] = result
    return variants


def _lost(name: str, built: Sequence[Built], recipe: str, *, most: float) -> Figure:
    points = [
        100 * ((one["float32"].accuracy or 0.0) - (one[recipe].accuracy or 0.0)) for one in built
    ]
    plain = statistics.fmean(one["float32"].accuracy or 0.0 for one in built)
    samples = sum(one[recipe].accuracy_samples or 0 for one in built)
    return Figure(
        name=f"techniques.{name}.lost",
        value=statistics.fmean(points),
        unit="pt",
        bound=f"< {most:g} points",
        holds=statistics.fmean(points) < most,
        against=f"float32, {100 * plain:.2f} %",
        detail=f"by seed {_words(points)}, standard deviation {statistics.stdev(points):.2f}; "
        f"{samples} answers",
    )


def _smaller(name: str, built: Sequence[Built], recipe: str, *, least: float) -> Figure:
    ratios = [
        (one["int8"].size_zstd_bytes or 0) / (one[recipe].size_zstd_bytes or 1) for one in built
    ]
    plain = statistics.fmean(one["int8"].size_zstd_bytes or 0 for one in built)
    return Figure(
        name=f"techniques.{name}.smaller",
        value=min(ratios),
        unit="x",
        bound=f">= {least:g}",
        holds=min(ratios) >= least,
        against=f"int8 under zstd, {plain:,.0f} B",
        detail=f"{recipe}, the least of {', '.join(f'{ratio:.2f}' for ratio in ratios)}",
    )


def _words(points: Sequence[float]) -> str:
    return ", ".join(f"{value:+.2f}" for value in points)
