"""Convert any trained model to a tf_keras graph of layers, as the training libraries need it.

    model = carry.carry(Path("model.keras"), "keras")

A Keras 3 model is replayed layer by layer (replay.py). A tf-keras model is made again from its
config, so that it keeps nothing of its saved state except the weights. Both the result and the
source run on the same random inputs; a difference is refused with the layer's name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RecipeError
from harness.optimize import convert, keras_files, library_errors
from harness.optimize.training import libraries, replay
from harness.optimize.training.libraries import Keras

Array = np.ndarray[Any, Any]
MAX_DIFFERENCE = 1e-4
"""Largest |carried - source| relative to the span of the source's values; allows rounding only."""
_MAX_HALF_DIFFERENCE = 0.05
"""The same for a source that computes in half precision, whose own rounding comes on top."""
_MIN_SPAN = 0.01
"""Smallest span as a share of the largest value; a narrower one would compare rounding alone."""
_PRECISIONS = ("mixed_float16", "mixed_bfloat16", "float16", "bfloat16", "float64")
_PROBES = 2
_OPEN_SIZE = 64
"""Size of an open dimension in the random inputs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """A model as a tf_keras graph."""

    model: Keras
    difference: float
    """Largest |carried - source| relative to the span of the source's values, on random inputs."""


def carry(path: Path, form: str, *, seed: int = 0) -> Carried:
    """Load a trained model as a tf_keras graph with every layer trainable.

    Raises RecipeError: not a graph of layers, a layer that tf_keras does not have or computes
    differently (by name), a file that cannot be read.
    """
    keras = libraries.keras()
    source = load(path, form)
    if not getattr(source, "inputs", None) or not _has_graph(source):
        raise RecipeError(f"{path}: {replay.subclassed(source.name)}")
    if isinstance(source, keras.Model):
        carried = again(source)
        difference = outputs_apart(source, carried, seed)
        half = _in_float32(source.get_config()) != source.get_config()
        if not difference <= (_MAX_HALF_DIFFERENCE if half else MAX_DIFFERENCE):
            raise RecipeError(
                f"{path}: made again from its config, the model gives different outputs (relative "
                f"difference {difference:.2g}): a layer has state that is not in its config"
            )
    else:
        keras_files.compute_in_float32(source)
        replayed = replay.replay(source)
        carried = replayed.model
        difference = outputs_apart(source, carried, seed)
        if not difference <= MAX_DIFFERENCE:
            culprit = _culprit(source, replayed, seed)
            if culprit is not None or not np.isfinite(difference):
                raise RecipeError(f"{path}: {culprit or 'its outputs are not finite'}")
    for layer in carried.submodules:
        if isinstance(layer, keras.layers.Layer):
            layer.trainable = True
    return Carried(model=carried, difference=difference)


def load(path: Path, form: str) -> Keras:
    """Load a model unchanged, with the library that wrote it.

    Raises RecipeError for a file that cannot be read or has no layers.
    """
    try:
        return _saved_model(path) if form == "saved_model" else convert.load_keras(path, form)
    except (*replay.REFUSALS, OSError) as error:
        raise RecipeError(
            f"{path}: the model cannot be loaded for training ({library_errors.brief(error)}); custom "
            "layers cannot be converted, use recipes that do not train"
        ) from error


def again(model: Keras) -> Keras:
    """Make a tf_keras model again from its config, with its weights; the given one is unchanged.

    The new one computes in float32 (the policies `mixed_float16`, ... are left out). Raises
    RecipeError if a layer cannot be made from its config.
    """
    keras = libraries.keras()
    try:
        config = model.get_config()
        plain = _in_float32(config)
        if plain == config:
            made = keras.models.clone_model(model)
        else:
            kind = keras.Sequential if isinstance(model, keras.Sequential) else keras.Model
            made = kind.from_config(plain)
        made.set_weights(model.get_weights())
    except replay.REFUSALS as error:
        raise RecipeError(
            f'the model "{model.name}" cannot be made again from its config '
            f"({library_errors.brief(error)}); custom layers need a get_config"
        ) from error
    return made


