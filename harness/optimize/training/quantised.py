"""Quantisation-aware training: the model is trained with simulated int8 rounding.

Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
Inference" (2018), as implemented by tensorflow-model-optimization, except for the ranges of
activations. The library starts them at [-6, 6] and moves them by 0.001 per step: if a model's values
are far from 6, a short fine-tune ends before they are right. Here they start at the ranges of the
training data and move by 0.01 per step.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, Literal

import numpy as np

from harness.errors import RecipeError
from harness.optimize import library_errors
from harness.optimize.training import carry, equivalents, fit, libraries
from harness.optimize.training.libraries import Keras

Preserve = Literal["nothing", "zeros", "clusters", "zeros and clusters"]
_DECAY = 0.99
_CALIBRATED = 256
"""Number of training samples for the initial ranges."""
_ERRORS = (ValueError, RuntimeError, TypeError, AttributeError, NotImplementedError, KeyError)
_INSTEAD: Mapping[str, str] = {
    "BatchNormalization": "normalise the last axis, and call the layer once",
    "Multiply": "gates have no quantised form here",
    "PReLU": "use ReLU or LeakyReLU",
    "ELU": "use ReLU or LeakyReLU",
    "Rescaling": "scale the data before it reaches the model",
    "Normalization": "scale the data before it reaches the model",
    "Lambda": "write it with layers",
    "TFOpLambda": "write the operation as a layer",
    "SlicingOpLambda": "write the operation as a layer (Cropping2D)",
    "TimeDistributed": "apply the layer without the wrapper",
}
"""The fix for a layer that the library refuses, by class (docs/techniques/qat.md)."""


def quantise(
    model: Keras, task: fit.Task, *, preserve: Preserve = "nothing"
) -> tuple[Keras, tuple[str, ...]]:
    """Return the model with simulated int8 rounding, trained with it, and notes.

    Args:
        model: The plain model; it is unchanged.
        task: From `fit.task`.
        preserve: The structure of the weights to keep (zeros of pruning, shared values).

    Raises RecipeError: a layer that has no quantised form (its name and the fix), and as `fit`.
    """
    _refuse_nested_models(model)
    taken, notes = _taken(model, task, preserve)
    emulated = _emulated(taken, preserve)
    with _following(_DECAY):
        _calibrate(emulated, task)
        what = f"trained with simulated int8 rounding{_keeping(preserve)}"
        result = fit.fit(emulated, task, what=what)
    if "clusters" in preserve:
        emulated = _without_clusters(emulated)
    return emulated, (*notes, *result.notes)


def _taken(model: Keras, task: fit.Task, preserve: Preserve) -> tuple[Keras, tuple[str, ...]]:
    """Return an equal model of layers that the library quantises, and notes."""
    made, notes = equivalents.of(model, fold="clusters" not in preserve)
    apart = carry.outputs_apart(model, made, task.seed)
    if not apart <= carry.MAX_DIFFERENCE:
        raise RecipeError(
            f'quantisation-aware training: the layers of "{model.name}" written as ones that can be '
            f"quantised give other outputs (relative difference {apart:.2g}): use int8 after training"
        )
    return made, notes


def _keeping(preserve: Preserve) -> str:
    return "" if preserve == "nothing" else f", {preserve} kept"


def _emulated(model: Keras, preserve: Preserve) -> Keras:
    quantization = libraries.model_optimization().quantization.keras
    try:
        annotated = quantization.quantize_annotate_model(carry.again(model))
        with quantization.quantize_scope(), _rounding_before_relu():
            return quantization.quantize_apply(annotated, _scheme(preserve))
    except _ERRORS as error:
        raise RecipeError(_refusal(model, str(error))) from error


@contextlib.contextmanager
def _rounding_before_relu() -> Iterator[None]:
    """Let the weights of a layer before a ReLU be rounded in training, as those of other layers are.

    The library exempts such a layer from every simulated rounding, to keep the ReLU fused with it.
    """
    libraries.model_optimization()
    from tensorflow_model_optimization.python.core.quantization.keras import (
        quantize_aware_activation,
        utils,
    )
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_transforms,
    )

    kind = default_8bit_transforms.LayerReLUQuantize
    kept = kind.replacement

    def replacement(transform: Keras, matched: Keras) -> Keras:
        before = matched.input_layers[0].layer
        if before["class_name"] == "Add":
            return kept(transform, matched)
        if before["config"].get("activation") == "linear":
            before["config"]["activation"] = utils.serialize_activation(
                quantize_aware_activation.NoOpActivation(), use_legacy_format=True
            )
        return matched

    kind.replacement = replacement
    try:
        yield
    finally:
        kind.replacement = kept


def _scheme(preserve: Preserve) -> Keras:
    tfmot = libraries.model_optimization()
    combine = tfmot.experimental.combine
    if preserve == "zeros":
        return combine.Default8BitPrunePreserveQuantizeScheme()
    if preserve == "clusters":
        return combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=False)
    if preserve == "zeros and clusters":
        return combine.Default8BitClusterPreserveQuantizeScheme(preserve_sparsity=True)
    from tensorflow_model_optimization.python.core.quantization.keras.default_8bit import (
        default_8bit_quantize_scheme,
    )

    return default_8bit_quantize_scheme.Default8BitQuantizeScheme()


def _without_clusters(emulated: Keras) -> Keras:
    return libraries.model_optimization().experimental.combine.strip_clustering_cqat(emulated)


def _refuse_nested_models(model: Keras) -> None:
    """Refuse a nested model with its name; the library refuses it later and without the name."""
    models = libraries.keras().Model
    for layer in model.layers:
        if isinstance(layer, models):
            raise RecipeError(
                f'quantisation-aware training cannot take the layer "{layer.name}", which is a '
                "model itself: call its layers in the outer model, or use int8 after training"
            )


def _refusal(model: Keras, text: str) -> str:
    """Return a message with the layer and the fix; the library's text rarely names the layer."""
    named = re.search(r"Layer (\S+?):<class", text)
    layer = next((item for item in model.layers if named and item.name == named[1]), None)
    if layer is None:
        layer = next((item for item in model.layers if _activation_is_named(item, text)), None)
    message = library_errors.brief(text)
    if layer is None:
        return (
            f"quantisation-aware training cannot take this model ({message}); use int8 after "
            "training, or replace the uncommon layer"
        )
    kind = type(layer).__name__
    fix = _INSTEAD.get(kind, "replace the layer")
    return (
        f'quantisation-aware training cannot take the layer "{layer.name}" ({kind}): {fix}, or use '
        "int8 after training"
    )


