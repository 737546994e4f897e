"""Which channels of a graph go together: what must be removed with a filter, and what must stay.

Every channel that a layer makes gets a number. The numbers are carried through the graph along the
last axis of each tensor: activations, pooling, batch normalisation and depthwise convolutions pass
them on, Concatenate and Flatten lay them one after another, Add and its like join those that meet
(union-find). Channels that were joined are removed together or not at all; a layer that this module
cannot see through freezes what it reads and what it gives.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.optimize.training import libraries
from harness.optimize.training.libraries import Keras
from harness.optimize.training.rebuild import Array, functional

KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
"""Weights that are multiplied with at every position; the others are added or scale."""


@dataclass(slots=True, kw_only=True)
class Part:
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
    """Weight and axis that hold a filter for each channel it makes; None where it makes none."""
    positions: int | None = 0
    """How often its kernels are applied to a sample, over all calls; None where a size is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Channels that the same layers make together, one number each."""

    layers: tuple[str, ...]
    channels: Array
    frozen: str | None
    """Why none of them can be removed; None where they can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A model as channels see it."""

    model: Keras
    parts: Mapping[str, Part]
    """By layer name, in the order of the graph."""
    roots: Array
    """Of each number, the one that stands for all it is joined with."""
    groups: tuple[Group, ...]


def network(model: Keras) -> Network:
    """Number and group the channels of a tf_keras model.

    Raises RecipeError for a subclassed model and for one with a model for a layer.
    """
    graph = functional(model)
    walk = _Walk()
    made: dict[tuple[str, int, int], Array | None] = {}
    for node in _nodes(graph):
        call = _Call(
            layer=node.layer,
            inputs=[made[_place(tensor)] for tensor in node.keras_inputs],
            input_shapes=[tuple(tensor.shape) for tensor in node.keras_inputs],
            output_shapes=[tuple(tensor.shape) for tensor in _flat(node.outputs)],
        )
        for tensor, channels in zip(_flat(node.outputs), walk.visit(call), strict=True):
            made[_place(tensor)] = channels
    for tensor in _flat(graph.outputs):
        walk.freeze(made[_place(tensor)], "the model's output")
    return walk.network(graph)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """One call of a layer: shapes with None where a size is open, the batch first."""

    layer: Keras
    inputs: Sequence[Array | None]
    input_shapes: Sequence[tuple[int | None, ...]]
    output_shapes: Sequence[tuple[int | None, ...]]

    @property
    def rank(self) -> int:
        return len(self.input_shapes[0])


class _Opaque(Exception):
    """A layer cannot be seen through; the message says what of it."""


class _Walk:
    """The numbers given so far, which are joined, which are frozen and why."""

    def __init__(self) -> None:
        self.parts: dict[str, Part] = {}
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
        """Keep channels whatever their weights are."""
        if channels is not None:
            for number in channels:
                self._frozen.setdefault(int(number), why)

    def visit(self, call: _Call) -> list[Array | None]:
        """Follow the channels through one call; one array for each of its outputs."""
        try:
            return [_handler(call.layer, self._refused)(self, call)]
        except _Opaque as reason:
            return self._opaque(call, str(reason))

    def part(self, call: _Call, make: Callable[[Array], Part]) -> Part:
        """Return the layer's part, made at its first call; later calls are joined with the first."""
        (reads,) = call.inputs
        if reads is None:
            raise _Opaque("its number of channels is open")
        known = self.parts.get(call.layer.name)
        if known is not None:
            self.join(known.reads, reads)
            return known
        part = make(reads)
        held = {name: axes for name, axes in part.cuts.items() if _held(call.layer, name)}
        if len(held) != len(call.layer.weights):
            raise _Opaque("it has weights of an unknown kind")
        part.cuts = held
        self.parts[call.layer.name] = part
        return part

    def network(self, model: Keras) -> Network:
        """Group what was found."""
        roots = np.asarray([self._root(number) for number in range(len(self._parents))], dtype=int)
        why: dict[int, str] = {}
        for number, reason in self._frozen.items():
            why.setdefault(int(roots[number]), reason)
        makers: dict[int, dict[str, None]] = {}
        for name, part in self.parts.items():
            if part.makes is not None:
                for root in roots[part.gives]:
                    makers.setdefault(int(root), {})[name] = None
        grouped: dict[tuple[tuple[str, ...], str | None], list[int]] = {}
        for root, names in makers.items():
            grouped.setdefault((tuple(names), why.get(root)), []).append(root)
        groups = tuple(
            Group(layers=names, channels=np.asarray(channels), frozen=reason)
            for (names, reason), channels in grouped.items()
        )
        return Network(model=model, parts=self.parts, roots=roots, groups=groups)

    def _root(self, number: int) -> int:
        parents = self._parents
        while parents[number] != number:
            parents[number] = parents[parents[number]]
            number = parents[number]
        return number

    def _opaque(self, call: _Call, reason: str) -> list[Array | None]:
        self._refused[call.layer.name] = reason  # at its other calls as well: its weights are one
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


