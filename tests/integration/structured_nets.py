"""Nets and measures of structured_pruning.py and structured_factors.py, which test_structured.py runs.

    python structured_pruning.py        # one JSON object, by case

Each case is a function that returns plain facts; a RecipeError is a fact, {"refused": its message}.
The nets and the channels that are set to zero are written by hand, so that what belongs together
is written here a second time, without the code under test.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["TF_USE_LEGACY_KERAS"] = "1"

import numpy as np
import tf_keras as keras

from harness.errors import RecipeError
from harness.optimize.training import filters, groups

L = keras.layers
CASES: dict[str, Callable[[], dict[str, Any]]] = {}


def case(function: Callable[[], dict[str, Any]]) -> Callable[[], dict[str, Any]]:
    CASES[function.__name__] = function
    return function


# --- nets ------------------------------------------------------------------------------------


def shaken(model: Any, seed: int = 0) -> Any:
    """Give every variable random values; variances stay positive."""
    generator = np.random.default_rng(seed)
    for variable in model.weights:
        drawn = generator.normal(size=variable.shape)
        variable.assign(np.abs(drawn) + 0.5 if "variance" in variable.name else drawn)
    return model


def residual_net() -> Any:
    """Residual Add, depthwise, batch norm, PReLU, Concatenate, Flatten into a dense layer."""
    image = L.Input((8, 8, 3), name="image")
    a = L.ReLU()(L.BatchNormalization(name="a_bn")(L.Conv2D(8, 3, padding="same", name="a")(image)))
    x = L.BatchNormalization(name="dw_bn")(L.DepthwiseConv2D(3, padding="same", name="dw")(a))
    x = L.BatchNormalization(name="b_bn")(L.Conv2D(8, 1, use_bias=False, name="b")(x))
    x = L.Activation("relu")(L.Add()([a, x]))
    c = L.PReLU(shared_axes=[1, 2], name="c_prelu")(L.Conv2D(4, 3, strides=2, name="c")(x))
    d = L.MaxPooling2D()(L.Conv2D(6, 3, name="d", activation="relu")(x))
    x = L.Flatten()(L.Concatenate()([c, d]))
    x = L.Dense(10, activation="relu", name="f")(L.Dropout(0.5)(x))
    return shaken(keras.Model(image, L.Dense(3, name="scores")(x)))


RESIDUAL_ZEROS = {
    ("a", "b"): [1, 3, 4, 6],
    ("c",): [0, 2],
    ("d",): [1, 2, 5],
    ("f",): [0, 1, 4, 7, 9],
}
RESIDUAL_NORMS = {"a_bn": [1, 3, 4, 6], "dw_bn": [1, 3, 4, 6], "b_bn": [1, 3, 4, 6]}
RESIDUAL_BIASES = {"dw": [1, 3, 4, 6]}


def wide_net() -> Any:
    """A layer called twice, two inputs, two outputs, squeeze and excite, separable, transposed."""
    left, right = L.Input((6, 6, 2), name="left"), L.Input((6, 6, 2), name="right")
    shared = L.Conv2D(8, 3, padding="same", activation="relu", name="s")
    x = L.Average()([shared(left), shared(right)])
    x = L.Conv2DTranspose(6, 2, strides=2, name="t")(x)
    x = L.ZeroPadding2D()(L.LeakyReLU()(x))
    p = L.SeparableConv2D(8, 3, depth_multiplier=2, name="p")(x)
    q = L.Dense(4, activation="relu", name="q")(L.GlobalAveragePooling2D()(p))
    r = L.Reshape((1, 1, 8), name="r_shape")(L.Dense(8, activation="sigmoid", name="r")(q))
    x = L.DepthwiseConv2D(3, depth_multiplier=2, name="m")(L.Multiply()([p, r]))
    mask = L.Conv2D(1, 1, name="mask")(L.UpSampling2D()(x))
    scores = L.Dense(5, activation="softmax", name="scores")(L.GlobalMaxPooling2D()(x))
    return shaken(keras.Model([left, right], {"mask": mask, "scores": scores}))


WIDE_ZEROS = {
    ("s",): [0, 2, 5, 7],
    ("t",): [3, 4, 5],
    ("p", "r"): [1, 2, 3, 7],
    ("q",): [0, 3],
}
WIDE_BIASES = {"m": [2, 3, 4, 5, 6, 7, 14, 15]}
"""Each channel of p makes two of the depthwise layer's."""


