"""Number the channels of a graph during a walk; join and freeze them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.optimize.training.libraries import Keras
from harness.optimize.training.rebuild import Array

OUTPUT = "the model's output"
"""The reason why the channels of an output are frozen."""


@dataclass(slots=True, kw_only=True)
class ChannelLayer:
    """A layer whose weights or config have channels in them."""

    layer: Keras
    reads: Array
    """Numbers of its input channels."""
    gives: Array
    """Numbers along the last axis of its output."""
    cuts: Mapping[str, Mapping[int, Array]] = field(default_factory=dict)
    """Numbers along the axes of each weight, by attribute and axis."""
    sizes: Mapping[str, Array] = field(default_factory=dict)
    """Numbers by the config key that counts channels: `filters`, `units`, `target_shape` (last)."""
    makes: tuple[str, int] | None = None
    """Weight and axis with one filter per channel that it makes; None if it makes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCall:
    """One call of a layer; in shapes the batch comes first and None is an open size."""

    layer: Keras
    inputs: Sequence[Array | None]
    """Channel numbers of each tensor; None if the number of channels is open."""
    constants: Sequence[Any]
    """Its other arguments."""
    input_shapes: Sequence[tuple[int | None, ...]]
    output_shapes: Sequence[tuple[int | None, ...]]

    @property
    def rank(self) -> int:
        """Number of dimensions of its first input, including the batch."""
        return len(self.input_shapes[0])


class Opaque(Exception):
    """The channels of a layer cannot be followed; the message has the reason."""


class Walk:
    """The channel numbers so far, the joined ones, and the frozen ones with their reasons."""

    def __init__(self) -> None:
        """Begin with no channels."""
        self.parts: dict[str, ChannelLayer] = {}
        self._parents: list[int] = []
        self._frozen: dict[int, str] = {}
        self._refused: dict[str, str] = {}

    def fresh(self, count: int) -> Array:
        """Return new numbers."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def join(self, ours: Array, theirs: Array) -> None:
        """Join two lists of channels of the same length, pair by pair."""
        for a, b in zip(ours, theirs, strict=True):
            self._parents[self._root(int(b))] = self._root(int(a))

    def freeze(self, channels: Array | None, why: str) -> None:
        """Freeze channels with a reason; the first reason stays, but OUTPUT replaces any other."""
        if channels is not None:
            for number in map(int, channels):
                if why == OUTPUT:
                    self._frozen[number] = why
                self._frozen.setdefault(number, why)

    def part(self, call: LayerCall, make: Callable[[Array], ChannelLayer]) -> ChannelLayer:
        """Return the layer's part, made at its first call; later calls join the first call's channels."""
        (reads,) = call.inputs
        if reads is None:
            raise Opaque("its number of channels is open")
        known = self.parts.get(call.layer.name)
        if known is not None:
            self.join(known.reads, reads)
            return known
        part = make(reads)
        held = {name: axes for name, axes in part.cuts.items() if _held(call.layer, name)}
        if len(held) != len(call.layer.weights):
            raise Opaque("it has weights of an unknown kind")
        part.cuts = held
        self.parts[call.layer.name] = part
        return part

    def refused(self, layer: str) -> str | None:
        """Return why an earlier call of a layer could not be followed; None if it could."""
        return self._refused.get(layer)

    def block(self, call: LayerCall, reason: str) -> list[Array | None]:
        """Freeze the input and output channels of a call and of the layer's other calls."""
        self._refused[call.layer.name] = reason
        why = f'"{call.layer.name}" ({type(call.layer).__name__}): {reason}'
        earlier = self.parts.pop(call.layer.name, None)
        if earlier is not None:
            self.freeze(earlier.reads, why)
            self.freeze(earlier.gives, why)
        for channels in call.inputs:
            self.freeze(channels, why)
        outputs: list[Array | None] = []
        for shape in call.output_shapes:
            size = shape[-1] if len(shape) > 1 else None
            outputs.append(None if size is None else self.fresh(size))
            self.freeze(outputs[-1], why)
        return outputs

    def roots(self) -> Array:
        """Return for each number the representative of its joined set."""
        return np.asarray([self._root(number) for number in range(len(self._parents))], dtype=int)

    def reasons(self) -> dict[int, str]:
        """Return why channels are frozen, by root."""
        found: dict[int, str] = {}
        for number, reason in self._frozen.items():
            found.setdefault(self._root(number), reason)
        return found

    def _root(self, number: int) -> int:
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number


def _held(layer: Keras, weight: str) -> bool:
    return getattr(layer, weight, None) is not None