# --- what each layer does with channels ------------------------------------------------------


def _input(walk: _Walk, call: _Call) -> Array | None:
    shape = call.output_shapes[0]
    size = shape[-1] if len(shape) > 1 else None
    channels = None if size is None else walk.fresh(size)
    walk.freeze(channels, "the model's input")
    return channels


def _same(walk: _Walk, call: _Call) -> Array | None:
    del walk
    return call.inputs[0]


def _activation(walk: _Walk, call: _Call) -> Array | None:
    if _mixes(call.layer):
        raise _Opaque("every channel depends on all the others")
    return _same(walk, call)


def _convolution(walk: _Walk, call: _Call) -> Array | None:
    layer = call.layer
    if layer.groups != 1:
        raise _Opaque("a grouped convolution")

    def make(reads: Array) -> Part:
        gives = walk.fresh(layer.filters)
        last = len(layer.kernel.shape) - 1
        return Part(
            layer=layer,
            reads=reads,
            gives=gives,
            cuts={"kernel": {last - 1: reads, last: gives}, "bias": {0: gives}},
            sizes={"filters": gives},
            makes=("kernel", last),
        )

    return _maker(walk, call, make, call.output_shapes[0])


def _transposed(walk: _Walk, call: _Call) -> Array | None:
    layer = call.layer

    def make(reads: Array) -> Part:
        gives = walk.fresh(layer.filters)
        last = len(layer.kernel.shape) - 1
        return Part(
            layer=layer,
            reads=reads,
            gives=gives,
            cuts={"kernel": {last - 1: gives, last: reads}, "bias": {0: gives}},
            sizes={"filters": gives},
            makes=("kernel", last - 1),
        )

    return _maker(walk, call, make, call.input_shapes[0])


def _dense(walk: _Walk, call: _Call) -> Array | None:
    layer = call.layer

    def make(reads: Array) -> Part:
        gives = walk.fresh(layer.units)
        return Part(
            layer=layer,
            reads=reads,
            gives=gives,
            cuts={"kernel": {0: reads, 1: gives}, "bias": {0: gives}},
            sizes={"units": gives},
            makes=("kernel", 1),
        )

    return _maker(walk, call, make, call.output_shapes[0])


def _separable(walk: _Walk, call: _Call) -> Array | None:
    layer = call.layer

    def make(reads: Array) -> Part:
        gives = walk.fresh(layer.filters)
        last = len(layer.pointwise_kernel.shape) - 1
        middle = np.repeat(reads, layer.depth_multiplier)
        return Part(
            layer=layer,
            reads=reads,
            gives=gives,
            cuts={
                "depthwise_kernel": {last - 1: reads},
                "pointwise_kernel": {last - 1: middle, last: gives},
                "bias": {0: gives},
            },
            sizes={"filters": gives},
            makes=("pointwise_kernel", last),
        )

    return _maker(walk, call, make, call.output_shapes[0])


def _depthwise(walk: _Walk, call: _Call) -> Array | None:
    layer = call.layer

    def make(reads: Array) -> Part:
        gives = np.repeat(reads, layer.depth_multiplier)
        axis = len(layer.depthwise_kernel.shape) - 2
        cuts = {"depthwise_kernel": {axis: reads}, "bias": {0: gives}}
        return Part(layer=layer, reads=reads, gives=gives, cuts=cuts)

    return _maker(walk, call, make, call.output_shapes[0])


def _maker(
    walk: _Walk, call: _Call, make: Callable[[Array], Part], positions: tuple[int | None, ...]
) -> Array:
    """A layer with kernels: counts where they are applied, and minds its own activation."""
    part = walk.part(call, make)
    sizes = positions[1:-1]
    count = None if None in sizes else math.prod(size for size in sizes if size is not None)
    part.positions = None if None in {count, part.positions} else part.positions + count  # type: ignore[operator]
    if _mixes(call.layer):
        why = f'"{call.layer.name}": its activation makes every channel depend on all the others'
        walk.freeze(part.gives, why)
    return part.gives


def _normalisation(walk: _Walk, call: _Call) -> Array | None:
    axes = call.layer.axis
    if [axis % call.rank for axis in np.atleast_1d(axes)] != [call.rank - 1]:
        raise _Opaque("it normalises another axis than the channels'")

    def make(reads: Array) -> Part:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        cuts = {name: {0: reads} for name in names}
        return Part(layer=call.layer, reads=reads, gives=reads, cuts=cuts)

    return walk.part(call, make).gives


def _prelu(walk: _Walk, call: _Call) -> Array | None:
    def make(reads: Array) -> Part:
        shape = call.layer.alpha.shape
        last = len(shape) - 1
        cuts = {"alpha": {last: reads} if shape[last] == len(reads) else {}}
        return Part(layer=call.layer, reads=reads, gives=reads, cuts=cuts)

    return walk.part(call, make).gives


