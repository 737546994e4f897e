"""Facts about decomposed graphs, for test_structured.py."""

from __future__ import annotations

from typing import Any

import numpy as np
from structured_nets import (
    L,
    case,
    difference,
    keras,
    main,
    residual_net,
    shaken,
    wide_net,
)

from harness.errors import RecipeError
from harness.optimize.training import factors

# --- decomposition ---------------------------------------------------------------------------


def low_rank_net() -> Any:
    """Return a net with branches; every kernel has exactly the rank in its name."""
    image = L.Input((8, 8, 12))
    x = L.Conv2D(16, 3, padding="same", strides=2, activation="relu", name="conv_5_6")(image)
    y = L.Conv2D(16, 1, name="point_4")(x)
    x = L.BatchNormalization()(L.Add()([x, y]))
    x = L.Dense(20, activation="tanh", name="dense_7")(L.Flatten()(x))
    model = shaken(keras.Model(image, L.Dense(3, name="scores_2")(x)))
    generator = np.random.default_rng(3)
    for layer in model.layers:
        name, *ranks = layer.name.split("_")
        if not ranks or name == "batch" or not hasattr(layer, "kernel"):
            continue
        shape, sizes = layer.kernel.shape, [int(rank) for rank in ranks]
        before = generator.normal(size=(shape[-2], sizes[0]))
        after = generator.normal(size=(sizes[-1], shape[-1]))
        core = generator.normal(size=(*shape[:-2], sizes[0], sizes[-1]))
        if len(sizes) == 1:
            core[...] = np.eye(sizes[0])
        layer.kernel.assign(np.einsum("ia,...ab,bo->...io", before, core, after))
    return model


LOW_RANKS = {"conv_5_6": (5, 6), "point_4": (4,), "dense_7": (7,), "scores_2": (2,)}


@case
def true_ranks() -> dict[str, Any]:
    """At the rank a kernel has, nothing is lost; one below, something is."""
    model = low_rank_net()
    smaller = factors.decompose(model, LOW_RANKS)
    less = {name: tuple(rank - 1 for rank in ranks) for name, ranks in LOW_RANKS.items()}
    names = [layer.name for layer in smaller.layers if hasattr(layer, "kernel")]
    return {
        "difference": difference(model, smaller),
        "below": difference(model, factors.decompose(model, less)),
        "names": names,
        "outputs": smaller.output_names,
        "strides": list(smaller.get_layer("conv_5_6_core").strides),
    }


@case
def true_ranks_by_energy() -> dict[str, Any]:
    """The energy of kernels of known rank is in that many singular values."""
    found = factors.choose(low_rank_net(), factors.DecomposeSpec(energy=0.999999))
    return {name: list(ranks) for name, ranks in found.items()}


@case
def full_ranks() -> dict[str, Any]:
    found = {}
    for name, model in (("residual", residual_net()), ("wide", wide_net())):
        known = factors.candidates(model)
        full = factors.decompose(model, {layer.name: layer.full for layer in known})
        found[name] = difference(model, full)
    return found


@case
def counted_factors() -> dict[str, Any]:
    """Parameters of factors counted by hand: 3x3 of 12 to 16, dense of 256 to 20."""
    model = low_rank_net()
    known = {layer.name: layer for layer in factors.candidates(model)}
    return {
        "conv": known["conv_5_6"].size((5, 6)),
        "conv, full input": known["conv_5_6"].size((12, 6)),
        "dense": known["dense_7"].size((7,)),
        "built": factors.decompose(model, {"conv_5_6": (5, 6)}).count_params()
        - model.count_params(),
    }


@case
def half_the_parameters() -> dict[str, Any]:
    left = {}
    for keep in (0.9, 0.7, 0.5):
        model = residual_net()
        ranks = factors.choose(model, factors.DecomposeSpec(keep=keep))
        left[str(keep)] = factors.decompose(model, ranks).count_params() / model.count_params()
    return left


@case
def decomposed_shared_layer() -> dict[str, Any]:
    """A layer called twice, once on its own output, stays one layer called twice."""
    image = L.Input((6, 6, 8))
    conv = L.Conv2D(8, 3, padding="same", activation="relu", name="again")
    x = L.Add()([conv(image), conv(conv(image))])
    model = shaken(keras.Model(image, L.Dense(2, name="scores")(L.Flatten()(x))))
    kernel = model.get_layer("again").kernel
    generator = np.random.default_rng(5)
    kernel.assign(
        np.einsum(
            "hwab,ia,ob->hwio",
            generator.normal(size=(3, 3, 2, 3)),
            generator.normal(size=(8, 2)),
            generator.normal(size=(8, 3)),
        )
    )
    smaller = factors.decompose(model, {"again": (2, 3)})
    calls = len(smaller.get_layer("again").inbound_nodes)
    return {"difference": difference(model, smaller), "calls": calls}


@case
def rank_above_full() -> dict[str, Any]:
    messages = {}
    for name, call in {
        "everywhere": lambda: factors.choose(low_rank_net(), factors.DecomposeSpec(rank=145)),
        "named": lambda: factors.choose(
            low_rank_net(), factors.DecomposeSpec(rank=17, layers=("point_4",))
        ),
        "decompose": lambda: factors.decompose(low_rank_net(), {"conv_5_6": (5, 17)}),
    }.items():
        try:
            call()
        except RecipeError as error:
            messages[name] = str(error)
    return messages


@case
def bad_settings() -> dict[str, Any]:
    messages = {}
    for name, settings in {
        "none": {},
        "two": {"keep": 0.5, "rank": 2},
        "keep": {"keep": 1.0},
        "energy": {"energy": 0.0},
        "rank": {"rank": 0},
        "layer": {"rank": 2, "layers": ("dense_8",)},
        "out of reach": {"keep": 0.001},
        "no gain": {"rank": 3, "layers": ("scores_2",)},
    }.items():
        try:
            factors.choose(low_rank_net(), factors.DecomposeSpec(**settings))
        except RecipeError as error:
            messages[name] = str(error)
    return messages


@case
def nothing_to_decompose() -> dict[str, Any]:
    image = L.Input((8, 8, 3))
    model = keras.Model(image, L.GlobalAveragePooling2D()(L.DepthwiseConv2D(3)(image)))
    return dict(factors.choose(model, factors.DecomposeSpec(energy=0.5)))


if __name__ == "__main__":
    main()