def small_net() -> Any:
    """Small enough to count by hand."""
    image = L.Input((8, 8, 1))
    x = L.Conv2D(4, 3, padding="same", name="conv")(image)
    x = L.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False, name="depthwise")(x)
    x = L.GlobalAveragePooling2D()(L.Conv2D(6, 1, name="point")(x))
    return shaken(keras.Model(image, L.Dense(3, name="scores")(x)))


def zeroed(
    model: Any,
    makers: Mapping[tuple[str, ...], Sequence[int]],
    norms: Mapping[str, Sequence[int]],
    biases: Mapping[str, Sequence[int]],
) -> None:
    """Set what makes these channels to zero: filters, biases, batch-norm shifts and means."""

    def clear(layer: str, weight: str, axis: int, channels: Sequence[int]) -> None:
        variable = getattr(model.get_layer(layer), weight, None)
        if variable is not None:
            values = variable.numpy()
            values[(slice(None),) * (axis % values.ndim) + (list(channels),)] = 0
            variable.assign(values)

    for names, channels in makers.items():
        for name in names:
            kind = type(model.get_layer(name)).__name__
            weight = "pointwise_kernel" if kind == "SeparableConv2D" else "kernel"
            clear(name, weight, -2 if kind == "Conv2DTranspose" else -1, channels)
            clear(name, "bias", 0, channels)
    for name, channels in norms.items():
        clear(name, "beta", 0, channels)
        clear(name, "moving_mean", 0, channels)
    for name, channels in biases.items():
        clear(name, "bias", 0, channels)


def probes(model: Any, count: int = 4) -> list[Any]:
    generator = np.random.default_rng(1)
    return [
        generator.normal(size=(count, *tensor.shape[1:])).astype("float32")
        for tensor in model.inputs
    ]


def difference(model: Any, other: Any) -> float:
    """Largest difference of any output, over the largest value of it."""
    fed = probes(model)
    fed = fed[0] if len(fed) == 1 else fed
    ours, theirs = model(fed, training=False), other(fed, training=False)
    if not isinstance(ours, dict):
        ours, theirs = {"": ours}, {"": theirs}
    assert ours.keys() == theirs.keys()
    return max(
        float(np.abs(ours[key] - theirs[key]).max() / np.abs(ours[key]).max()) for key in ours
    )


def pruned(model: Any, **spec: Any) -> Any:
    seen = groups.network(model)
    return filters.prune(seen, filters.choose(seen, filters.FilterPruneSpec(**spec)))


def widths(model: Any) -> dict[str, int]:
    return {
        layer.name: getattr(layer, "filters", None) or layer.units
        for layer in model.layers
        if hasattr(layer, "units") or (hasattr(layer, "filters") and layer.filters)
    }


def same_as_zeroed(
    model: Any,
    makers: Mapping[tuple[str, ...], Sequence[int]],
    norms: Mapping[str, Sequence[int]],
    biases: Mapping[str, Sequence[int]],
    **spec: Any,
) -> dict[str, Any]:
    before = [variable.numpy() for variable in model.weights]
    zeroed(model, makers, norms, biases)
    kept = [variable.numpy() for variable in model.weights]
    smaller = pruned(model, keep=0.5, multiple=1, **spec)
    untouched = all(np.array_equal(a, b.numpy()) for a, b in zip(kept, model.weights, strict=True))
    assert any((a != b).any() for a, b in zip(before, kept, strict=True))
    return {
        "difference": difference(model, smaller),
        "widths": widths(smaller),
        "untouched": untouched,
        "outputs": list(smaller.output_names),
        "parameters": [model.count_params(), smaller.count_params()],
    }


def main() -> None:
    wanted = sys.argv[1:] or list(CASES)
    answers = {}
    for name in wanted:
        try:
            answers[name] = CASES[name]()
        except RecipeError as error:
            answers[name] = {"refused": str(error)}
    json.dump(answers, sys.stdout)
