"""Make a tf_keras graph again with some of its layers replaced.

    rebuild(model, {"dense": [Piece(name="dense", kind="Dense", config=..., weights=...)]})

The graph is edited as the plain data of `get_config`. So branches, layers that are called more than
once, several inputs and outputs, and arguments of TensorFlow operators are kept unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.errors import RecipeError
from harness.optimize import library_errors
from harness.optimize.training import libraries
from harness.optimize.training.libraries import Keras

Array = np.ndarray[Any, Any]

_REFUSALS = (ValueError, TypeError, KeyError, AttributeError, RuntimeError, ImportError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One layer in place of a replaced one."""

    name: str
    kind: str
    """Class of `tf_keras.layers`."""
    config: Mapping[str, Any]
    weights: Mapping[str, Array]
    """Arrays by the variable's attribute: `kernel`, `bias`, `gamma`, ..."""


def functional(model: Keras) -> Keras:
    """Return the model as a Functional one over the same layers.

    Raises RecipeError for a model that is no graph of layers (subclassed, or not built) and for
    one with a model as a layer.
    """
    keras = libraries.keras()
    if not getattr(model, "_is_graph_network", False):
        raise RecipeError(
            f'the model "{model.name}" is not a graph of layers (subclassed, or never built): '
            "write it with the functional API, or leave this step out"
        )
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            raise RecipeError(
                f'the layer "{layer.name}" is itself a model: call its layers in the outer model '
                "instead (build the inner one on the outer one's tensors), or leave this step out"
            )
    if type(model) is _functional_class():
        return model
    return keras.Model(model.input, model.output, name=model.name)


def rebuild(model: Keras, replaced: Mapping[str, Sequence[Piece]]) -> Keras:
    """Return a new model; `replaced` has the pieces that replace a layer, by layer name.

    The pieces run in sequence. The last one has the name of the replaced layer, so that the layers
    after it find it. A layer that is called several times is replaced at each call by the same
    pieces. Every other layer is made again from its config with a copy of its weights; the given
    model is unchanged.

    Raises RecipeError if a layer cannot be made again from its config or its weights do not fit.
    """
    source = functional(model)
    config = source.get_config()
    layers: list[dict[str, Any]] = []
    for item in config["layers"]:
        # build_config has the shapes of the old graph; the layers are built when they are called.
        plain = {key: value for key, value in item.items() if key != "build_config"}
        pieces = replaced.get(item["name"])
        layers += [plain] if pieces is None else _chain(plain, pieces)
    known = {type(layer).__name__: type(layer) for layer in source.layers}
    try:
        made = libraries.keras().Model.from_config(
            {**config, "layers": layers}, custom_objects=known
        )
    except _REFUSALS as error:
        raise RecipeError(
            f'the model "{model.name}" cannot be made again from its config '
            f"({library_errors.brief(error)}); give its custom layers a get_config"
        ) from error
    _carry_weights(source, made, {p.name: p for pieces in replaced.values() for p in pieces})
    return made


def _chain(item: Mapping[str, Any], pieces: Sequence[Piece]) -> list[dict[str, Any]]:
    """Replace a layer's entry of a graph's config by one entry per piece."""
    assert pieces[-1].name == item["name"], "later layers find the last piece by the old name"
    entries = []
    inbound = [_without_training(node) for node in item["inbound_nodes"]]
    for piece in pieces:
        entries.append(
            {
                **item,
                "class_name": piece.kind,
                "config": {**piece.config, "name": piece.name},
                "name": piece.name,
                "inbound_nodes": inbound,
            }
        )
        inbound = [[[piece.name, call, 0, {}]] for call in range(len(item["inbound_nodes"]))]
    return entries


def _without_training(node: Any) -> Any:  # noqa: ANN401 - a call in a config
    """Return a call without the argument `training`, which the piece may not take."""
    if isinstance(node, Mapping):
        return {key: _without_training(value) for key, value in node.items() if key != "training"}
    return [_without_training(value) for value in node] if isinstance(node, list) else node


def _carry_weights(source: Keras, made: Keras, pieces: Mapping[str, Piece]) -> None:
    for layer in made.layers:
        try:
            if layer.name in pieces:
                _assign(layer, pieces[layer.name].weights)
            else:
                layer.set_weights(source.get_layer(layer.name).get_weights())
        except ValueError as error:
            raise RecipeError(
                f'the weights of "{layer.name}" do not fit its new place '
                f"({library_errors.brief(error)})"
            ) from error


def _assign(layer: Keras, weights: Mapping[str, Array]) -> None:
    held = len(layer.weights)
    if held != len(weights):
        raise ValueError(f"{len(weights)} arrays for its {held} variables")
    for name, array in weights.items():
        getattr(layer, name).assign(array)


def _functional_class() -> type[Any]:
    from tf_keras.src.engine.functional import Functional

    kind: type[Any] = Functional
    return kind
