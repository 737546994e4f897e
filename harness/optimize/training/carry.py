"""Any trained model to a tf_keras graph of layers, which is what the training libraries take.

    model = carry.carry(Path("model.keras"), "keras")

A Keras 3 model is replayed layer by layer (replay.py); a tf-keras one is made again from its config,
so that nothing of how it was saved stays in it. Either way the result is run beside the source on
the same random inputs, and refused, with the layer's name, where it computes something else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RecipeError
from harness.optimize import convert
from harness.optimize.training import libraries, replay
from harness.optimize.training.libraries import Keras

Array = np.ndarray[Any, Any]
MAX_DIFFERENCE = 1e-4
"""Largest |carried - source| over what the source's values span: rounding differs, no more."""
_LEAST_SPAN = 0.01
"""Of the largest value; a narrower span would be compared with rounding alone."""
_PROBES = 2
_OPEN_SIZE = 64
"""What an open dimension is probed with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A model on the training side."""

    model: Keras
    difference: float
    """Largest |carried - source| over what the source's values span, on random inputs."""


def carry(path: Path, form: str, *, seed: int = 0) -> Carried:
    """Load a trained model as a tf_keras graph, every layer trainable.

    Raises RecipeError: not a graph of layers, a layer that tf_keras has not or computes otherwise
    (by name), a file that cannot be read.
    """
    keras = libraries.keras()
    source = load(path, form)
    if not getattr(source, "inputs", None) or not _has_graph(source):
        raise RecipeError(f"{path}: {replay.subclassed(source.name)}")
    if isinstance(source, keras.Model):
        carried = again(source)
        difference = _difference(source, carried, seed)
        if not difference <= MAX_DIFFERENCE:
            raise RecipeError(
                f"{path}: made again from its config, the model computes something else (relative "
                f"difference {difference:.2g}): a layer keeps something its config does not say"
            )
    else:
        told = replay.replay(source)
        carried = told.model
        difference = _difference(source, carried, seed)
        if not difference <= MAX_DIFFERENCE:
            culprit = _culprit(source, told, seed)
            if culprit is not None or not np.isfinite(difference):
                raise RecipeError(f"{path}: {culprit or 'its outputs are not finite'}")
    for layer in carried.submodules:
        if isinstance(layer, keras.layers.Layer):
            layer.trainable = True
    return Carried(model=carried, difference=difference)


def load(path: Path, form: str) -> Keras:
    """Load a model with the library that wrote it, as it is.

    Raises RecipeError for a file that cannot be read or holds no layers.
    """
    try:
        return _saved_model(path) if form == "saved_model" else convert.load_keras(path, form)
    except (*replay.REFUSALS, OSError) as error:
        raise RecipeError(
            f"{path}: the model cannot be loaded for training ({type(error).__name__}: "
            f"{_short(error)}); custom layers cannot be carried, use recipes that do not train"
        ) from error


def again(model: Keras) -> Keras:
    """Make a tf_keras model again from its config, with its weights; the given one is untouched.

    Raises RecipeError if a layer cannot be made from its config.
    """
    keras = libraries.keras()
    try:
        made = keras.models.clone_model(model)
        made.set_weights(model.get_weights())
    except replay.REFUSALS as error:
        raise RecipeError(
            f'the model "{model.name}" cannot be made again from its config '
            f"({type(error).__name__}: {_short(error)}); custom layers need a get_config"
        ) from error
    return made


def _saved_model(path: Path) -> Keras:
    keras = libraries.keras()
    model = keras.models.load_model(str(path), compile=False)
    if not isinstance(model, keras.Model):
        raise RecipeError(
            f"{path}: this SavedModel holds functions, no layers to train (Keras 3 and tf.saved_model "
            "write such); give the .keras or .h5 file of the model"
        )
    return model


def _has_graph(model: Keras) -> bool:
    graph = getattr(model, "_functional", None) or model
    return bool(getattr(graph, "_nodes_by_depth", None))


def _difference(source: Keras, carried: Keras, seed: int) -> float:
    fed = _probes(source, seed)
    return _relative(
        _run(source, replay.functional(source).input, fed), _run(carried, carried.input, fed)
    )


def _culprit(source: Keras, told: replay.Replayed, seed: int) -> str | None:
    """Name a layer that computes something else when it is given the source's own values.

    Each alone, because a deep network may blow one rounding up to the whole span of its outputs
    (EfficientNetV2S does while it is untrained): two right copies of it differ by as much.
    """
    import keras as keras3

    fed = _probes(source, seed)
    wanted = [call.theirs for call in told.calls]
    values = _run(keras3.Model(source.inputs, wanted), source.inputs, fed)
    known = {id(tensor): value for tensor, value in zip(wanted, values, strict=True)}
    known |= {id(tensor): value for tensor, value in zip(source.inputs, fed, strict=True)}
    for call in told.calls:
        alone = libraries.keras().Model([ours for _, ours in call.fed], call.ours)
        given = [known[id(theirs)] for theirs, _ in call.fed]
        difference = _relative([known[id(call.theirs)]], _run(alone, alone.inputs, given))
        if not difference <= MAX_DIFFERENCE:
            return (
                f'the layer "{call.layer}" computes something else in tf-keras (relative difference '
                f"{difference:.2g} on random inputs): steps that train cannot take this model; "
                "replace the layer, or use recipes that do not train"
            )
    return None


def _probes(model: Keras, seed: int) -> list[Array]:
    generator = np.random.default_rng(seed)
    fed: list[Array] = []
    for tensor in model.inputs:
        sizes = tuple(tensor.shape)[1:]
        shape = (_PROBES, *(_OPEN_SIZE if size is None else int(size) for size in sizes))
        kind = np.dtype(getattr(tensor.dtype, "name", tensor.dtype))
        if np.issubdtype(kind, np.floating):
            fed.append(generator.normal(size=shape).astype(kind))
        else:
            fed.append(generator.integers(0, 2, size=shape).astype(kind))
    return fed


def _run(model: Keras, structure: Any, fed: Sequence[Array]) -> list[Array]:  # noqa: ANN401 - any structure of tensors
    tf = libraries.tensorflow()
    tensors = [tf.constant(array) for array in fed]
    batch = next(iter(model.inputs[0].shape))
    if batch is not None:
        tensors = [tensor[:batch] for tensor in tensors]
    answers = model(tf.nest.pack_sequence_as(structure, tensors), training=False)
    return [np.asarray(answer) for answer in tf.nest.flatten(answers)]


def _relative(expected: Sequence[Array], found: Sequence[Array]) -> float:
    """Take the worst output: its largest difference over what its values span.

    The span, not the size: scores of an untrained softmax are all nearly 1/k, whatever is wrong.
    """
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        scale = max(float(np.ptp(a)), _LEAST_SPAN * float(np.abs(a).max())) or 1.0
        difference = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))
        worst = max(worst, difference / scale)
        if not np.isfinite(difference):
            return float("inf")
    return worst


def _short(error: Exception, limit: int = 300) -> str:
    words = " ".join(str(error).split())
    return words if len(words) <= limit else f"{words[:limit]} ..."
