"""Pruning, clustering and quantisation-aware training in sequence; each keeps the earlier results.

A stage is skipped if the model already has its structure: `pqat(sparsity=0.5)` prunes a dense model
but not one from `prune(sparsity=0.8)`. The weights decide, not the recipe.
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
    """Run the missing stages, then train with simulated int8 rounding and convert.

    Args:
        source: A trained model.
        parameters: With `sparsity` or `clusters` or both, as `preserve` requires.
        data: With training data.
        workdir: Folder of the result.
        preserve: The structure that the first stages make and the last one keeps.

    Raises RecipeError as the stages do.
    """
    with fit.prepared(data.seed) as place:
        model = models.load(source)
        settings = fit.settings(parameters)
        task = fit.task(model, data, settings, place)
        notes = _structured(model, task, parameters, preserve)
        fine = fit.slower(task, parameters["fine_rate"])
        emulated, training_notes = quantised.quantise(model, fine, preserve=preserve)
        noted = models.noted(source, (*notes, *training_notes))
        return finish.int8(emulated, model, fine, noted, workdir, io=parameters["io"])


def _structured(
    model: Keras, task: fit.Task, parameters: Mapping[str, Any], preserve: quantised.Preserve
) -> tuple[str, ...]:
    """Prune and cluster the model in place unless it is already; return notes."""
    notes: list[str] = []
    zeros, shared = "zeros" in preserve, "clusters" in preserve
    if zeros:
        if sparse.is_pruned(model, parameters["sparsity"]):
            notes.append("pruned already: its zeros are kept")
        else:
            notes += sparse.prune(model, task, sparse.PruneSpec(sparsity=parameters["sparsity"]))
    if shared:
        if clustered.is_clustered(model, parameters["clusters"]):
            notes.append("clustered already: its values are kept")
        else:
            notes += clustered.cluster(
                model, task, clusters=parameters["clusters"], preserve_sparsity=zeros
            )
    return tuple(notes)
