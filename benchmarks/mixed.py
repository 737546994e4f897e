"""A model that int8 ruins, against the same model with its few worst operators left in float.

The digits model of the demo, its channels badly scaled around its first depthwise stage from three
seeds (`badly_scaled.py`: the float model computes the same). int8 and mixed are built of each from
the same calibration data; mixed chooses by labelled training data; accuracy is on evaluation data
that neither has seen.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.badly_scaled import badly_scaled
from benchmarks.common import ROOT
from benchmarks.figure import Figure

DATA = ROOT / "harness" / "demo" / "data"
SEEDS = (7, 8, 9)
RUINED = 0.05
DROP = 0.01
SHARE = 0.70


def figures() -> Iterator[Figure]:
    from harness.config.recipes import parse
    from harness.errors import HarnessError
    from harness.optimize import build
    from harness.tflite import structure
    from harness.types import DataSource, ModelSource

    sources = {
        word: str(DATA / f"digits_{word}.npz") for word in ("training", "calibration", "evaluation")
    }
    good = (DATA / "digits.tflite").read_bytes()
    drops: dict[str, list[float]] = {"int8": [], "mixed": []}
    shares: list[float] = []
    seconds: list[float] = []
    with tempfile.TemporaryDirectory(prefix="bench-mixed-") as name:
        for seed in SEEDS:
            path = Path(name, f"badly_scaled_{seed}.tflite")
            path.write_bytes(badly_scaled(good, seed=seed))
            model = ModelSource(name=path.stem, path=path, data=DataSource(**sources))
            requests = [
                build.BuildRequest(model=model, recipe=parse(recipe), target="xnnpack")
                for recipe in drops
            ]
            for request, result in build.build_all(requests, cache=Path(name, "cache")):
                if isinstance(result, HarnessError):
                    raise result
                assert result.accuracy is not None
                assert result.accuracy_source_model is not None
                drop = result.accuracy_source_model - result.accuracy
                drops[request.recipe.name].append(drop)
                if request.recipe.name == "mixed":
                    shares.append(structure.int8_share(structure.read(result.path)))
                    seconds.append(result.build_seconds or 0.0)
    worst = max(drops["mixed"]) * 100
    ruined = min(drops["int8"])
    yield Figure(
        name="mixed.accuracy_lost",
        value=worst,
        unit="pt",
        bound=f"<= {DROP * 100:.0f} pt",
        holds=worst <= DROP * 100 and ruined > RUINED,
        against=f"int8 on the same files, {_points(drops['int8'])} pt lost",
        detail=f"the worst of {len(SEEDS)} seeds: {_points(drops['mixed'])}; "
        f"built in {', '.join(f'{value:.1f}' for value in seconds)} s",
    )
    least = min(shares)
    yield Figure(
        name="mixed.int8_share",
        value=least * 100,
        unit="%",
        bound=f">= {SHARE * 100:.0f} %",
        holds=least >= SHARE,
        against="int8, 100 %",
        detail=f"of the weights; the least of {', '.join(f'{share:.1%}' for share in shares)}",
    )


def _points(drops: list[float]) -> str:
    return ", ".join(f"{drop * 100:.1f}" for drop in drops)
