"""Group the channels of a graph: those that must be removed together, and those that must stay.

Every channel that a layer makes gets a number. The numbers follow the graph along the last axis of
each tensor: activations, pooling, batch normalisation and depthwise convolutions keep them,
Concatenate and Flatten put them one after another, Add and similar layers join the channels that
they combine (union-find). Joined channels are removed together or not at all. A layer whose channels
cannot be followed freezes the channels of its inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.optimize.training import libraries, passing
from harness.optimize.training.libraries import Keras
from harness.optimize.training.rebuild import Array, functional
from harness.optimize.training.walk import OUTPUT, ChannelLayer, LayerCall, Walk


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Channels that the same layers make together; each channel has one number."""

    layers: tuple[str, ...]
    channels: Array
    frozen: str | None
    """The reason why they cannot be removed; None if they can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """A model with its channels numbered and grouped."""

    model: Keras
    parts: Mapping[str, ChannelLayer]
    """Layers by name, in the order of the graph."""
    roots: Array
    """The representative of each number's joined set."""
    groups: tuple[Group, ...]
    positions: Mapping[str, int | None]
    """Applications of each layer's kernels per sample, over all its calls, by layer name; None if a
    dimension is open."""


def network(model: Keras) -> Network:
    """Number and group the channels of a tf_keras model.

    Raises RecipeError for a subclassed model and for one with a model as a layer.
    """
    graph = functional(model)
    walk = Walk()
    made: dict[tuple[str, int, int], Array | None] = {}
    positions: dict[str, int | None] = {}
    for node in _nodes(graph):
        call = LayerCall(
            layer=node.layer,
            inputs=[made[_place(tensor)] for tensor in node.keras_inputs],
            constants=[each for each in _flat((node.call_args, node.call_kwargs)) if _plain(each)],
            input_shapes=[tuple(tensor.shape) for tensor in node.keras_inputs],
            output_shapes=[tuple(tensor.shape) for tensor in _flat(node.outputs)],
        )
        before, applied = positions.get(node.layer.name, 0), passing.positions(call)
        positions[node.layer.name] = None if before is None or applied is None else before + applied
        for tensor, channels in zip(_flat(node.outputs), passing.follow(walk, call), strict=True):
            made[_place(tensor)] = channels
    for tensor in _flat(graph.outputs):
        walk.freeze(made[_place(tensor)], OUTPUT)
    return Network(
        model=graph,
        parts=walk.parts,
        roots=walk.roots(),
        groups=tuple(_groups(walk)),
        positions=positions,
    )


def _groups(walk: Walk) -> Iterator[Group]:
    """Group the numbers by the layers that make them and by the reason why they are frozen."""
    roots, reasons = walk.roots(), walk.reasons()
    makers: dict[int, dict[str, None]] = {}
    for name, part in walk.parts.items():
        if part.makes is not None:
            for root in roots[part.gives]:
                makers.setdefault(int(root), {})[name] = None
    grouped: dict[tuple[tuple[str, ...], str | None], list[int]] = {}
    for root, names in makers.items():
        grouped.setdefault((tuple(names), reasons.get(root)), []).append(root)
    for (layers, reason), channels in grouped.items():
        yield Group(layers=layers, channels=np.asarray(channels), frozen=reason)


def _nodes(model: Keras) -> Iterator[Any]:
    """Yield the calls of a graph's layers in topological order; tf_keras has no public API for it."""
    for depth in sorted(model._nodes_by_depth, reverse=True):  # noqa: SLF001 - see above
        yield from model._nodes_by_depth[depth]  # noqa: SLF001 - see above


def _place(tensor: Keras) -> tuple[str, int, int]:
    """Return the layer, the call and the output index that a tensor comes from."""
    history = tensor._keras_history  # noqa: SLF001 - tf_keras has no public API for it
    return (history.layer.name, history.node_index, history.tensor_index)


def _plain(value: object) -> bool:
    """Return whether a call's argument is not a tensor of the graph."""
    return not hasattr(value, "_keras_history")


def _flat(tensors: Keras) -> list[Any]:
    return list(libraries.tensorflow().nest.flatten(tensors))
