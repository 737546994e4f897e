"""The numbers of channels while a graph is walked: given out, joined, held."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.optimize.training.libraries import Keras
from harness.optimize.training.rebuild import Array

OUTPUT = "the model's output"
"""Why the channels of an output are held."""


@dataclass(slots=True, kw_only=True)
class ChannelLayer:
    """A layer whose weights or config have channels in them."""

    layer: Keras
    reads: Array
    """Numbers of the channels it is given."""
    gives: Array
    """Numbers along the last axis of its output."""
    cuts: Mapping[str, Mapping[int, Array]] = field(default_factory=dict)
    """Numbers along the axes of each weight, by attribute and axis."""
    sizes: Mapping[str, Array] = field(default_factory=dict)
    """Keys of its config that count channels: `filters`, `units`, `target_shape` (its last)."""
    makes: tuple[str, int] | None = None
    """Weight and axis that hold a filter for each channel it makes; None if it makes none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerCall:
    """One call of a layer: shapes with None if a size is open, the batch first."""

    layer: Keras
    inputs: Sequence[Array | None]
    """Of each tensor; None if the number of channels is open."""
    constants: Sequence[Any]
    """Its other arguments."""
    input_shapes: Sequence[tuple[int | None, ...]]
    output_shapes: Sequence[tuple[int | None, ...]]

    @property
    def rank(self) -> int:
        """Dimensions of what it reads, the batch among them."""
        return len(self.input_shapes[0])


class Opaque(Exception):
    """A layer cannot be seen through; the message says what of it."""


class Walk:
    """The numbers given so far, which are joined, which are frozen and why."""

    def __init__(self) -> None:
        """Begin with no channels."""
        self.parts: dict[str, ChannelLayer] = {}
        self._parents: list[int] = []
        self._frozen: dict[int, str] = {}
        self._refused: dict[str, str] = {}

    def fresh(self, count: int) -> Array:
        """Give out new numbers."""
        first = len(self._parents)
        self._parents += range(first, first + count)
        return np.arange(first, first + count)

    def join(self, ours: Array, theirs: Array) -> None:
        """Make channels that meet one; both of one length."""
        for a, b in zip(ours, theirs, strict=True):
            self._parents[self._root(int(b))] = self._root(int(a))

    def freeze(self, channels: Array | None, why: str) -> None:
        """Keep channels whatever their weights are; an output needs no other reason."""
        if channels is not None:
            for number in map(int, channels):
                if why == OUTPUT:
                    self._frozen[number] = why
                self._frozen.setdefault(number, why)

    def part(self, call: LayerCall, make: Callable[[Array], ChannelLayer]) -> ChannelLayer:
        """Return the layer's part, made at its first call; later calls are joined with the first."""
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
        """Hold all that a call reads and gives, and all that the layer's other calls do."""
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
        """Return, for each number, the one that stands for all it is joined with."""
        return np.asarray([self._root(number) for number in range(len(self._parents))], dtype=int)

    def reasons(self) -> dict[int, str]:
        """Return why channels are held, by root."""
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
