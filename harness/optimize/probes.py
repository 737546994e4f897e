"""Random inputs for a file that no host can run, over the whole range of each input's type.

Noise alone looks alike to a network that averages over an image, so every fourth input is flat noise,
the others are levels, coarse blocks and sparse points, of different contrast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from harness.optimize.data import random_samples, stack
from harness.tflite.indices import IndexRange
from harness.tflite.numeric import Array, sample_shape
from harness.types import Tensor

_REAL = 4.0
"""Real inputs are from -4 to 4: four standard deviations of normalised data."""

_BLOCKS = (2, 4, 8)


def probe_inputs(
    tensors: Sequence[Tensor], count: int, seed: int, ranges: Mapping[str, IndexRange]
) -> dict[str, Array]:
    """Return `count` different inputs, (n, ...) by tensor name, in the file's own dtypes.

    Inputs with indices (`ranges`), booleans and complex numbers are those of
    :func:`harness.optimize.data.random_samples`. Raises ConfigError for an input that is no number.
    """
    plain = stack(random_samples(tensors, count, seed, ranges), tensors)
    generator = np.random.default_rng(seed)
    found = {}
    for tensor in tensors:
        dtype = np.dtype(tensor.dtype)
        if tensor.name in ranges or dtype.kind not in "iuf":
            found[tensor.name] = plain[tensor.name].astype(dtype)
            continue
        shape = tuple(1 if size == -1 else size for size in sample_shape(tensor))
        patterns = [_pattern(generator, shape, place) for place in range(count)]
        found[tensor.name] = np.stack([_in_range(one, dtype) for one in patterns])
    return found


def _pattern(generator: np.random.Generator, shape: tuple[int, ...], place: int) -> Array:
    """Return values from 0 to 1."""
    kind = place % 4
    contrast = generator.uniform(0.2, 1.0)
    level = generator.uniform(0.0, 1.0 - contrast)
    noise = generator.uniform(size=shape)
    if kind == 1:  # nearly one level
        return np.clip(generator.uniform() + 0.05 * (noise - 0.5), 0.0, 1.0)
    if kind == 2:  # coarse blocks  # noqa: PLR2004
        blocks = _BLOCKS[place // 4 % len(_BLOCKS)]
        coarse = generator.uniform(size=tuple(min(size, blocks) for size in shape))
        places = np.ix_(*[np.arange(n) * min(n, blocks) // n for n in shape])
        noise = coarse[places] if shape else coarse
    if kind == 3:  # single points  # noqa: PLR2004
        noise = (noise > generator.uniform(0.7, 0.99)).astype(float)
    return level + contrast * noise


def _in_range(values: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "f":
        return ((2 * values - 1) * _REAL).astype(dtype)
    limits = np.iinfo(dtype)
    spread = float(limits.max) - float(limits.min)
    return np.clip(limits.min + values * spread, limits.min, limits.max).astype(dtype)
