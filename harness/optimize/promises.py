"""Check a finished file against the promises of its recipe's steps.

A training step can succeed and its effect still be lost later: a fine-tune may fill the zeros, a
conversion may split the clusters or leave a layer in float. So the check reads the finished file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from harness.errors import RecipeError
from harness.optimize import catalog, widths
from harness.protocols import Promise
from harness.tflite import structure
from harness.tflite.structure import Layer

_UNITS = {
    "sparsity": "zeros",
    "unique_values": "distinct values",
    "unique_per_channel": "distinct values in a channel",
    "nonzeros_per_4": "nonzeros in 4 neighbours",
    "int8_share": "of the weights in 8 bits or fewer",
    "float16_share": "of the weights in 16 bits or fewer",
    "elements": "weights",
}
_NAME_LENGTH = 80
_NAMED = 8
_WIDTHS = {"int8_share": 8, "float16_share": 16}
"""Measures of the share of weights within a width, in bits. A constant of zeros alone, such as the
first state of a loop, is no weight."""
_SHARES = ("sparsity", *_WIDTHS)
_OVER_ALL = (*_WIDTHS, "elements")
"""Measures over all selected layers together; the others apply to each layer."""
_RELAXED_BY = {"int8_share": "min_int8", "float16_share": "min_float16"}
"""The parameter of our steps that sets the limit of a measure."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptPromises:
    """What a file that keeps its promises adds to its variant."""

    notes: list[str] = field(default_factory=list)
    flags: list[str] = field(default_factory=list)


def plain(step: str, promise: Promise) -> dict[str, Any]:
    """Return a step's promise as JSON-able values."""
    return {"step": step, **asdict(promise)}


def from_plain(stored: Mapping[str, Any]) -> tuple[str, Promise]:
    """Return the step and the promise that `plain` wrote, also after a JSON round trip."""
    tuples = {name: tuple(stored[name]) for name in ("operators", "except_operators")}
    fields = {**stored, **tuples}
    return fields.pop("step"), Promise(**fields)


def check(layers: Sequence[Layer], promised: Sequence[tuple[str, Promise]]) -> KeptPromises:
    """Check the layers of a file against promises, each with the name of its step.

    Returns notes on promises that apply to no layer of the file, and a note and the flag
    `wide_weights` for weights that are wider than a step names but within its limit. Raises
    RecipeError for a broken promise: the step, the promise, the layers that break it, their values.
    """
    kept = KeptPromises()
    for step, promise in promised:
        selected = [layer for layer in layers if _applies(layer, promise)]
        if not selected:
            if promise.measure not in _WIDTHS:
                kept.notes.append(
                    f"{step} promised {_promised(promise)}: it applies to no layer of the file"
                )
        elif promise.measure in _OVER_ALL:
            note = _check_all(step, promise, selected)
            if note:
                kept.notes.append(note)
                kept.flags[:] = [widths.FLAG]
        else:
            _check_each(step, promise, selected)
    return kept


def _check_all(step: str, promise: Promise, selected: Sequence[Layer]) -> str | None:
    """Check a measure over all layers; return a note on weights that are wider than promised."""
    found = _value_over_all(selected, promise.measure)
    figure, wide = _figure(promise.measure, found), _wide(selected, promise.measure)
    if not _is_kept(promise, found, 0.0):
        raise RecipeError(
            f"{step} promised {_promised(promise)}; the file has {figure}"
            + (f"; wider: {wide}; {_way_out(step, promise, found)}" if wide else "")
        )
    return f"{step}: {figure} {_UNITS[promise.measure]}; wider: {wide}" if wide else None


def _wide(selected: Sequence[Layer], measure: str) -> str:
    """List the layers that are wider than the measure's width, the largest first."""
    bits = _WIDTHS.get(measure)
    if bits is None:
        return ""
    wide = sorted((item for item in selected if item.bits > bits), key=lambda item: -item.elements)
    named = [
        f"{_short(item.name)} ({item.operator}, {item.elements:,} weights, {item.dtype})"
        for item in wide[:_NAMED]
    ]
    more = f" and {len(wide) - _NAMED} more" if len(wide) > _NAMED else ""
    return ", ".join(named) + more


def _way_out(step: str, promise: Promise, found: float) -> str:
    """Return how to accept the file; a limit is rounded down so that the file keeps it."""
    name, known = _RELAXED_BY[promise.measure], catalog.known_steps().get(step)
    way = "use another recipe or replace these layers"
    if known is None or name not in {item.name for item in known.parameters}:
        return way
    return f"{way}; {step}({name}={math.floor(found * 100) / 100:g}) accepts the file"


def _check_each(step: str, promise: Promise, selected: Sequence[Layer]) -> None:
    broken: list[tuple[float, Layer]] = []
    for layer in selected:
        found = _value(layer, promise.measure)
        if found is None:
            raise RecipeError(
                f"{step} promised {_promised(promise)}; that cannot be read from "
                f"{_short(layer.name)}, which is stored as sparse or as {layer.dtype}"
            )
        slack = 1 / layer.elements if promise.measure == "sparsity" else 0.0
        if not _is_kept(promise, found, slack):
            broken.append((found, layer))
    if not broken:
        return
    under = promise.at_least is not None
    found, worst = (min if under else max)(broken, key=lambda item: item[0])
    more = (
        f" ({len(broken) - 1} more of {len(selected)} layers break it)" if len(broken) > 1 else ""
    )
    raise RecipeError(
        f"{step} promised {_promised(promise)}; {_short(worst.name)} ({worst.operator}, "
        f"{worst.elements:,} weights) has {_figure(promise.measure, found)}{more}"
    )


def _applies(layer: Layer, promise: Promise) -> bool:
    return (
        layer.elements >= promise.min_elements
        and layer.operator not in promise.except_operators
        and not (promise.measure in _WIDTHS and layer.zeros == layer.elements)
        and (not promise.operators or layer.operator in promise.operators)
        and re.search(promise.names, layer.name) is not None
    )


def _value(layer: Layer, measure: str) -> float | None:
    values: dict[str, float | None] = {
        "sparsity": layer.sparsity,
        "unique_values": layer.unique,
        "unique_per_channel": layer.unique_per_channel,
        "nonzeros_per_4": layer.nonzeros_per_4,
    }
    return values[measure]


def _value_over_all(layers: Sequence[Layer], measure: str) -> float:
    if measure in _WIDTHS:
        return structure.share_within(layers, _WIDTHS[measure])
    return float(sum(layer.elements for layer in layers))


def _is_kept(promise: Promise, found: float, slack: float) -> bool:
    above = promise.at_least is None or found >= promise.at_least - slack
    return above and (promise.at_most is None or found <= promise.at_most + slack)


def _promised(promise: Promise) -> str:
    bounds = (("at least", promise.at_least), ("at most", promise.at_most))
    limits = " and ".join(
        f"{kind} {_figure(promise.measure, bound)}" for kind, bound in bounds if bound is not None
    )
    return f"{limits} {_UNITS[promise.measure]}"


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}..."


def _figure(measure: str, value: float) -> str:
    return f"{value * 100:.4g} %" if measure in _SHARES else f"{value:,.0f}"
