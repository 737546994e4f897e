"""How long a post-training recipe of the keyword model takes a warm worker, and how much memory.

One call builds everything with one worker: first the digits CNN, so that TensorFlow and the
quantiser are imported, then the keyword model's recipes. A recipe's seconds are its own stages (the
step, and the check on 400 recordings); the conversion that all share is told apart.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmarks.common import DATA, KEYWORD_MODEL, ROOT, NotAsked, digits, need
from benchmarks.figure import Figure
from harness.config.recipes import parse
from harness.events import BuildProgress
from harness.optimize import build
from harness.types import DataSource, ModelSource, Variant

RECIPES = ("float32", "float16", "dynamic", "weight_only", "int8", "int16x8", "mixed")
SECONDS = 3.0
MEGABYTES = 300.0


def figures() -> Iterator[Figure]:
    events: list[BuildProgress] = []
    with tempfile.TemporaryDirectory(prefix="bench-recipes-") as name:
        folder = Path(name)
        first = ModelSource(
            name="digits",
            path=digits(7),
            data=DataSource(evaluation=str(ROOT / "harness/demo/data/digits_evaluation.npz")),
        )
        model = ModelSource(
            name="kws",
            path=need(KEYWORD_MODEL, "the keyword SavedModel"),
            data=DataSource(**_data(folder)),
        )
        requests = [build.BuildRequest(model=first, recipe=parse("float16"), target="xnnpack")]
        requests += [
            build.BuildRequest(model=model, recipe=parse(text), target="xnnpack")
            for text in RECIPES
        ]
        for request, result in build.build_all(
            requests, cache=folder / "cache", workers=1, on_event=events.append
        ):
            if not isinstance(result, Variant):
                raise NotAsked(f"{request.recipe.name}: {result}")
    seconds: dict[str, float] = defaultdict(float)
    stages: dict[str, list[str]] = defaultdict(list)
    peaks: dict[str, float] = defaultdict(float)
    for event in events:
        if event.status == "done" and event.model == "kws":
            word = event.recipe or event.stage
            seconds[word] += event.seconds or 0.0
            stages[word].append(f"{event.stage} {event.seconds:.2f} s")
            peaks[word] = max(peaks[word], (event.peak_rss_bytes or 0) / 1e6)
    for word in (*RECIPES, "convert"):
        yield Figure(
            name=f"recipes.{word}.time",
            value=seconds[word],
            unit="s",
            bound=f"< {SECONDS:g} s",
            holds=seconds[word] < SECONDS,
            against="a worker that has built another model",
            detail=", ".join(stages[word]),
        )
    most = max(RECIPES, key=lambda word: peaks[word])
    yield Figure(
        name="recipes.memory",
        value=peaks[most],
        unit="MB",
        bound=f"< {MEGABYTES:g} MB",
        holds=peaks[most] < MEGABYTES,
        against=f"converting, which needs TensorFlow: {peaks['convert']:.0f} MB",
        detail=f"VmHWM after {most}; the same worker did every recipe",
    )


def _data(folder: Path) -> dict[str, str]:
    with np.load(need(DATA / "kws" / "features.npz", "the keyword features")) as stored:
        x = (stored["x_int8"].astype(np.float32) - stored["zero_point"]) * stored["scale"]
        y = stored["y"].astype(np.int64)
    paths = {word: str(folder / f"{word}.npz") for word in ("calibration", "evaluation")}
    np.savez(paths["calibration"], x=x[:200].astype(np.float32), y=y[:200])
    np.savez(paths["evaluation"], x=x[200:].astype(np.float32), y=y[200:])
    return paths
