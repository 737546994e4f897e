"""How channels pass through each kind of layer."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from harness.optimize.training.libraries import Keras
from harness.optimize.training.rebuild import Array
from harness.optimize.training.walk import ChannelLayer, LayerCall, Opaque, Walk

KERNELS = ("kernel", "depthwise_kernel", "pointwise_kernel")
"""Weights that are multiplied at every position; other weights add or scale."""


def positions(call: LayerCall) -> int | None:
    """Return how often a call applies its layer's kernels per sample; None if a size is open."""
    kind = type(call.layer).__name__
    if kind not in _APPLIED:
        return 0
    shape = call.input_shapes[0] if "Transpose" in kind else call.output_shapes[0]
    first = getattr(call.layer, "data_format", None) == "channels_first"
    sizes = shape[2:] if first else shape[1:-1]
    return None if None in sizes else math.prod(size for size in sizes if size is not None)


def follow(walk: Walk, call: LayerCall) -> list[Array | None]:
    """Follow the channels through one call; return one array per output."""
    try:
        return [_handler(walk, call.layer)(walk, call)]
    except Opaque as reason:
        return walk.block(call, str(reason))


def _input(walk: Walk, call: LayerCall) -> Array | None:
    shape = call.output_shapes[0]
    size = shape[-1] if len(shape) > 1 else None
    channels = None if size is None else walk.fresh(size)
    walk.freeze(channels, "the model's input")
    return channels


def _same(walk: Walk, call: LayerCall) -> Array | None:
    del walk
    return call.inputs[0]


def _activation(walk: Walk, call: LayerCall) -> Array | None:
    if _mixes(call.layer):
        raise Opaque("every channel depends on all the others")
    return _same(walk, call)


def _convolution(walk: Walk, call: LayerCall) -> Array | None:
    layer = call.layer
    if layer.groups != 1:
        raise Opaque("a grouped convolution")

    def make(reads: Array) -> ChannelLayer:
        gives = walk.fresh(layer.filters)
        last = len(layer.kernel.shape) - 1
        return ChannelLayer(
            layer=layer,
            reads=reads,
            gives=gives,
            cuts={"kernel": {last - 1: reads, last: gives}, "bias": {0: gives}},
            sizes={"filters": gives},
            makes=("kernel", last),
        )

    return _maker(walk, call, make)


def _transposed(walk: Walk, call: LayerCall) -> Array | None:
    layer = call.layer

    def make(reads: Array) -> ChannelLayer:
        gives = walk.fresh(layer.filters)
        last = len(layer.kernel.shape) - 1
        return ChannelLayer(
            layer=layer,
            reads=reads,
            gives=gives,
            cuts={"kernel": {last - 1: gives, last: reads}, "bias": {0: gives}},
            sizes={"filters": gives},
            makes=("kernel", last - 1),
        )

    return _maker(walk, call, make)


def _dense(walk: Walk, call: LayerCall) -> Array | None:
    layer = call.layer

    def make(reads: Array) -> ChannelLayer:
        gives = walk.fresh(layer.units)
        return ChannelLayer(
            layer=layer,
            reads=reads,
            gives=gives,
            cuts={"kernel": {0: reads, 1: gives}, "bias": {0: gives}},
            sizes={"units": gives},
            makes=("kernel", 1),
        )

    return _maker(walk, call, make)