def _in_float32(config: Any) -> Any:  # noqa: ANN401 - JSON
    """Return a config whose dtypes of half and double precision are float32."""
    if isinstance(config, Mapping):
        return {
            key: "float32"
            if key == "dtype" and _policy(value) in _PRECISIONS
            else _in_float32(value)
            for key, value in config.items()
        }
    if isinstance(config, (list, tuple)):
        return type(config)(_in_float32(item) for item in config)
    return config


def _policy(dtype: Any) -> str:  # noqa: ANN401 - JSON
    """Return the name of a dtype or of a dtype policy."""
    if isinstance(dtype, Mapping):
        inner = dtype.get("config")
        return str(inner.get("name")) if isinstance(inner, Mapping) else ""
    return str(dtype)


def _saved_model(path: Path) -> Keras:
    keras = libraries.keras()
    model = keras.models.load_model(str(path), compile=False)
    if not isinstance(model, keras.Model):
        raise RecipeError(
            f"{path}: this SavedModel has functions and no layers to train (Keras 3 and "
            "tf.saved_model write such files); give the .keras or .h5 file of the model"
        )
    return model


def _has_graph(model: Keras) -> bool:
    graph = getattr(model, "_functional", None) or model
    return bool(getattr(graph, "_nodes_by_depth", None))


def outputs_apart(source: Keras, carried: Keras, seed: int) -> float:
    """Return the largest difference of two models on random inputs, relative to the outputs' span."""
    fed = _probes(source, seed)
    return _relative(
        _run(source, replay.functional(source).input, fed), _run(carried, carried.input, fed)
    )


def _culprit(source: Keras, replayed: replay.ReplayedModel, seed: int) -> str | None:
    """Return a message on the first layer that gives other outputs for the source's own values.

    Each layer runs alone, because a deep network may amplify one rounding to the whole span of its
    outputs (EfficientNetV2S does while it is untrained): two correct copies differ by as much.
    """
    import keras as keras3

    fed = _probes(source, seed)
    wanted = [call.theirs for call in replayed.calls]
    values = _run(keras3.Model(source.inputs, wanted), source.inputs, fed)
    known = {id(tensor): value for tensor, value in zip(wanted, values, strict=True)}
    known |= {id(tensor): value for tensor, value in zip(source.inputs, fed, strict=True)}
    for call in replayed.calls:
        alone = libraries.keras().Model([ours for _, ours in call.fed], call.ours)
        given = [known[id(theirs)] for theirs, _ in call.fed]
        difference = _relative([known[id(call.theirs)]], _run(alone, alone.inputs, given))
        if not difference <= MAX_DIFFERENCE:
            return (
                f'the layer "{call.layer}" gives different outputs in tf-keras (relative difference '
                f"{difference:.2g} on random inputs): steps that train cannot take this model; "
                "replace the layer, or use recipes that do not train"
            )
    return None


def _probes(model: Keras, seed: int) -> list[Array]:
    generator = np.random.default_rng(seed)
    rows = keras_files.fewest_rows(model)
    fed: list[Array] = []
    for tensor in model.inputs:
        sizes = tuple(tensor.shape)[1:]
        shape = (_PROBES, *(_OPEN_SIZE if size is None else int(size) for size in sizes))
        kind = np.dtype(getattr(tensor.dtype, "name", tensor.dtype))
        if rows is not None and kind != np.bool_:
            fed.append(generator.integers(0, rows, size=shape).astype(kind))
        elif np.issubdtype(kind, np.floating):
            fed.append(generator.normal(size=shape).astype(kind))
        elif kind == np.bool_ or kind.itemsize > np.dtype(np.int16).itemsize:
            fed.append(generator.integers(0, 2, size=shape).astype(kind))
        else:
            limits = np.iinfo(kind)
            fed.append(generator.integers(limits.min, limits.max, size=shape, dtype=kind))
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
    """Return the largest difference of any output, relative to the span of its values.

    Relative to the span, not the size: an untrained softmax always gives nearly 1/k.
    """
    worst = 0.0
    for a, b in zip(expected, found, strict=True):
        if a.shape != b.shape:
            return float("inf")
        scale = max(float(np.ptp(a)), _MIN_SPAN * float(np.abs(a).max())) or 1.0
        difference = float(np.abs(a.astype(np.float64) - b.astype(np.float64)).max(initial=0.0))
        worst = max(worst, difference / scale)
        if not np.isfinite(difference):
            return float("inf")
    return worst
