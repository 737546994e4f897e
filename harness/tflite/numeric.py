"""Quantise and dequantise by a tensor's scale, and compare two sets of outputs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.types import Agreement, Tensor

Array = np.ndarray[Any, Any]

_CLASS_OUTPUT_RANK = 2


def sample_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of one sample; a leading 1 or -1 is the batch and is left out."""
    return tensor.shape[1:] if tensor.shape and tensor.shape[0] in {1, -1} else tensor.shape


def fed_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape in which one sample is fed; an open dimension becomes 1."""
    return tuple(1 if size == -1 else size for size in tensor.shape)


def quantise(real: Array, tensor: Tensor) -> Array:
    """Convert real values to the tensor's dtype by its scale and zero point.

    q = clip(round(x / scale) + zero_point), by the TFLite quantisation specification.
    An array that already has the tensor's dtype is returned; without a scale it is only cast.
    """
    dtype = np.dtype(tensor.dtype)
    if real.dtype == dtype:
        return real
    if tensor.scale is None:
        return real.astype(dtype)
    limits = np.iinfo(dtype)
    scaled = np.round(real / np.float32(tensor.scale)) + (tensor.zero_point or 0)
    return np.clip(scaled, limits.min, limits.max).astype(dtype)


def dequantise(stored: Array, tensor: Tensor) -> Array:
    """Convert stored numbers to real values (float32; float64 for numbers without a scale)."""
    if tensor.scale is None:
        return stored if stored.dtype == np.float32 else stored.astype(np.float64)
    shifted = stored.astype(np.float32) - np.float32(tensor.zero_point or 0)
    return np.asarray(shifted * np.float32(tensor.scale))


def has_classes(outputs: Sequence[Tensor]) -> bool:
    """Return whether the outputs look like class scores: one output of shape (batch, several)."""
    if len(outputs) != 1:
        return False
    shape = outputs[0].shape
    return len(shape) == _CLASS_OUTPUT_RANK and shape[0] in {1, -1} and shape[1] > 1


def agreement(real: Sequence[Array], reference: Sequence[Array], *, classes: bool) -> Agreement:
    """Compare real-valued outputs, each (n, ...), with the reference's in the same order.

    relative_error = ||a - b|| / ||b|| over all outputs together; 0 / 0 is 0. Outputs that are not
    finite have an infinite error and no class, except where the reference has the same NaN or infinity.
    """
    samples = len(reference[0]) if reference else 0
    wide = [
        _comparable(
            a.astype(np.float64).reshape(samples, -1), b.astype(np.float64).reshape(samples, -1)
        )
        for a, b in zip(real, reference, strict=True)
    ]
    sound = all(np.isfinite(a).all() for a, _ in wide)
    difference = sum(float(np.square(a - b).sum()) for a, b in wide) if sound else math.inf
    size = sum(float(np.square(b).sum()) for _, b in wide)
    top1 = None
    if classes and samples:
        ours, theirs = wide[0]
        same = (ours.argmax(1) == theirs.argmax(1)) & np.isfinite(ours).all(1)
        top1 = float(same.mean())
    return Agreement(samples=samples, top1=top1, relative_error=_relative(difference, size))


def _comparable(real: Array, reference: Array) -> tuple[Array, Array]:
    """Set numbers that are not finite in the reference to 0, and in `real` too if it has the same."""
    finite = np.isfinite(reference)
    if finite.all():
        return real, reference
    same = (real == reference) | (np.isnan(real) & np.isnan(reference))
    return np.where(finite, real, np.where(same, 0.0, np.nan)), np.where(finite, reference, 0.0)


def _relative(difference: float, size: float) -> float:
    if size == 0:
        return 0.0 if difference == 0 else math.inf
    return math.sqrt(difference / size)