def _activation_is_named(layer: Keras, text: str) -> bool:
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return name not in {None, "linear"} and str(name) in text


@contextlib.contextmanager
def _following(decay: float) -> Iterator[None]:
    """Use `decay` for the ranges of activations; the library's call has a fixed 0.999."""
    ops = _ops()
    kept = ops.MovingAvgQuantize

    def moving(*args: Any, ema_decay: float, **kwargs: Any) -> Keras:  # noqa: ANN401 - passed on
        del ema_decay
        return kept(*args, ema_decay=decay, **kwargs)

    ops.MovingAvgQuantize = moving
    try:
        yield
    finally:
        ops.MovingAvgQuantize = kept


def _calibrate(emulated: Keras, task: fit.Task) -> None:
    """Set every range from the training data; weights and statistics are unchanged."""
    ops = _ops()
    tf = libraries.tensorflow()
    ranges = {id(variable) for variable in emulated.weights if _is_range(variable.name)}
    kept = [variable.numpy() for variable in emulated.weights]
    for variable in emulated.weights:
        if id(variable) in ranges:
            variable.assign(np.zeros(variable.shape, np.float32))
    moving = ops.MovingAvgQuantize
    ops.MovingAvgQuantize = partial(_widest, ops.AllValuesQuantize)
    try:
        columns, labels = task.train
        for start in range(0, min(len(labels), _CALIBRATED), task.settings.batch):
            part = [tf.constant(column[start : start + task.settings.batch]) for column in columns]
            emulated(part[0] if len(part) == 1 else part, training=True)
    finally:
        ops.MovingAvgQuantize = moving
    for variable, value in zip(emulated.weights, kept, strict=True):
        if id(variable) not in ranges:
            variable.assign(value)


def _widest(quantise_all: Any, *args: Any, ema_decay: float, **kwargs: Any) -> Keras:  # noqa: ANN401 - passed on
    """Use the widest range seen instead of the library's moving average."""
    del ema_decay
    if kwargs.pop("per_channel", False):
        raise RecipeError("quantisation-aware training: activations with a range per channel")
    return quantise_all(*args, **kwargs)


def _is_range(name: str) -> bool:
    return re.search(r"_(min|max)(_\d+)?(:0)?$", name) is not None


def _ops() -> Keras:
    libraries.model_optimization()
    from tensorflow_model_optimization.python.core.quantization.keras import quant_ops

    return quant_ops
