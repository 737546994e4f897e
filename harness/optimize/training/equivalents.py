"""Write layers that quantisation-aware training leaves in float, or refuses, as equal ones it takes.

    model, notes = equivalents.of(model)     # the same function, other layers

| Layer | Becomes |
|---|---|
| batch norm after a Dense, a transposed or a one-dimensional convolution | part of its weights |
| any other batch norm that is not directly after a convolution | a depthwise 1x1 convolution |
| ReLU after one of these, or after a convolution of one dimension | its activation |
| Conv1D, DepthwiseConv1D, SeparableConv1D, Conv1DTranspose, MaxPooling1D | two dimensions, width 1 |
| SeparableConv1D, SeparableConv2D | a depthwise and a 1x1 convolution |

The library takes a batch norm after a convolution of two dimensions itself. It accepts one after
Dense too, but the converter then finds no range between the two and leaves the dense layer in float.
The library also divides a separable convolution, into layers whose names may be taken already.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from harness.optimize.training import rebuild
from harness.optimize.training.libraries import Keras
from harness.optimize.training.rebuild import Array, Piece

_NORMALISATIONS = ("BatchNormalization", "SyncBatchNormalization")
_BY_THE_LIBRARY = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")
"""Layers whose batch norm the library itself trains and the converter folds."""
_CHANNELS: Mapping[str, tuple[str, tuple[int, ...]]] = {
    "Dense": ("kernel", (-1,)),
    "Conv1D": ("kernel", (-1,)),
    "Conv1DTranspose": ("kernel", (-2,)),
    "Conv2DTranspose": ("kernel", (-2,)),
    "DepthwiseConv1D": ("depthwise_kernel", (-2, -1)),
    "SeparableConv1D": ("pointwise_kernel", (-1,)),
}
"""Layers that absorb a batch norm: the weight, and its axes that make up the output channels."""
_FLAT = {
    "Conv1D": "Conv2D",
    "Conv1DTranspose": "Conv2DTranspose",
    "DepthwiseConv1D": "DepthwiseConv2D",
    "SeparableConv1D": "SeparableConv2D",
    "MaxPooling1D": "MaxPooling2D",
}
"""Layers of one dimension, and the same in two."""
_SEPARABLE = "SeparableConv2D"
_SIZES = ("kernel_size", "strides", "dilation_rate", "pool_size")
_ONE_DIMENSION, _TWO_DIMENSIONS = 3, 4
"""Ranks of tensors with one and with two dimensions of positions: batch and channels included."""


def of(model: Keras, *, fold: bool = True) -> tuple[Keras, tuple[str, ...]]:
    """Return an equal model, and notes.

    Args:
        model: A graph of tf_keras layers; it is unchanged.
        fold: Whether a batch norm may become part of a layer's weights. Their shared values would
            not survive: every channel gets a factor of its own.

    Raises RecipeError as `rebuild.rebuild`.
    """
    source = rebuild.functional(model)
    graph = _LayerGraph.of(source)
    changes = _Changes(graph=graph)
    for layer in source.layers:
        if type(layer).__name__ in _NORMALISATIONS:
            changes.normalisation(layer, fold=fold)
    for layer in source.layers:
        changes.relu(layer)
    pieces = {layer.name: changes.pieces(layer) for layer in source.layers}
    replaced = {name: chain for name, chain in pieces.items() if chain}
    return (rebuild.rebuild(source, replaced) if replaced else source), changes.notes()


@dataclass(frozen=True, slots=True, kw_only=True)
class _LayerGraph:
    """Who reads whose output, by layer name."""

    layers: Mapping[str, Keras]
    inputs: Mapping[str, list[str]]
    readers: Mapping[str, list[str]]
    """Every use of a layer's output; a model output is the reader "" of its layer."""
    calls: Mapping[str, int]

    @classmethod
    def of(cls, source: Keras) -> _LayerGraph:
        config = source.get_config()
        inputs = {item["name"]: list(_tensors(item["inbound_nodes"])) for item in config["layers"]}
        readers: dict[str, list[str]] = {name: [] for name in inputs}
        for name, made_of in inputs.items():
            for maker in made_of:
                readers[maker].append(name)
        for name in _tensors(config["output_layers"]):
            readers[name].append("")
        return cls(
            layers={layer.name: layer for layer in source.layers},
            inputs=inputs,
            readers=readers,
            calls={item["name"]: len(item["inbound_nodes"]) for item in config["layers"]},
        )

    def only_reader(self, name: str) -> Keras | None:
        """Return the layer that alone reads this one's output; None if there is no such layer."""
        found = self.readers[name]
        if len(found) != 1 or self.calls[name] != 1 or not found[0] or self.calls[found[0]] != 1:
            return None
        return self.layers[found[0]]

    def maker(self, name: str) -> Keras | None:
        """Return the layer whose output this one alone reads; None if there is no such layer."""
        found = self.inputs[name]
        if len(found) != 1 or self.only_reader(found[0]) is not self.layers[name]:
            return None
        return self.layers[found[0]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Affine:
    """A scale and a shift per channel."""

    scale: Array
    shift: Array


@dataclass(slots=True, kw_only=True)
class _Changes:
    """The changes so far, by layer name."""

    graph: _LayerGraph
    folded: dict[str, _Affine] = field(default_factory=dict)
    """Layers that absorb a batch norm."""
    alone: dict[str, _Affine] = field(default_factory=dict)
    """Batch norms that become a convolution."""
    with_relu: set[str] = field(default_factory=set)
    gone: dict[str, str] = field(default_factory=dict)
    """Layers that another one absorbs, and that one."""
    counts: Counter[str] = field(default_factory=Counter)

    def normalisation(self, layer: Keras, *, fold: bool) -> None:
        """Decide what a batch norm becomes."""
        shape, maker = _input_shape(layer), self.graph.maker(layer.name)
        if not shape or [axis % len(shape) for axis in layer.axis] != [len(shape) - 1]:
            return
        kind = type(maker).__name__ if maker is not None and _is_linear(maker) else ""
        if maker is not None and kind in _BY_THE_LIBRARY:
            return
        if maker is not None and kind in _CHANNELS and fold:
            self.folded[maker.name] = _affine(layer)
            self.gone[layer.name] = maker.name
            self.counts["folded into the layer before"] += 1
        elif len(shape) <= _TWO_DIMENSIONS and shape[1:-1].count(None) <= 1:
            self.alone[layer.name] = _affine(layer)
            self.counts["written as a convolution"] += 1

    def relu(self, layer: Keras) -> None:
        """Make a ReLU the activation of a layer that has none."""
        flat = type(layer).__name__ in _FLAT and _is_linear(layer)
        if not flat and layer.name not in self.alone and layer.name not in self.folded:
            return
        end = next((gone for gone, into in self.gone.items() if into == layer.name), layer.name)
        after = self.graph.only_reader(end)
        if after is not None and _is_plain_relu(after):
            self.with_relu.add(layer.name)
            self.gone[after.name] = layer.name

    def pieces(self, layer: Keras) -> list[Piece]:
        """Return the layers in place of one; none if it stays."""
        return [part for piece in self._chain(layer) for part in _divided(piece)]

    def _chain(self, layer: Keras) -> list[Piece]:
        name, kind = layer.name, type(layer).__name__
        if name in self.gone:
            return [_identity(name)]
        if name in self.alone:
            return self._convolution(layer)
        if kind in _FLAT and self.graph.calls[name] == 1 and _has_two_dimensions(layer):
            return _flattened(layer, self._changed(layer))
        if name in self.folded or name in self.with_relu or kind == _SEPARABLE:
            return [self._changed(layer)]
        return []

    def notes(self) -> tuple[str, ...]:
        """Describe the changes to batch norms."""
        return tuple(
            f"{count} batch normalisations {what}" for what, count in sorted(self.counts.items())
        )

    def _changed(self, layer: Keras) -> Piece:
        """Return the layer with its batch norm and its activation."""
        kind, config = type(layer).__name__, dict(layer.get_config())
        weights = _weights(layer)
        affine = self.folded.get(layer.name)
        if affine is not None:
            name, axes = _CHANNELS[kind]
            shape = [1] * weights[name].ndim
            for axis in axes:
                shape[axis] = weights[name].shape[axis]
            weights[name] = weights[name] * affine.scale.reshape(shape)
            bias = weights.get("bias", np.zeros_like(affine.shift))
            weights["bias"] = bias * affine.scale + affine.shift
            config["use_bias"] = True
        if layer.name in self.with_relu:
            config["activation"] = "relu"
        config.pop("batch_input_shape", None)
        return Piece(name=layer.name, kind=kind, config=config, weights=weights)

    def _convolution(self, layer: Keras) -> list[Piece]:
        """Return a batch norm as a depthwise 1x1 convolution."""
        affine, shape = self.alone[layer.name], layer.input_shape
        config = {
            "kernel_size": (1, 1),
            "activation": "relu" if layer.name in self.with_relu else "linear",
        }
        kernel = affine.scale.reshape(1, 1, -1, 1)
        made = Piece(
            name=layer.name,
            kind="DepthwiseConv2D",
            config=config,
            weights={"depthwise_kernel": kernel, "bias": affine.shift},
        )
        if len(shape) == _TWO_DIMENSIONS:
            return [made]
        return _between_reshapes(made, shape, shape)


def _tensors(nested: Any) -> Iterator[str]:  # noqa: ANN401 - a config of any depth
    """Yield the names of the layers whose outputs a config refers to: [name, call, place, ...]."""
    if isinstance(nested, Mapping):
        for value in nested.values():
            yield from _tensors(value)
    elif isinstance(nested, (list, tuple)):
        head = list(nested[:3])
        if [type(value) for value in head] == [str, int, int]:
            yield head[0]
            nested = nested[3:]
        for value in nested:
            yield from _tensors(value)


def _input_shape(layer: Keras) -> tuple[int | None, ...]:
    """Return the shape of a layer's only input; () for several inputs or shapes."""
    try:
        shape = layer.input_shape
    except (AttributeError, RuntimeError):  # called on inputs of different shapes
        return ()
    return shape if isinstance(shape, tuple) else ()


def _affine(layer: Keras) -> _Affine:
    """Return the scale and the shift of a batch norm at inference."""
    mean, variance = layer.moving_mean.numpy(), layer.moving_variance.numpy()
    gamma = np.ones_like(mean) if layer.gamma is None else layer.gamma.numpy()
    beta = np.zeros_like(mean) if layer.beta is None else layer.beta.numpy()
    scale = gamma / np.sqrt(variance + layer.epsilon)
    return _Affine(scale=scale, shift=beta - mean * scale)


def _weights(layer: Keras) -> dict[str, Array]:
    names = ("kernel", "depthwise_kernel", "pointwise_kernel", "bias")
    found = {name: getattr(layer, name, None) for name in names}
    return {name: variable.numpy() for name, variable in found.items() if variable is not None}


def _is_linear(layer: Keras) -> bool:
    return getattr(getattr(layer, "activation", None), "__name__", "") == "linear"


def _is_plain_relu(layer: Keras) -> bool:
    if type(layer).__name__ == "Activation":
        return getattr(layer.activation, "__name__", "") == "relu"
    return type(layer).__name__ == "ReLU" and (
        layer.max_value is None and not layer.negative_slope and not layer.threshold
    )


def _identity(name: str) -> Piece:
    return Piece(name=name, kind="Activation", config={"activation": "linear"}, weights={})


def _has_two_dimensions(layer: Keras) -> bool:
    """Return whether a one-dimensional layer can be written with a width of 1."""
    return (
        getattr(layer, "data_format", "channels_last") == "channels_last"
        and getattr(layer, "output_padding", None) is None
        and len(_input_shape(layer)) == _ONE_DIMENSION
    )


def _flattened(layer: Keras, changed: Piece) -> list[Piece]:
    """Return a one-dimensional layer in two dimensions, of width 1."""
    config = dict(changed.config)
    before: list[Piece] = []
    shape = layer.input_shape
    if config.get("padding") == "causal":
        (size,), (step,) = _tuple(config["kernel_size"]), _tuple(config["dilation_rate"])
        padding = (step * (size - 1), 0)
        before = [
            Piece(
                name=f"{layer.name}_causal",
                kind="ZeroPadding1D",
                config={"padding": padding},
                weights={},
            )
        ]
        config["padding"] = "valid"
        length = None if shape[1] is None else shape[1] + padding[0]
        shape = (shape[0], length, shape[2])
    for name in _SIZES:
        if config.get(name) is not None:
            config[name] = (*_tuple(config[name]), 1)
    if "depthwise_kernel" in changed.weights:
        config["strides"] = config["strides"][:1] * 2  # TensorFlow has equal strides only
    made = Piece(
        name=layer.name,
        kind=_FLAT[changed.kind],
        config=config,
        weights={
            name: array if name == "bias" else np.expand_dims(array, 1)
            for name, array in changed.weights.items()
        },
    )
    return [*before, *_between_reshapes(made, shape, layer.output_shape)]


def _between_reshapes(
    made: Piece, taken: tuple[int | None, ...], given: tuple[int | None, ...]
) -> list[Piece]:
    """Return a layer of two dimensions between the shapes of fewer ones."""
    positions = [-1 if size is None else size for size in taken[1:-1]]
    wide = (*([*positions, 1, 1][:2]), taken[-1])
    narrow = tuple(-1 if size is None else size for size in given[1:])
    inner = Piece(name=f"{made.name}_2d", kind=made.kind, config=made.config, weights=made.weights)
    return [
        _reshape(f"{made.name}_wide", wide),
        inner,
        _reshape(made.name, narrow),
    ]


def _divided(piece: Piece) -> list[Piece]:
    """Return a separable convolution as its two convolutions; any other layer unchanged."""
    if piece.kind != _SEPARABLE:
        return [piece]
    config, weights = piece.config, dict(piece.weights)
    shared = ("kernel_size", "strides", "padding", "data_format", "dilation_rate")
    first = Piece(
        name=f"{piece.name}_depthwise",
        kind="DepthwiseConv2D",
        config={
            **{name: config[name] for name in (*shared, "depth_multiplier")},
            "use_bias": False,
        },
        weights={"depthwise_kernel": weights.pop("depthwise_kernel")},
    )
    second = Piece(
        name=piece.name,
        kind="Conv2D",
        config={
            **{name: config[name] for name in ("filters", "data_format", "activation", "use_bias")},
            "kernel_size": (1, 1),
        },
        weights={"kernel": weights.pop("pointwise_kernel"), **weights},
    )
    return [first, second]


def _reshape(name: str, shape: tuple[Any, ...]) -> Piece:
    return Piece(name=name, kind="Reshape", config={"target_shape": shape}, weights={})


def _tuple(size: Any) -> tuple[int, ...]:  # noqa: ANN401 - a number or a sequence
    return (size,) if isinstance(size, int) else tuple(size)