def _separable(walk: Walk, call: LayerCall) -> Array | None:
    layer = call.layer

    def make(reads: Array) -> ChannelLayer:
        gives = walk.fresh(layer.filters)
        last = len(layer.pointwise_kernel.shape) - 1
        middle = np.repeat(reads, layer.depth_multiplier)
        return ChannelLayer(
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

    return _maker(walk, call, make)


def _depthwise(walk: Walk, call: LayerCall) -> Array | None:
    layer = call.layer

    def make(reads: Array) -> ChannelLayer:
        gives = np.repeat(reads, layer.depth_multiplier)
        axis = len(layer.depthwise_kernel.shape) - 2
        cuts = {"depthwise_kernel": {axis: reads}, "bias": {0: gives}}
        return ChannelLayer(layer=layer, reads=reads, gives=gives, cuts=cuts)

    return _maker(walk, call, make)


def _maker(walk: Walk, call: LayerCall, make: Callable[[Array], ChannelLayer]) -> Array:
    """Add a layer with kernels; freeze its channels if its own activation mixes them."""
    part = walk.part(call, make)
    if _mixes(call.layer):
        why = f'"{call.layer.name}": its activation makes every channel depend on all the others'
        walk.freeze(part.gives, why)
    return part.gives


def _normalisation(walk: Walk, call: LayerCall) -> Array | None:
    axes = call.layer.axis
    if [axis % call.rank for axis in np.atleast_1d(axes)] != [call.rank - 1]:
        raise Opaque("it does not normalise along the channels' axis")

    def make(reads: Array) -> ChannelLayer:
        names = ("gamma", "beta", "moving_mean", "moving_variance")
        cuts = {name: {0: reads} for name in names}
        return ChannelLayer(layer=call.layer, reads=reads, gives=reads, cuts=cuts)

    return walk.part(call, make).gives


def _prelu(walk: Walk, call: LayerCall) -> Array | None:
    def make(reads: Array) -> ChannelLayer:
        shape = call.layer.alpha.shape
        last = len(shape) - 1
        cuts = {"alpha": {last: reads} if shape[last] == len(reads) else {}}
        return ChannelLayer(layer=call.layer, reads=reads, gives=reads, cuts=cuts)

    return walk.part(call, make).gives


def _rescaling(walk: Walk, call: LayerCall) -> Array | None:
    if np.ndim(call.layer.scale) or np.ndim(call.layer.offset):
        raise Opaque("it scales each channel separately")
    return _same(walk, call)


def _merged(walk: Walk, call: LayerCall) -> Array | None:
    """Join the channels that Add or a similar layer combines; one channel may meet all others."""
    known = [channels for channels in call.inputs if channels is not None]
    if len(known) != len(call.inputs):
        raise Opaque("its number of channels is open")
    widest = max(known, key=len)
    for channels in known:
        if len(channels) == len(widest):
            walk.join(widest, channels)
        else:
            walk.freeze(channels, f'"{call.layer.name}": it is broadcast over several channels')
    return widest


def _operator(walk: Walk, call: LayerCall) -> Array | None:
    """Follow an elementwise operator of TensorFlow whose other arguments are numbers."""
    function = str(call.layer.get_config()["function"]).removeprefix("__operators__.")
    if function.rpartition(".")[2] not in _ELEMENTWISE or any(
        np.ndim(each) for each in call.constants
    ):
        raise Opaque(f"channels cannot be followed through {function}")
    return _merged(walk, call)


def _concatenated(walk: Walk, call: LayerCall) -> Array | None:
    known = [channels for channels in call.inputs if channels is not None]
    if len(known) != len(call.inputs):
        raise Opaque("its number of channels is open")
    if call.layer.axis % call.rank == call.rank - 1:
        return np.concatenate(known)
    for channels in known[1:]:
        walk.join(known[0], channels)
    return known[0]


def _flattened(walk: Walk, call: LayerCall) -> Array | None:
    del walk
    return _tiled(call)


def _reshaped(walk: Walk, call: LayerCall) -> Array | None:
    before, after = call.input_shapes[0], call.output_shapes[0]
    if before[-1] != after[-1] and len(after) != 2:  # noqa: PLR2004 - a batch of features
        raise Opaque("it splits the channels' axis")

    def make(reads: Array) -> ChannelLayer:
        gives = reads if before[-1] == after[-1] else _tiled(call)
        assert gives is not None
        return ChannelLayer(
            layer=call.layer, reads=reads, gives=gives, sizes={"target_shape": gives}
        )

    return walk.part(call, make).gives


def _permuted(walk: Walk, call: LayerCall) -> Array | None:
    if call.layer.dims[-1] != call.rank - 1:
        raise Opaque("it moves the channels' axis")
    return _same(walk, call)


def _tiled(call: LayerCall) -> Array | None:
    """Return the features of a flattened tensor, row-major: the channels repeated."""
    channels, size = call.inputs[0], call.output_shapes[0][-1]
    if channels is None or size is None:
        raise Opaque("its number of features is open")
    return np.tile(channels, size // len(channels))


_SAME = (
    *("ReLU", "LeakyReLU", "ELU", "ThresholdedReLU"),
    *("Dropout", "SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D"),
    *("GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"),
    *(f"{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
    *(f"Global{kind}Pooling{n}D" for kind in ("Max", "Average") for n in (1, 2, 3)),
    *(f"{kind}{n}D" for kind in ("ZeroPadding", "Cropping", "UpSampling") for n in (1, 2, 3)),
)
_APPLIED = (
    *(f"Conv{n}D" for n in (1, 2, 3)),
    *(f"Conv{n}DTranspose" for n in (1, 2, 3)),
    *(f"{kind}Conv{n}D" for kind in ("Depthwise", "Separable") for n in (1, 2)),
    "Dense",
)
"""Layers whose multiply-accumulates are counted."""
_MERGES = ("Add", "Subtract", "Multiply", "Average", "Maximum", "Minimum")
_ELEMENTWISE = (
    *("add", "subtract", "sub", "multiply", "mul", "truediv", "divide", "neg", "abs", "square"),
    *("radd", "rsub", "rmul", "rtruediv"),
    *("maximum", "minimum", "exp", "sqrt", "rsqrt", "pow", "clip_by_value"),
    *("relu", "relu6", "leaky_relu", "elu", "selu", "silu", "swish", "gelu"),
    *("sigmoid", "tanh", "softplus"),
)
_MIXING = ("softmax", "log_softmax")

_HANDLERS: dict[str, Callable[[Walk, LayerCall], Array | None]] = {
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
    "TFOpLambda": _operator,
    **dict.fromkeys(_SAME, _same),
    **dict.fromkeys(_MERGES, _merged),
}


def _handler(walk: Walk, layer: Keras) -> Callable[[Walk, LayerCall], Array | None]:
    """Return the function that follows channels through a layer. Raises Opaque if there is none."""
    kind, refused = type(layer), walk.refused(layer.name)
    if refused:
        raise Opaque(refused)
    if getattr(layer, "data_format", None) == "channels_first":
        raise Opaque("its channels come first")
    if not kind.__module__.startswith("tf_keras.") or kind.__name__ not in _HANDLERS:
        raise Opaque("channels cannot be followed through it")
    return _HANDLERS[kind.__name__]


def _mixes(layer: Keras) -> bool:
    activation = getattr(layer, "activation", None)
    return getattr(activation, "__name__", "") in _MIXING
