"""Structured pruning: choose the filters and units to remove, and make the smaller model.

    seen = groups.network(model)
    kept = choose(seen, FilterPruneSpec(keep=0.5, of="macs"))
    smaller = prune(seen, kept)

Filters are ranked in their group by the size of their weights (Li et al., "Pruning Filters for
Efficient ConvNets", 2017: the L1 norm) or by the scale of the following batch norm (Liu et al.,
"Learning Efficient Convolutional Networks through Network Slimming", 2017). In a group of several
layers, each layer's scores are divided by their mean and then summed, so that no layer outweighs
the others.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from harness.errors import RecipeError
from harness.optimize.training.groups import Group, Network
from harness.optimize.training.libraries import Keras
from harness.optimize.training.passing import KERNELS
from harness.optimize.training.rebuild import Array, Piece, rebuild
from harness.optimize.training.walk import OUTPUT, ChannelLayer

Criterion = Literal["l1", "l2", "bn_scale"]
Of = Literal["channels", "parameters", "macs"]
_HALVINGS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class FilterPruneSpec:
    """The share to keep, its measure and the ranking criterion."""

    keep: float = 0.5
    of: Of = "channels"
    criterion: Criterion = "l1"
    multiple: int = 8
    """Channels are rounded to the nearest multiple of this, at least one multiple."""
    least: int = 1
    """Minimum channels per layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """Parameters and MACs of a model; MACs are those of convolutions and dense layers per sample."""

    parameters: int
    macs: int | None
    """None if an open dimension makes them unknown."""


def choose(network: Network, spec: FilterPruneSpec) -> Array:
    """Return an array of booleans: for each channel number, whether it is kept.

    `of="channels"` keeps the ratio in every group. `of="parameters"` and `of="macs"` search for one
    ratio for all groups that reduces the model to `keep` of its parameters or MACs.

    Raises RecipeError: a ratio out of range, no layer can be pruned (with the reasons), a share that
    cannot be reached, a ratio that removes nothing.
    """
    if not 0 < spec.keep < 1:
        raise RecipeError(f"keep = {spec.keep:g} is out of range: keep more than 0, less than 1")
    free = [group for group in network.groups if group.frozen is None]
    if not free:
        raise RecipeError(
            "nothing can be pruned: there is no hidden convolution or dense layer whose channels "
            f"this step can follow{_reasons(network)}"
        )
    ranked = [_ranked(network, group, spec.criterion) for group in free]

    def kept_at(ratio: float) -> Array:
        removed = [order[: len(order) - _count(len(order), ratio, spec)] for order in ranked]
        return ~np.isin(network.roots, np.concatenate(removed))

    kept = kept_at(spec.keep) if spec.of == "channels" else _within(network, spec, kept_at)
    if kept.all():
        raise RecipeError(
            f"keep = {spec.keep:g} removes nothing: the layers have "
            f"{', '.join(f'{len(order)}' for order in ranked)} channels, rounded to a multiple of "
            f"{spec.multiple} and never fewer than {max(spec.multiple, spec.least)}; "
            "lower multiple or least"
        )
    return kept


def prune(network: Network, kept: Array) -> Keras:
    """Return a new model without the channels that are not kept; the given one is unchanged."""
    replaced = {
        name: [_piece(part, kept)]
        for name, part in network.parts.items()
        if not all(kept[numbers].all() for numbers in _numbers(part))
    }
    return rebuild(network.model, replaced)


def cost(network: Network, kept: Array) -> Cost:
    """Count parameters and multiply-accumulates with only the kept channels."""
    parameters, macs, closed = 0, 0, True
    for layer in network.model.layers:
        part = network.parts.get(layer.name)
        sizes = {name: _size(part, name, kept) for name in part.cuts} if part else {}
        parameters += sum(sizes.values()) if part else layer.count_params()
        applied = network.positions[layer.name]
        if applied is None:
            closed = False
        elif applied:
            kernels = [name for name in KERNELS if getattr(layer, name, None) is not None]
            macs += applied * sum(sizes.get(name, _whole(layer, name)) for name in kernels)
    return Cost(parameters=parameters, macs=macs if closed else None)


def frozen(network: Network) -> list[str]:
    """Return a note with the reason for each group that is kept whole, except the output layers."""
    return [
        f"kept whole: {', '.join(group.layers)}, because of {group.frozen}"
        for group in network.groups
        if group.frozen is not None and group.frozen != OUTPUT
    ]


def summary(network: Network, kept: Array) -> str:
    """Describe the result: parameters, MACs and the channels of each layer that lost some."""
    before, after = cost(network, np.ones_like(kept)), cost(network, kept)
    text = f"{after.parameters:,} of {before.parameters:,} parameters ({_share(after.parameters, before.parameters)})"
    if before.macs and after.macs is not None:
        text += f", {after.macs:,} of {before.macs:,} MACs ({_share(after.macs, before.macs)})"
    widths = [
        f"{name} {int(kept[part.gives].sum())} of {len(part.gives)}"
        for name, part in network.parts.items()
        if part.makes is not None and not kept[part.gives].all()
    ]
    return f"{text}; channels: {', '.join(widths)}"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.1%}"


