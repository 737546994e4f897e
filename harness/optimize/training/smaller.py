"""The shared code of the steps that make a model smaller and then train it.

return smaller.make(_change, source, parameters, data, workdir)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from harness import hints
from harness.errors import RecipeError
from harness.optimize.training import fit, models
from harness.optimize.training.libraries import Keras
from harness.protocols import Artifact, StepData

Change = Callable[[Keras, Mapping[str, Any]], tuple[Keras, tuple[str, ...]]]
"""A function from the model and the step's parameters to the smaller model and notes."""


def make(
    change: Change,
    source: Artifact,
    given: Mapping[str, Any],
    data: StepData,
    workdir: Path,
) -> Artifact:
    """Load a model, make it smaller, train it and write it for the next step.

    Raises RecipeError as `change` does, for a model that cannot be converted, for epochs without
    training data, and as `fit.fit` does.
    """
    if given["epochs"] and data.training is None:
        raise RecipeError(
            f"there is no training data for {given['epochs']} epochs: give the key training in "
            f"[data] of the plan or {hints.option('training')}, or epochs=0 to keep the cut model "
            "untrained (usually far less accurate)"
        )
    with fit.prepared(data.seed) as place:
        model = models.load(source)
        if not given["epochs"]:
            less, notes = change(model, given)
            return models.keep(less, source, workdir, notes=(*notes, "not trained afterwards"))
        task = fit.task(model, data, fit.settings(given), place)
        less, notes = change(model, given)
        cut = fit.evaluate(less, task)
        result = fit.fit(less, task, what="trained afterwards")
        return models.keep(
            less, source, workdir, notes=(*notes, _score_note("after the cut", cut), *result.notes)
        )


def _score_note(when: str, score: tuple[float, float | None]) -> str:
    loss, accuracy = score
    return f"{when}: loss {loss:.4g}" + ("" if accuracy is None else f", accuracy {accuracy:.4g}")
