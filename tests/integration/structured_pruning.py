"""Facts about rebuilt and pruned graphs, for test_structured.py."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf
from structured_nets import (
    RESIDUAL_BIASES,
    RESIDUAL_NORMS,
    RESIDUAL_ZEROS,
    WIDE_BIASES,
    WIDE_ZEROS,
    L,
    case,
    difference,
    keras,
    main,
    pruned,
    residual_net,
    same_as_zeroed,
    shaken,
    small_net,
    wide_net,
    widths,
)

from harness.errors import RecipeError
from harness.optimize.training import factors, filters, groups, passing
from harness.optimize.training.rebuild import rebuild

# --- rebuild ---------------------------------------------------------------------------------


@case
def rebuilt_with_operators() -> dict[str, Any]:
    """TensorFlow operators, one of them on two tensors, and a layer called on its own output."""
    image = L.Input((6, 6, 4))
    conv = L.Conv2D(4, 3, padding="same", name="again")
    x = conv(conv(image))
    x = x * 2.0 + image
    model = shaken(keras.Model(image, L.Dense(2)(L.Flatten()(x))))
    return {"difference": difference(model, rebuild(model, {}))}


@case
def rebuilt_sequential() -> dict[str, Any]:
    model = shaken(keras.Sequential([L.Dense(4, input_shape=(3,)), L.ReLU(), L.Dense(2)]))
    again = rebuild(model, {})
    return {"difference": difference(model, again), "outputs": again.output_names}


@case
def rebuilt_with_dict_ends() -> dict[str, Any]:
    model = wide_net()
    return {"difference": difference(model, rebuild(model, {}))}


@case
def nested_model() -> dict[str, Any]:
    inner = keras.Sequential([L.Conv2D(8, 3, input_shape=(8, 8, 1))], name="backbone")
    image = L.Input((8, 8, 1))
    return widths(pruned(keras.Model(image, L.Dense(2)(L.Flatten()(inner(image))))))


@case
def subclassed_model() -> dict[str, Any]:
    class Own(keras.Model):
        def __init__(self) -> None:
            super().__init__(name="own")
            self.dense = L.Dense(4)

        def call(self, x: Any) -> Any:
            return self.dense(x)

    model = Own()
    model(np.zeros((1, 3), "float32"))
    return widths(pruned(model))


# --- pruning ---------------------------------------------------------------------------------


@case
def residual() -> dict[str, Any]:
    return same_as_zeroed(residual_net(), RESIDUAL_ZEROS, RESIDUAL_NORMS, RESIDUAL_BIASES)


@case
def residual_by_l2() -> dict[str, Any]:
    return same_as_zeroed(
        residual_net(), RESIDUAL_ZEROS, RESIDUAL_NORMS, RESIDUAL_BIASES, criterion="l2"
    )


@case
def wide() -> dict[str, Any]:
    return same_as_zeroed(wide_net(), WIDE_ZEROS, {}, WIDE_BIASES)


@case
def batch_norm_scale() -> dict[str, Any]:
    """Channels whose scale and shift are zero go first, however large their filters are."""
    image = L.Input((8, 8, 1))
    x = L.BatchNormalization(name="bn")(L.Conv2D(6, 3, name="conv")(image))
    model = shaken(keras.Model(image, L.Dense(2, name="scores")(L.Flatten()(L.ReLU()(x)))))
    layer = model.get_layer("bn")
    scale, shift = layer.gamma.numpy(), layer.beta.numpy()
    scale[[0, 2, 5]] = shift[[0, 2, 5]] = 0
    layer.gamma.assign(scale)
    layer.beta.assign(shift)
    kernel = model.get_layer("conv").kernel
    kernel.assign(kernel.numpy() * np.array([9, 1, 9, 1, 1, 9], "float32"))
    by_scale = pruned(model, multiple=1, criterion="bn_scale")
    by_size = pruned(model, multiple=1, criterion="l1")
    return {"bn_scale": difference(model, by_scale), "l1": difference(model, by_size)}


@case
def counted_by_hand() -> dict[str, Any]:
    seen = groups.network(small_net())
    whole = filters.cost(seen, np.ones(len(seen.roots), bool))
    kept = filters.choose(seen, filters.FilterPruneSpec(keep=0.5, multiple=1))
    less = filters.cost(seen, kept)
    return {
        "whole": [whole.parameters, whole.macs],
        "half": [less.parameters, less.macs],
        "built": filters.prune(seen, kept).count_params(),
    }


@case
def counted_where_kept_whole() -> dict[str, Any]:
    """A grouped convolution is not cut, but it works; a shared layer works twice."""
    image = L.Input((8, 8, 4))
    x = L.Conv2D(8, 3, padding="same", groups=2, name="grouped")(image)
    again = L.Conv2D(8, 1, name="again")
    x = L.Conv2DTranspose(6, 2, strides=2, name="up")(again(again(x)))
    model = shaken(keras.Model(image, L.Conv2D(1, 1, name="mask")(x)))
    seen = groups.network(model)
    whole = filters.cost(seen, np.ones(len(seen.roots), bool))
    return {"whole": [whole.parameters, whole.macs]}


@case
def shares() -> dict[str, Any]:
    """Return the remaining parameters and MACs if half of them is requested."""
    found = {}
    for name, model in (("residual", residual_net()), ("wide", wide_net())):
        seen = groups.network(model)
        whole = filters.cost(seen, np.ones(len(seen.roots), bool))
        for of in ("parameters", "macs"):
            kept = filters.choose(seen, filters.FilterPruneSpec(keep=0.5, of=of, multiple=1))
            smaller = filters.prune(seen, kept)
            again = groups.network(smaller)
            left = filters.cost(again, np.ones(len(again.roots), bool))
            assert left == filters.cost(seen, kept)
            assert left.parameters == smaller.count_params()
            found[f"{name} {of}"] = getattr(left, of) / getattr(whole, of)
    return found


@case
def multiples() -> dict[str, Any]:
    image = L.Input((8, 8, 1))
    x = L.Conv2D(40, 3, name="forty")(image)
    x = L.Conv2D(24, 3, name="wide")(x)
    x = L.Conv2D(8, 3, name="eight")(x)
    model = shaken(keras.Model(image, L.Dense(2, name="scores")(L.Flatten()(x))))
    return {
        "eight": widths(pruned(model, keep=0.4)),
        "least": widths(pruned(model, keep=0.4, multiple=1, least=12)),
    }


@case
def unseen() -> dict[str, Any]:
    """A layer that cannot be seen through keeps its group, and is named; others are pruned."""
    image = L.Input((8, 8, 1))
    x = L.Conv2D(8, 3, padding="same", name="first")(image)
    y = L.Conv2D(8, 3, padding="same", name="second")(x)
    y = L.Add()([L.Reshape((8, 8, 8), name="kept")(y), x])
    z = L.Conv2D(8, 3, name="third")(y)
    z = L.LayerNormalization(name="norm")(L.Conv2D(8, 1, name="fourth")(z))
    z = L.Reshape((-1, 4), name="broken")(L.Conv2D(8, 1, name="fifth")(z))
    model = shaken(keras.Model(image, L.Dense(2, name="scores")(L.Flatten()(z))))
    seen = groups.network(model)
    return {
        "widths": widths(
            filters.prune(seen, filters.choose(seen, filters.FilterPruneSpec(multiple=1)))
        ),
        "frozen": filters.frozen(seen),
    }


@case
def operators() -> dict[str, Any]:
    """Hard swish written with operators: numbers and tensors of the graph are followed."""
    image = L.Input((8, 8, 1))
    x = L.Conv2D(8, 3, name="conv")(image)
    x = x * tf.nn.relu6(3.0 + x) * (1.0 / 6.0)
    x = L.Conv2D(8, 3, name="next")(x) - L.Conv2D(8, 3, name="beside")(x)
    model = shaken(keras.Model(image, L.Dense(2, name="scores")(L.Flatten()(x))))
    zeros = {("conv",): [0, 1, 5, 6], ("next", "beside"): [2, 3, 4, 7]}
    return same_as_zeroed(model, zeros, {}, {})


@case
def opaque_operators() -> dict[str, Any]:
    image = L.Input((8, 8, 1))
    x = L.Conv2D(8, 3, name="scaled")(image) * np.arange(8, dtype="float32")
    x = tf.reduce_sum(L.Conv2D(8, 3, name="summed")(x), axis=-1, keepdims=True)
    x = L.Conv2D(8, 3, name="free")(x)
    model = shaken(keras.Model(image, L.Dense(2, name="scores")(L.Flatten()(x))))
    return widths(pruned(model, multiple=1))


@case
def softmax_inside() -> dict[str, Any]:
    image = L.Input((8, 8, 1))
    x = L.Conv2D(8, 3, activation="softmax", name="soft")(image)
    model = shaken(keras.Model(image, L.Dense(2, name="scores")(L.Flatten()(x))))
    return widths(pruned(model, multiple=1))


@case
def grouped_convolution() -> dict[str, Any]:
    image = L.Input((8, 8, 4))
    x = L.Conv2D(8, 3, name="plain")(image)
    x = L.Conv2D(8, 3, groups=2, name="grouped")(x)
    model = keras.Model(image, L.Dense(2, name="scores")(L.Flatten()(x)))
    return widths(pruned(model, multiple=1))


@case
def called_on_its_own_output() -> dict[str, Any]:
    """A layer that reads what it makes and what another makes holds both to one set of channels."""
    image = L.Input((8,))
    shared = L.Dense(8, activation="relu", name="shared")
    x = shared(shared(L.Dense(8, activation="relu", name="before")(image)))
    model = shaken(keras.Model(image, L.Dense(2, name="scores")(x)))
    zeros = {("shared", "before"): [0, 3, 4, 6]}
    return same_as_zeroed(model, zeros, {}, {})


@case
def called_on_the_input_too() -> dict[str, Any]:
    """A layer's channels are frozen if one of its calls reads channels that cannot be pruned."""
    image = L.Input((8,))
    shared = L.Dense(8, name="shared")
    x = shared(L.LayerNormalization()(shared(image)))
    x = L.Dense(8, name="hidden")(x)
    model = shaken(keras.Model(image, L.Dense(2, name="scores")(x)))
    return widths(pruned(model, multiple=1))


