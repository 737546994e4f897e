"""Load a step's source model and write its result for the next step.

    model = models.load(source)                      # a tf_keras graph, every layer trainable
    ...
    return models.keep(model, source, workdir, notes=result.notes)

Between steps a model is a whole `.h5` of tf_keras, without the wrappers of pruning or clustering.
The conversion to TFLite takes it like the user's own model.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RecipeError
from harness.optimize.training import carry
from harness.optimize.training.libraries import Keras
from harness.optimize.training.offers import FORM
from harness.protocols import Artifact


def load(source: Artifact) -> Keras:
    """Load a step's source as a tf_keras graph of layers with every layer trainable.

    Call it inside `fit.prepared`. Raises RecipeError for a model that cannot be converted.
    """
    return carry.carry(source.path, source.form).model


def keep(
    model: Keras,
    source: Artifact,
    workdir: Path,
    *,
    notes: Iterable[str] = (),
    flags: Iterable[str] = (),
) -> Artifact:
    """Write a model for the next step, with the notes and flags of the earlier steps.

    Raises RecipeError, and writes nothing, if a weight is not finite.
    """
    finite(model)
    path = workdir / "model.h5"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it recommends the .keras format
        model.save(str(path), include_optimizer=False, save_format="h5")
    return Artifact(
        path=path,
        form=FORM,
        notes=(*source.notes, *notes),
        flags=(*source.flags, *flags),
    )


def noted(source: Artifact, notes: Iterable[str]) -> Artifact:
    """Return the source with further notes."""
    return replace(source, notes=(*source.notes, *notes))


def finite(model: Keras) -> None:
    """Refuse a model with a weight that is not finite. Raises RecipeError with its name."""
    for weight in model.weights:
        array: np.ndarray[Any, Any] = weight.numpy()
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise RecipeError(
                f'training left NaN or infinity in "{weight.name}": use a smaller learning_rate'
            )
