"""Real values to a file's own numbers and back, and how two sets of outputs compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from harness.types import Agreement, Tensor

Array = np.ndarray[Any, Any]

_CLASS_OUTPUT_RANK = 2


def sample_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape of one sample of a tensor: a leading 1 (or an open dimension) is the batch."""
    return tensor.shape[1:] if tensor.shape and tensor.shape[0] in {1, -1} else tensor.shape


def fed_shape(tensor: Tensor) -> tuple[int, ...]:
    """Return the shape that one sample is fed in: an open batch is 1."""
    return tuple(1 if size == -1 else size for size in tensor.shape)


def quantise(real: Array, tensor: Tensor) -> Array:
    """Turn real values into the tensor's dtype by its scale and zero point.

    q = clip(round(x / scale) + zero_point), as the TFLite quantisation specification has it.
    An array that has the tensor's dtype already, or a tensor without scale, is only cast.
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
    """Turn a tensor's own numbers into real values (float32, or float64 for wide integers)."""
    if tensor.scale is None:
        return stored if stored.dtype == np.float32 else stored.astype(np.float64)
    shifted = stored.astype(np.float32) - np.float32(tensor.zero_point or 0)
    return np.asarray(shifted * np.float32(tensor.scale))


def has_classes(outputs: Sequence[Tensor]) -> bool:
    """Say whether the outputs look like scores of classes: one output, (batch, several)."""
    if len(outputs) != 1:
        return False
    shape = outputs[0].shape
    return len(shape) == _CLASS_OUTPUT_RANK and shape[0] in {1, -1} and shape[1] > 1


def agreement(real: Sequence[Array], reference: Sequence[Array], *, classes: bool) -> Agreement:
    """Compare real-valued outputs, each (n, ...), with the reference's in the same order.

    relative_error = ||a - b|| / ||b|| over all outputs together; 0 / 0 is 0, and outputs that are
    not finite are infinitely wrong and of no class.
    """
    samples = len(reference[0]) if reference else 0
    wide = [
        (a.astype(np.float64).reshape(samples, -1), b.astype(np.float64).reshape(samples, -1))
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


def _relative(difference: float, size: float) -> float:
    if size == 0:
        return 0.0 if difference == 0 else math.inf
    return math.sqrt(difference / size)