@case
def channels_first() -> dict[str, Any]:
    image = L.Input((4, 8, 8))
    x = L.Conv2D(8, 1, data_format="channels_first", name="first")(image)
    x = L.Dense(8, name="hidden")(L.GlobalAveragePooling2D(data_format="channels_first")(x))
    model = keras.Model(image, L.Dense(2, name="scores")(x))
    return {
        "widths": widths(pruned(model, multiple=1)),
        "decomposable": [layer.name for layer in factors.candidates(model)],
    }


@case
def nothing_to_prune() -> dict[str, Any]:
    image = L.Input((8, 8, 1))
    return widths(pruned(keras.Model(image, L.Dense(4, name="scores")(L.Flatten()(image)))))


@case
def nothing_removed() -> dict[str, Any]:
    return widths(pruned(small_net()))


@case
def share_out_of_reach() -> dict[str, Any]:
    return widths(pruned(small_net(), keep=0.01, of="parameters", multiple=1))


@case
def keep_out_of_range() -> dict[str, Any]:
    messages = {}
    for keep in (0.0, 1.0, -1.0, float("nan")):
        try:
            pruned(small_net(), keep=keep)
        except RecipeError as error:
            messages[str(keep)] = str(error)
    return messages


@case
def open_size() -> dict[str, Any]:
    image = L.Input((None, None, 1))
    x = L.Conv2D(8, 3, name="conv")(image)
    model = keras.Model(image, L.Dense(2, name="scores")(L.GlobalAveragePooling2D()(x)))
    narrow = widths(pruned(model, multiple=1))
    try:
        pruned(model, multiple=1, of="macs")
    except RecipeError as error:
        return {"widths": narrow, "refused": str(error)}
    return {"widths": narrow}


