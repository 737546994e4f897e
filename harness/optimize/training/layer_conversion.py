"""Convert one layer of Keras 3 to a layer of tf_keras: its config and its weights.

If tf_keras lacks a layer or defines it differently, it is built from layers that tf_keras has, so
that any tf_keras can load the model. Keras 3's `hard_sigmoid` is relu6(x + 3) / 6, but tf_keras's is
clip(0.2 x + 0.5); tf_keras has no `hard_silu`.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from harness.optimize.training import libraries
from harness.optimize.training.libraries import Keras

_DROPPED = ("quantization_config", "batch_shape", "optional")
"""Config keys of Keras 3 that do not affect the layer's outputs."""
_OPERATORS: dict[str, Callable[[Any, Any], Any]] = {
    "Add": operator.add,
    "Subtract": operator.sub,
    "Multiply": operator.mul,
    "Divide": operator.truediv,
    "TrueDivide": operator.truediv,
    "Power": operator.pow,
}
"""Arithmetic that Keras 3 writes into a graph as operations, not layers."""
_RENAMED = {"LeakyReLU": {"negative_slope": "alpha"}}
"""Config keys that have another name in tf_keras, by class."""
_HARD = ("hard_sigmoid", "hard_silu", "hard_swish")


@dataclass(slots=True, kw_only=True)
class ConvertedLayer:
    """A layer in tf_keras: its call, and the layer that its weights come from."""

    call: Callable[..., Keras]
    source: Keras
    layer: Keras | None = None

    def carry_weights(self) -> None:
        """Copy the weights; raises ValueError if the two layers have different ones."""
        if self.layer is not None:
            self.layer.set_weights(self.source.get_weights())


@dataclass(slots=True)
class _HardActivation:
    """Keras 3's hard activations as plain layers; TFLite fuses them into one operator again."""

    kind: str
    name: str
    _layers: dict[str, Keras] = field(default_factory=dict)

    def __call__(self, x: Keras) -> Keras:
        layers = libraries.keras().layers
        if not self._layers:
            self._layers = {
                "add": layers.Rescaling(1.0, offset=3.0, name=f"{self.name}_add"),
                "clip": layers.ReLU(6.0, name=f"{self.name}_clip"),
                "scale": layers.Rescaling(1.0 / 6.0, name=f"{self.name}_scale"),
                "gate": layers.Multiply(name=f"{self.name}_gate"),
            }
        made = self._layers
        gate = made["scale"](made["clip"](made["add"](x)))
        return gate if self.kind == "hard_sigmoid" else made["gate"]([x, gate])


def make(operation: Keras, name: str) -> ConvertedLayer:
    """Convert a layer; raises ValueError, TypeError, ... if tf_keras has no equivalent."""
    special = _SPECIAL.get(type(operation).__name__)
    if special is not None:
        return ConvertedLayer(call=special(operation, name), source=operation)
    if not _is_layer(operation):
        return ConvertedLayer(call=_arithmetic(operation, name), source=operation)
    kind = _class(operation)
    renamed = _RENAMED.get(kind.__name__, {})
    config = plain_config(operation.get_config())
    config = {renamed.get(key, key): value for key, value in config.items()}
    config["name"] = name
    hard = config.get("activation") if config.get("activation") in _HARD else None
    if hard and type(operation).__name__ == "Activation":
        return ConvertedLayer(call=_HardActivation(hard, name), source=operation)
    if hard:
        config["activation"] = "linear"
    layer = kind.from_config(_known(kind, config))
    after = _HardActivation(hard, f"{name}_{hard}") if hard else None

    def call(*args: Any, **kwargs: Any) -> Keras:  # noqa: ANN401 - tensors and flags of a call
        made = layer(*args, **kwargs)
        return after(made) if after else made

    return ConvertedLayer(call=call, source=operation, layer=layer)


def plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a Keras 3 config for tf_keras: dtype policies by name, no initialisers."""
    plain: dict[str, Any] = {}
    for key, value in config.items():
        if key in _DROPPED or key.endswith("_initializer"):
            continue
        plain[key] = _plain(value)
    return plain


def _plain(value: Any) -> Any:  # noqa: ANN401 - any value of a config
    if isinstance(value, Mapping):
        if value.get("class_name") == "DTypePolicy":
            return "float32"
        if "config" in value and isinstance(value["config"], Mapping):
            return {**value, "config": plain_config(value["config"])}
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_plain(item) for item in value)
    return value


def _is_layer(operation: Keras) -> bool:
    import keras

    return isinstance(operation, keras.layers.Layer)


def _arithmetic(operation: Keras, name: str) -> Callable[..., Keras]:
    """Convert `x + y` etc.: a layer for two equal shapes, else TensorFlow's operator."""
    kind = type(operation).__name__
    found = _OPERATORS.get(kind)
    if found is None:
        raise ValueError(f"the operation {kind} is not a layer")
    merge = getattr(libraries.keras().layers, kind, None)

    def call(left: Keras, right: Keras) -> Keras:
        shapes = [getattr(item, "shape", None) for item in (left, right)]
        if merge is not None and shapes[0] is not None and shapes[0] == shapes[1]:
            return merge(name=name)([left, right])
        return found(left, right)

    return call


def _class(operation: Keras) -> Keras:
    """Return the layer's class in tf_keras, by name; only for a class of Keras itself."""
    kind = type(operation)
    if not kind.__module__.startswith("keras."):
        raise ValueError(f"{kind.__module__}.{kind.__name__} is a custom layer")
    found = getattr(libraries.keras().layers, kind.__name__, None)
    if found is None:
        raise ValueError(f"tf_keras.layers has no {kind.__name__}")
    return found


def _known(kind: Keras, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config without the unset keys that tf_keras does not have.

    Raises TypeError if such a key is set.
    """
    allowed = {"name", "trainable", "dtype"}
    for base in kind.__mro__:
        if "__init__" in vars(base):
            allowed |= set(inspect.signature(base.__init__).parameters)
    lost = {key: value for key, value in config.items() if key not in allowed}
    in_use = [key for key, value in lost.items() if value not in (None, False, 0, "auto")]
    if in_use:
        raise TypeError(f"tf_keras has no {', '.join(in_use)} for it")
    return {key: value for key, value in config.items() if key in allowed}


def _scale_and_add(operation: Keras, name: str) -> Callable[..., Keras]:
    """Convert InceptionResNetV2's x + scale * y."""
    layers = libraries.keras().layers
    scale = layers.Rescaling(float(operation.scale), name=f"{name}_scale")
    add = layers.Add(name=name)

    def call(pair: list[Keras]) -> Keras:
        return add([pair[0], scale(pair[1])])

    return call


_SPECIAL: dict[str, Callable[[Keras, str], Callable[..., Keras]]] = {
    "CustomScaleLayer": _scale_and_add,
}
"""Layers of keras.applications that have no class in `keras.layers`."""