def _rescaling(walk: _Walk, call: _Call) -> Array | None:
    if np.ndim(call.layer.scale) or np.ndim(call.layer.offset):
        raise _Opaque("it scales each channel apart")
    return _same(walk, call)


def _merged(walk: _Walk, call: _Call) -> Array | None:
    """Add and its like: the channels that meet are one; a tensor of one channel meets them all."""
    known = [channels for channels in call.inputs if channels is not None]
    if len(known) != len(call.inputs):
        raise _Opaque("its number of channels is open")
    widest = max(known, key=len)
    for channels in known:
        if len(channels) == len(widest):
            walk.join(widest, channels)
        else:
            walk.freeze(channels, f'"{call.layer.name}": it is spread over several channels')
    return widest


def _concatenated(walk: _Walk, call: _Call) -> Array | None:
    known = [channels for channels in call.inputs if channels is not None]
    if len(known) != len(call.inputs):
        raise _Opaque("its number of channels is open")
    if call.layer.axis % call.rank == call.rank - 1:
        return np.concatenate(known)
    for channels in known[1:]:
        walk.join(known[0], channels)
    return known[0]


def _flattened(walk: _Walk, call: _Call) -> Array | None:
    del walk
    return _tiled(call)


def _reshaped(walk: _Walk, call: _Call) -> Array | None:
    before, after = call.input_shapes[0], call.output_shapes[0]
    if before[-1] != after[-1] and len(after) != 2:  # noqa: PLR2004 - a batch of features
        raise _Opaque("it breaks up the channels' axis")

    def make(reads: Array) -> Part:
        gives = reads if before[-1] == after[-1] else _tiled(call)
        assert gives is not None
        return Part(layer=call.layer, reads=reads, gives=gives, sizes={"target_shape": gives})

    return walk.part(call, make).gives


def _permuted(walk: _Walk, call: _Call) -> Array | None:
    if call.layer.dims[-1] != call.rank - 1:
        raise _Opaque("it moves the channels' axis")
    return _same(walk, call)


def _tiled(call: _Call) -> Array | None:
    """Features of a flattened tensor, row-major: the channels again and again."""
    channels, size = call.inputs[0], call.output_shapes[0][-1]
    if channels is None or size is None:
        raise _Opaque("its number of features is open")
    return np.tile(channels, size // len(channels))


_SAME = (
    *("ReLU", "LeakyReLU", "ELU", "ThresholdedReLU"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    *("GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"),
    *(f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
    *(f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
    *(f"{kind}{n}D" for kind in ("ZeroPadding", "Cropping", "UpSampling") for n in (1, 2, 3)),
)
_MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
_MIXING = ("softmax", "log_softmax")

_HANDLERS: dict[str, Callable[[_Walk, _Call], Array | None]] = {
    "InputLayer": _input,
    "Activation": _activation,
    "Conv1D": _convolution,
    "Conv2D": _convolution,
    "Conv3D": _convolution,
    "Conv2DTranspose": _transposed,
    "Dense": _dense,
    "SeparableConv1D": _separable,
    "SeparableConv2D": _separable,
    "DepthwiseConv1D": _depthwise,
    "DepthwiseConv2D": _depthwise,
    "BatchNormalization": _normalisation,
    "PReLU": _prelu,
    "Rescaling": _rescaling,
    "Concatenate": _concatenated,
    "Flatten": _flattened,
    "Reshape": _reshaped,
    "Permute": _permuted,
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_MERGES, _merged),
}


def _handler(layer: Keras, refused: Mapping[str, str]) -> Callable[[_Walk, _Call], Array | None]:
    """Find what follows channels through a layer. Raises _Opaque where nothing does."""
    kind = type(layer)
    if layer.name in refused:
        raise _Opaque(refused[layer.name])
    if getattr(layer, "data_format", None) == "channels_first":
        raise _Opaque("its channels come first")
    if not kind.__module__.startswith("tf_keras.") or kind.__name__ not in _HANDLERS:
        raise _Opaque("channels cannot be followed through it")
    return _HANDLERS[kind.__name__]


def _mixes(layer: Keras) -> bool:
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "") in _MIXING


def _held(layer: Keras, weight: str) -> bool:
    return getattr(layer, weight, None) is not None


def _nodes(model: Keras) -> Iterator[Any]:
    """Calls of a graph's layers, each after those it reads. tf_keras has no public way to them."""
    for depth in sorted(model._nodes_by_depth, reverse=True):  # noqa: SLF001 - see above
        yield from model._nodes_by_depth[depth]  # noqa: SLF001 - see above


def _place(tensor: Keras) -> tuple[str, int, int]:
    """Which output of which call of which layer a tensor is."""
    history = tensor._keras_history  # noqa: SLF001 - tf_keras has no public way to it
    return (history.layer.name, history.node_index, history.tensor_index)


def _flat(tensors: Keras) -> list[Any]:
    return list(libraries.tensorflow().nest.flatten(tensors))
