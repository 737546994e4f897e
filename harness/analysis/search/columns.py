"""The columns of a trial: its values on the host and the device, and the constraints they break."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.columns import BYTES_PER_KB
from harness.config.searches import DEVICE, HOST, direction
from harness.types import Search, Variant

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """How a constraint limits a column."""

    column: str
    is_maximum: bool
    """True for an upper limit, false for a lower one."""
    factor: float = 1.0
    """The constraint's unit in units of the column: 1000 for KB and bytes."""


RULES: Mapping[str, Rule] = {
    "max_accuracy_drop": Rule(column="accuracy_drop", is_maximum=True),
    "min_accuracy": Rule(column="accuracy", is_maximum=False),
    "max_size_kb": Rule(column="size_bytes", is_maximum=True, factor=BYTES_PER_KB),
    "max_size_zstd_kb": Rule(column="size_zstd_bytes", is_maximum=True, factor=BYTES_PER_KB),
    "max_latency_ms": Rule(column="latency_p50_ms", is_maximum=True),
    "max_peak_rss_mb": Rule(column="peak_rss_mb", is_maximum=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A constraint that a trial breaks."""

    constraint: str
    value: float
    """The trial's value in the constraint's unit."""
    limit: float

    @property
    def share(self) -> float:
        """Distance from the limit, relative to the limit; if the limit is 0, in its unit."""
        off = abs(self.value - self.limit)
        return off / self.limit if self.limit else off

    def text(self) -> str:
        """Write the limit, the value and the distance in one line."""
        share = f" ({self.share:.1%})" if self.limit else ""
        off = abs(self.value - self.limit)
        return f"{self.constraint} = {self.limit:g}: it is {self.value:.6g}, {off:.6g}{share} off"


def host_values(variant: Variant) -> dict[str, float]:
    """Return the host's columns of a built file, by name; unknown ones are left out."""
    known: dict[str, float | None] = {column: getattr(variant, column) for column in HOST}
    known["accuracy_drop"] = variant.accuracy_drop
    return {column: value for column, value in known.items() if value is not None}


def device_values(row: Mapping[str, object]) -> dict[str, float]:
    """Return the device's columns of a row, by name; unknown ones are left out."""
    found = {column: row.get(column) for column in DEVICE}
    return {column: value for column, value in found.items() if isinstance(value, (int, float))}


def wanted_columns(search: Search) -> list[str]:
    """Return the columns of all objectives and constraints, each once."""
    constrained = [RULES[name].column for name in search.constraints.given()]
    return list(dict.fromkeys([*search.objectives, *constrained]))


def device_columns(search: Search) -> set[str]:
    """Return the wanted columns that only a measurement on the device gives."""
    return set(wanted_columns(search)) & set(DEVICE)


def host_columns(search: Search) -> set[str]:
    """Return the wanted columns that the host knows after a build."""
    return set(wanted_columns(search)) - set(DEVICE)


def misses(search: Search, values: Values) -> tuple[Miss, ...]:
    """Return the constraints that these values break; a constraint without a value is skipped."""
    found = []
    for name, limit in search.constraints.given().items():
        rule = RULES[name]
        if rule.column not in values:
            continue
        value = values[rule.column] / rule.factor
        if (value > limit) if rule.is_maximum else (value < limit):
            found.append(Miss(constraint=name, value=value, limit=limit))
    return tuple(found)


def directions(search: Search) -> list[str]:
    """Return `minimize` or `maximize` per objective, in their order."""
    return [direction(name, search.accuracy_better) for name in search.objectives]


def dominates(search: Search, one: Values, other: Values) -> bool:
    """Return whether one is at least as good in every objective and better in at least one."""
    signs = [1.0 if direction == "minimize" else -1.0 for direction in directions(search)]
    pairs = [
        (sign * one[name], sign * other[name])
        for sign, name in zip(signs, search.objectives, strict=True)
    ]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
