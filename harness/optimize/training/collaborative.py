"""Pruning, clustering and quantisation-aware training after one another, each keeping the last's.

A stage that the model has been through already is not done again: `pqat(sparsity=0.5)` prunes a
dense model, and takes one that `prune(sparsity=0.8)` made as it is. What is there is read off the
weights, not off the recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize.training import clustered, finish, fit, models, quantised, sparse
from harness.optimize.training.libraries import Keras
from harness.protocols import Artifact, StepData


def build(
    source: Artifact,
    parameters: Mapping[str, Any],
    data: StepData,
    workdir: Path,
    *,
    preserve: quantised.Preserve,
) -> Artifact:
    """Go through the stages that are missing, then train with int8 in the way and convert.

    Args:
        source: A trained model.
        parameters: With `sparsity` or `clusters` or both, as `preserve` asks for.
        data: With training data.
        workdir: Where the file goes.
        preserve: What the stages before leave and the last one keeps.

    Raises RecipeError as the stages do.
    """
    with fit.prepared(data.seed) as place:
        model = models.load(source)
        settings = fit.settings(parameters)
        task = fit.task(model, data, settings, place)
        notes = _structured(model, task, parameters, preserve)
        fine = fit.slower(task, parameters["fine_rate"])
        emulated, told = quantised.quantise(model, fine, preserve=preserve)
        noted = models.noted(source, (*notes, *told))
        return finish.int8(emulated, model, fine, noted, workdir, io=parameters["io"])


def _structured(
    model: Keras, task: fit.Task, parameters: Mapping[str, Any], preserve: quantised.Preserve
) -> tuple[str, ...]:
    """Prune and cluster the model in place where it is not yet; return notes."""
    notes: list[str] = []
    zeros, shared = "zeros" in preserve, "clusters" in preserve
    if zeros:
        if sparse.has(model, parameters["sparsity"]):
            notes.append("pruned already: its zeros are kept")
        else:
            notes += sparse.prune(model, task, sparse.PruneSpec(sparsity=parameters["sparsity"]))
    if shared:
        if clustered.has(model, parameters["clusters"]):
            notes.append("clustered already: its values are kept")
        else:
            notes += clustered.cluster(
                model, task, clusters=parameters["clusters"], preserve_sparsity=zeros
            )
    return tuple(notes)