def random_net(seed: int) -> Any:
    """Draw a graph: up to twelve layers, each on what some earlier one gave."""
    generator = np.random.default_rng(seed)
    given = [L.Input((8, 8, 3))]
    image = given[0]
    for _ in range(int(generator.integers(3, 12))):
        x = given[int(generator.integers(len(given)))]
        size, channels = x.shape[1], x.shape[-1]
        like = [y for y in given if y.shape[1:] == x.shape[1:]]
        beside = [y for y in given if y.shape[1:3] == x.shape[1:3]]
        made = [
            lambda x=x: L.Conv2D(int(generator.integers(1, 9)), 3, padding="same")(x),
            lambda x=x: L.ReLU()(L.BatchNormalization()(x)),
            lambda x=x, c=channels: L.Add()([x, L.Conv2D(c, 1, activation="relu")(x)]),
            lambda like=like: L.Maximum()([like[0], like[-1]]),
            lambda beside=beside: L.Concatenate()([beside[0], beside[-1]]),
            lambda x=x: L.DepthwiseConv2D(3, padding="same", depth_multiplier=2)(x),
            lambda x=x, s=size: L.MaxPooling2D()(x) if s > 2 else L.UpSampling2D()(x),
            lambda x=x, s=size, c=channels: L.Reshape((s * s, 1, c))(x) if s == 2 else x * 2.0,
            lambda x=x: L.SeparableConv2D(5, 3, padding="same")(x),
        ]
        given.append(made[int(generator.integers(len(made)))]())
    features = [L.Flatten()(given[-1]), L.GlobalAveragePooling2D()(given[-1])]
    x = L.Dense(6, activation="relu")(features[seed % 2])
    return shaken(keras.Model(image, L.Dense(3)(x)), seed)


@case
def random_graphs() -> dict[str, Any]:
    """Any graph: the smaller model is the given one with the removed channels read as zero."""
    worst, narrower = 0.0, 0
    for seed in range(40):
        model = random_net(seed)
        seen = groups.network(model)
        kept = filters.choose(seen, filters.FilterPruneSpec(keep=0.6, multiple=1))
        smaller = filters.prune(seen, kept)
        for part in seen.parts.values():
            for weight in passing.KERNELS:
                axes = part.cuts.get(weight, {})
                values = getattr(part.layer, weight).numpy() if axes else None
                for axis, numbers in axes.items():
                    if numbers is part.reads or weight == "pointwise_kernel":
                        where = (slice(None),) * axis + (~kept[numbers],)
                        values[where] = 0
                if values is not None:
                    getattr(part.layer, weight).assign(values)
        worst = max(worst, difference(model, smaller))
        narrower += smaller.count_params() < model.count_params()
    return {"worst": worst, "narrower": narrower}


if __name__ == "__main__":
    main()