def without_scale(network: Network) -> list[str]:
    """Return the names of the layers that can be pruned but have no batch-norm scale after them."""
    return [
        name
        for group in network.groups
        if group.frozen is None and not _scales(network, group)
        for name in group.layers
    ]


def _count(count: int, ratio: float, spec: FilterPruneSpec) -> int:
    nearest = spec.multiple * int(count * ratio / spec.multiple + 0.5)
    return min(count, max(nearest, spec.multiple, spec.least))


def _within(network: Network, spec: FilterPruneSpec, kept_at: Callable[[float], Array]) -> Array:
    """Return the most channels within the requested share; the cost grows with the channels."""
    whole = _counted(cost(network, np.ones(len(network.roots), dtype=bool)), spec.of)
    bound = spec.keep * whole
    smallest = _counted(cost(network, kept_at(0.0)), spec.of)
    if smallest > bound:
        raise RecipeError(
            f"keep = {spec.keep:g} of the {spec.of} cannot be reached: with {spec.multiple} "
            f"channels per layer there are still {smallest / whole:.1%} (the rest is in layers that "
            f"are not pruned){_reasons(network)}; raise keep, or lower multiple"
        )
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        fits = _counted(cost(network, kept_at(middle)), spec.of) <= bound
        low, high = (middle, high) if fits else (low, middle)
    return kept_at(low)


def _counted(found: Cost, of: Of) -> int:
    if of == "parameters":
        return found.parameters
    if found.macs is None:
        raise RecipeError(
            "the MACs cannot be counted: the model leaves a size of its input open; "
            'use of = "parameters" or of = "channels"'
        )
    return found.macs


def _ranked(network: Network, group: Group, criterion: Criterion) -> Array:
    """Return the group's channels, the least important first; equal ones in the layer's order."""
    scores: dict[int, float] = dict.fromkeys(map(int, group.channels), 0.0)
    found = _scales(network, group) if criterion == "bn_scale" else []
    for part, values in found or [
        (network.parts[name], _norms(network.parts[name], criterion)) for name in group.layers
    ]:
        mean = float(values.mean()) or 1.0
        for root, value in zip(network.roots[part.gives], values, strict=True):
            if int(root) in scores:
                scores[int(root)] += float(value) / mean
    order = np.argsort([scores[int(root)] for root in group.channels], kind="stable")
    ranked: Array = group.channels[order]
    return ranked


def _scales(network: Network, group: Group) -> list[tuple[ChannelLayer, Array]]:
    """Return the batch norms of a group's channels, each with its absolute scales."""
    wanted = set(map(int, group.channels))
    return [
        (part, np.abs(part.layer.gamma.numpy()))
        for part in network.parts.values()
        if "gamma" in part.cuts and wanted & set(map(int, network.roots[part.gives]))
    ]


def _norms(part: ChannelLayer, criterion: Criterion) -> Array:
    assert part.makes is not None
    weight, axis = part.makes
    values = getattr(part.layer, weight).numpy()
    others = tuple(each for each in range(values.ndim) if each != axis)
    if criterion == "l2":
        return np.asarray(np.sqrt(np.square(values).sum(axis=others)))
    return np.asarray(np.abs(values).sum(axis=others))


def _piece(part: ChannelLayer, kept: Array) -> Piece:
    config = dict(part.layer.get_config())
    for key, numbers in part.sizes.items():
        count = int(kept[numbers].sum())
        if key == "target_shape":
            *leading, last = config[key]
            config[key] = (*leading, last if last == -1 else count)
        else:
            config[key] = count
    weights = {}
    for name, axes in part.cuts.items():
        values = getattr(part.layer, name).numpy()
        for axis, numbers in axes.items():
            values = np.compress(kept[numbers], values, axis=axis)
        weights[name] = values
    kind = type(part.layer).__name__
    return Piece(name=part.layer.name, kind=kind, config=config, weights=weights)


def _whole(layer: Keras, name: str) -> int:
    return int(np.prod(getattr(layer, name).shape))


def _size(part: ChannelLayer, name: str, kept: Array) -> int:
    shape = list(getattr(part.layer, name).shape)
    for axis, numbers in part.cuts[name].items():
        shape[axis] = int(kept[numbers].sum())
    return int(np.prod(shape))


def _numbers(part: ChannelLayer) -> list[Array]:
    return [*part.sizes.values(), *(n for axes in part.cuts.values() for n in axes.values())]


def _reasons(network: Network) -> str:
    """Return for a message why groups are kept whole, except the output layers."""
    reasons = frozen(network)
    return f" ({'; '.join(reasons)})" if reasons else ""
