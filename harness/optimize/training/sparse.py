"""Magnitude pruning: the smallest weights of a layer become zero while the others are trained.

Zhu and Gupta, "To prune, or not to prune" (2017), as implemented by tensorflow-model-optimization.
Depthwise kernels, biases and normalisations are not pruned: they have few and sensitive weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.errors import RecipeError
from harness.optimize.training import carry, fit, libraries
from harness.optimize.training.libraries import Keras

Array = np.ndarray[Any, Any]
Schedule = Literal["constant", "polynomial"]
Pattern = Literal["unstructured", "2:4"]
_RAMP = 0.5
"""Share of the steps in which the sparsity rises; in the others the remaining weights recover."""
_UPDATES = 20
"""Approximate number of updates of the zeros during the ramp."""
_PATTERN_SPARSITY = 0.5
_RANKS_OF_PATTERN = (2, 4)
"""Ranks of kernels with groups of four input channels: Dense and Conv2D."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSpec:
    """The sparsity of the layers, its schedule and its pattern."""

    sparsity: float
    schedule: Schedule = "polynomial"
    pattern: Pattern = "unstructured"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Timing:
    schedule: Keras
    full_epoch: int
    """First epoch, counted from 1, that ends with the full sparsity."""


def prune(model: Keras, task: fit.Task, spec: PruneSpec) -> tuple[str, ...]:
    """Prune the model in place while it is trained; return notes.

    Raises RecipeError: no layer to prune, a sparsity that the pattern cannot have, and as `fit`.
    """
    tfmot = libraries.model_optimization()
    layers = prunable(model)
    if not layers:
        raise RecipeError(
            "prune: no layer of this model can be pruned (Conv, Dense, SeparableConv and Embedding "
            "can, depthwise convolutions and normalisations cannot); use another recipe"
        )
    _check_pattern(model, layers, spec)
    timing = _timing(tfmot, task, spec)
    options: dict[str, Any] = {"pruning_schedule": timing.schedule}
    if spec.pattern == "2:4":
        options["sparsity_m_by_n"] = (2, 4)

    def wrap(layer: Keras) -> Keras:
        if layer.name not in layers:
            return layer
        return tfmot.sparsity.keras.prune_low_magnitude(layer, **options)

    copy = carry.again(model)
    wrapped = libraries.keras().models.clone_model(copy, clone_function=wrap)
    result = fit.fit(
        wrapped,
        task,
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep()],
        first_best=timing.full_epoch,
        what="pruned (2:4)" if spec.pattern == "2:4" else f"pruned (unstructured, {spec.schedule})",
    )
    plain = tfmot.sparsity.keras.strip_pruning(wrapped)
    for layer in plain.layers:
        model.get_layer(layer.name).set_weights(layer.get_weights())
    return (*result.notes, _zeros_note(model, layers))


def prunable(model: Keras) -> list[str]:
    """Return the names of the layers of a plain model that have weights to prune."""
    return [layer.name for layer in model.layers if _weights(layer)]


def is_pruned(model: Keras, sparsity: float) -> bool:
    """Return whether every prunable layer has this share of zeros, with a tolerance of one weight."""
    layers = prunable(model)
    shares = sparsities(model, layers)
    sizes = {
        name: sum(int(np.prod(weight.shape)) for weight in _weights(model.get_layer(name)))
        for name in layers
    }
    return bool(layers) and all(shares[name] >= sparsity - 1 / sizes[name] for name in layers)


def sparsities(model: Keras, layers: Sequence[str]) -> dict[str, float]:
    """Return the share of zeros in the prunable weights, per named layer."""
    shares = {}
    for name in layers:
        arrays = [weight.numpy() for weight in _weights(model.get_layer(name))]
        zeros = sum(int((array == 0).sum()) for array in arrays)
        shares[name] = zeros / sum(array.size for array in arrays)
    return shares


def _weights(layer: Keras) -> list[Keras]:
    registry = _registry()
    if not layer.weights or not registry.supports(layer):
        return []
    found: list[Keras] = registry.make_prunable(layer).get_prunable_weights()
    return found


def _registry() -> Keras:
    libraries.model_optimization()
    from tensorflow_model_optimization.python.core.sparsity.keras import prune_registry

    return prune_registry.PruneRegistry


def _check_pattern(model: Keras, layers: Sequence[str], spec: PruneSpec) -> None:
    if spec.pattern != "2:4":
        return
    if spec.sparsity != _PATTERN_SPARSITY:
        raise RecipeError(
            f'prune: the pattern "2:4" has a sparsity of 0.5, not {spec.sparsity:g}; remove '
            'sparsity, or use pattern="unstructured"'
        )
    for name in layers:
        ranks = {len(weight.shape) for weight in _weights(model.get_layer(name))}
        if not ranks <= set(_RANKS_OF_PATTERN):
            raise RecipeError(
                f'prune: the pattern "2:4" takes Conv2D and Dense; the layer "{name}" is '
                f'{type(model.get_layer(name)).__name__}; use pattern="unstructured"'
            )


def _timing(tfmot: Keras, task: fit.Task, spec: PruneSpec) -> _Timing:
    """Fit the ramp into the available steps. The wrapper counts its steps from 1."""
    sparsity = tfmot.sparsity.keras
    total = task.steps * task.settings.epochs
    ramp = int(total * _RAMP)
    every = max(1, ramp // _UPDATES)
    ramp -= ramp % every  # the last update reaches the full sparsity
    if spec.schedule == "constant" or spec.pattern == "2:4" or ramp < 1:
        schedule = sparsity.ConstantSparsity(spec.sparsity, begin_step=1, frequency=every)
        return _Timing(schedule=schedule, full_epoch=1)
    schedule = sparsity.PolynomialDecay(
        initial_sparsity=0.0,
        final_sparsity=spec.sparsity,
        begin_step=0,
        end_step=ramp,
        frequency=every,
    )
    return _Timing(schedule=schedule, full_epoch=-(-ramp // task.steps))


def _zeros_note(model: Keras, layers: Sequence[str]) -> str:
    shares = sparsities(model, layers)
    low, high = min(shares.values()), max(shares.values())
    span = f"{low:.3g}" if high - low < 0.005 else f"{low:.3g} to {high:.3g}"  # noqa: PLR2004 - as printed
    return f"zeros in {len(layers)} of {len(model.layers)} layers: {span} of each"
