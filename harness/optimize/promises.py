"""Check a finished file against the promises of its recipe's steps.

A training step can succeed and its effect still be lost later: a fine-tune may fill the zeros, a
conversion may split the clusters. So the check reads the finished file.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from harness.errors import RecipeError
from harness.protocols import Promise
from harness.tflite import structure
from harness.tflite.structure import Layer

_UNITS = {
    "sparsity": "zeros",
    "unique_values": "distinct values",
    "unique_per_channel": "distinct values in a channel",
    "nonzeros_per_4": "nonzeros in 4 neighbours",
    "int8_share": "of the weights in 8 bits or fewer",
    "elements": "weights",
}
_NAME_LENGTH = 80
_SHARES = ("sparsity", "int8_share")
_OVER_ALL = ("int8_share", "elements")
"""Measures over all selected layers together; the others apply to each layer."""


def plain(step: str, promise: Promise) -> dict[str, Any]:
    """Return a step's promise as JSON-able values."""
    return {"step": step, **asdict(promise)}


def from_plain(stored: Mapping[str, Any]) -> tuple[str, Promise]:
    """Return the step and the promise that `plain` wrote, also after a JSON round trip."""
    fields = {**stored, "operators": tuple(stored["operators"])}
    return fields.pop("step"), Promise(**fields)


def check(layers: Sequence[Layer], promised: Sequence[tuple[str, Promise]]) -> list[str]:
    """Check the layers of a file against promises, each with the name of its step.

    Returns notes on promises that apply to no layer of the file. Raises RecipeError for a broken
    promise: the step, the promise, the layer furthest from it, its value.
    """
    notes = []
    for step, promise in promised:
        selected = [layer for layer in layers if _applies(layer, promise)]
        if not selected:
            notes.append(
                f"{step} promised {_promised(promise)}: it applies to no layer of the file"
            )
            continue
        if promise.measure in _OVER_ALL:
            found = _value_over_all(selected, promise.measure)
            if not _is_kept(promise, found, 0.0):
                raise RecipeError(
                    f"{step} promised {_promised(promise)}; the file has "
                    f"{_figure(promise.measure, found)}"
                )
            continue
        _check_each(step, promise, selected)
    return notes


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
    if measure == "int8_share":
        return structure.int8_share(layers)
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
