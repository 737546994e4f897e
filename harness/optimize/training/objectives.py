"""The loss of a training, chosen by the labels and the model's output.

| labels | output | loss |
|---|---|---|
| integer classes | (n, ..., k) | sparse categorical cross-entropy |
| integer 0 or 1 | (n, 1) | binary cross-entropy |
| arrays of the output's shape | any | mean squared error |

The last activation decides whether scores are probabilities or logits; a cross-entropy on the wrong
one does not learn and raises no error.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from harness.errors import RecipeError
from harness.optimize.training import libraries
from harness.optimize.training.libraries import Keras

Array = np.ndarray[Any, Any]
Kind = Literal["classes", "binary", "arrays"]
_TINY = 1e-7
"""Keras clips probabilities to this before it takes their logarithm."""
_PASSIVE = ("Dropout", "Reshape", "Flatten", "Permute", "InputLayer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss of a task, in Keras and in numpy."""

    kind: Kind
    from_logits: bool
    output: tuple[int | None, ...]
    """Shape of the model's output, without the batch."""

    def loss(self) -> Keras:
        """Return the Keras loss."""
        losses = libraries.keras().losses
        if self.kind == "classes":
            return losses.SparseCategoricalCrossentropy(from_logits=self.from_logits)
        if self.kind == "binary":
            return losses.BinaryCrossentropy(from_logits=self.from_logits)
        return losses.MeanSquaredError()

    def shaped(self, labels: Array) -> Array:
        """Return the labels in the loss's shape and dtype."""
        if self.kind == "arrays":
            return labels.astype(np.float32)
        if self.kind == "binary":
            return labels.reshape(len(labels), 1).astype(np.float32)
        return labels.reshape(len(labels), *_sizes(labels, self.output)).astype(np.int64)

    def score(self, labels: Array, answers: Array) -> tuple[float, float | None]:
        """Return the loss, without regularisation, and the accuracy (None for arrays)."""
        real = np.asarray(answers, np.float64)
        if self.kind == "arrays":
            return float(np.square(real - labels).mean()), None
        if self.kind == "binary":
            share = 1 / (1 + np.exp(-real)) if self.from_logits else real
            sure = np.clip(share, _TINY, 1 - _TINY)
            loss = -(labels * np.log(sure) + (1 - labels) * np.log(1 - sure)).mean()
            return float(loss), float(((share > 0.5) == (labels > 0.5)).mean())  # noqa: PLR2004 - even odds
        shares = _softmax(real) if self.from_logits else real
        chosen = np.take_along_axis(shares, labels[..., None], -1)[..., 0]
        loss = -np.log(np.clip(chosen, _TINY, 1.0)).mean()
        return float(loss), float((shares.argmax(-1) == labels).mean())


def objective(model: Keras, labels: Array) -> Objective:
    """Choose the loss by the labels and the output of a plain model.

    Raises RecipeError: several outputs, labels of another shape, classes the model does not have.
    """
    if len(model.outputs) != 1:
        raise RecipeError(
            f"the model has {len(model.outputs)} outputs; steps that train take models with one"
        )
    output = tuple(model.outputs[0].shape)[1:]
    whole = np.issubdtype(labels.dtype, np.integer)
    if whole and output and _are_classes(labels, output):
        kind: Kind = "binary" if output[-1] == 1 else "classes"
        classes = 2 if kind == "binary" else int(output[-1] or 0)
        if labels.min() < 0 or labels.max() >= classes:
            raise RecipeError(
                f'"y" of the training data has classes {labels.min()} to {labels.max()}; the '
                f"model has {classes}"
            )
    elif _fits(labels.shape[1:], output):
        kind = "arrays"
        if not np.isfinite(labels.astype(np.float64)).all():
            raise RecipeError('"y" of the training data has NaN or infinity; clean the data')
    else:
        raise RecipeError(
            f'"y" of the training data is {labels.dtype} of shape {labels.shape[1:]} per sample; the '
            f"model gives {output}: give integer classes, or arrays of the output's shape"
        )
    squash = last_activation(model)
    logits = squash != ("sigmoid" if kind == "binary" else "softmax")
    return Objective(kind=kind, from_logits=logits, output=output)


def last_activation(model: Keras) -> str:
    """Return the name of the activation that makes the output: `softmax`, `sigmoid`, `linear`, ...

    Layers that only move values are skipped.
    """
    layer = _maker(model.outputs[0])
    while True:
        kind = type(layer).__name__
        if kind == "Softmax":
            return "softmax"
        if kind in _PASSIVE or _is_linear_activation(layer):
            before = layer.input
            if kind == "InputLayer" or isinstance(before, (list, tuple, dict)):
                return "linear"
            layer = _maker(before)
            continue
        return _name(getattr(layer, "activation", None))


def _maker(tensor: Keras) -> Keras:
    """Return the layer that made a tensor, of either library."""
    history = tensor._keras_history  # noqa: SLF001 - Keras has no public API for it
    return getattr(history, "layer", None) or history.operation


def _is_linear_activation(layer: Keras) -> bool:
    return type(layer).__name__ == "Activation" and _name(layer.activation) == "linear"


def _name(activation: Keras) -> str:
    return str(getattr(activation, "__name__", "linear")) if activation is not None else "linear"


def _are_classes(labels: Array, output: Sequence[int | None]) -> bool:
    inside = labels.shape[1:]
    if _fits(inside, output) and output[-1] != 1:
        return False
    return _fits(inside, output[:-1]) or _fits(inside, (*output[:-1], 1))


def _sizes(labels: Array, output: Sequence[int | None]) -> tuple[int, ...]:
    """Return the labels' shape without a last dimension of 1 that the output does not have."""
    inside = tuple(int(size) for size in labels.shape[1:])
    return inside if len(inside) == len(output) - 1 else inside[:-1]


def _fits(shape: Sequence[int], wanted: Sequence[int | None]) -> bool:
    return len(shape) == len(wanted) and all(
        want in {None, size} for size, want in zip(shape, wanted, strict=True)
    )


def _softmax(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(-1, keepdims=True))
    shares: Array = raised / raised.sum(-1, keepdims=True)
    return shares
