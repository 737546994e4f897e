"""Hold a finished file against what the steps of its recipe promised.

A training step can run to its end and lose on the way what it was for: zeros that a later
fine-tune filled, clusters that a conversion tore apart. The file is what counts.
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

_WORDS = {
    "sparsity": "zeros",
    "unique_values": "distinct values",
    "unique_per_channel": "distinct values in a channel",
    "nonzeros_per_4": "nonzeros in 4 neighbours",
    "int8_share": "of the weights in 8 bits or fewer",
    "elements": "weights",
}
_NAME_LENGTH = 80
_SHARES = ("sparsity", "int8_share")
_TOGETHER = ("int8_share", "elements")
"""Measures of all chosen layers together; the others are of each."""


def plain(step: str, promise: Promise) -> dict[str, Any]:
    """Write a step's promise for the wire."""
    return {"step": step, **asdict(promise)}


def from_plain(told: Mapping[str, Any]) -> tuple[str, Promise]:
    """Read what `plain` wrote (and JSON may have carried)."""
    fields = {**told, "operators": tuple(told["operators"])}
    return fields.pop("step"), Promise(**fields)


def check(layers: Sequence[Layer], promised: Sequence[tuple[str, Promise]]) -> list[str]:
    """Hold the layers of a file against promises, each with the name of its step.

    Returns notes on promises that no layer of the file is meant by. Raises RecipeError for a broken one:
    the step, what it promised, the layer that is furthest from it, its number.
    """
    notes = []
    for step, promise in promised:
        meant = [layer for layer in layers if _is_meant(layer, promise)]
        if not meant:
            notes.append(f"{step} promised {_promised(promise)}: no layer of the file is meant")
            continue
        if promise.measure in _TOGETHER:
            found = _of_all(meant, promise.measure)
            if not _held(promise, found, 0.0):
                raise RecipeError(
                    f"{step} promised {_promised(promise)}; the file has "
                    f"{_figure(promise.measure, found)}"
                )
            continue
        _check_each(step, promise, meant)
    return notes


def _check_each(step: str, promise: Promise, meant: Sequence[Layer]) -> None:
    broken: list[tuple[float, Layer]] = []
    for layer in meant:
        found = _of_layer(layer, promise.measure)
        if found is None:
            raise RecipeError(
                f"{step} promised {_promised(promise)}; that cannot be read off {_short(layer.name)}, "
                f"which is stored as sparse or as {layer.dtype}"
            )
        slack = 1 / layer.elements if promise.measure == "sparsity" else 0.0
        if not _held(promise, found, slack):
            broken.append((found, layer))
    if not broken:
        return
    under = promise.at_least is not None
    found, worst = (min if under else max)(broken, key=lambda item: item[0])
    more = f" ({len(broken) - 1} more of {len(meant)} layers break it)" if len(broken) > 1 else ""
    raise RecipeError(
        f"{step} promised {_promised(promise)}; {_short(worst.name)} ({worst.operator}, "
        f"{worst.elements:,} weights) has {_figure(promise.measure, found)}{more}"
    )


def _is_meant(layer: Layer, promise: Promise) -> bool:
    return (
        layer.elements >= promise.min_elements
        and (not promise.operators or layer.operator in promise.operators)
        and re.search(promise.names, layer.name) is not None
    )


def _of_layer(layer: Layer, measure: str) -> float | None:
    values: dict[str, float | None] = {
        "sparsity": layer.sparsity,
        "unique_values": layer.unique,
        "unique_per_channel": layer.unique_per_channel,
        "nonzeros_per_4": layer.nonzeros_per_4,
    }
    return values[measure]


def _of_all(layers: Sequence[Layer], measure: str) -> float:
    if measure == "int8_share":
        return structure.int8_share(layers)
    return float(sum(layer.elements for layer in layers))


def _held(promise: Promise, found: float, slack: float) -> bool:
    above = promise.at_least is None or found >= promise.at_least - slack
    return above and (promise.at_most is None or found <= promise.at_most + slack)


def _promised(promise: Promise) -> str:
    bounds = (("at least", promise.at_least), ("at most", promise.at_most))
    told = " and ".join(
        f"{word} {_figure(promise.measure, bound)}" for word, bound in bounds if bound is not None
    )
    return f"{told} {_WORDS[promise.measure]}"


def _short(name: str) -> str:
    return name if len(name) <= _NAME_LENGTH else f"{name[:_NAME_LENGTH]}..."


def _figure(measure: str, value: float) -> str:
    return f"{value * 100:.4g} %" if measure in _SHARES else f"{value:,.0f}"
