"""What is known of a recipe, and which constraints that breaks, by how much."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.columns import BYTES_PER_KB
from harness.config.searches import DEVICE, HOST, direction
from harness.types import Search, Variant

Values = Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A constraint: of which column, in which unit, in which direction."""

    column: str
    most: bool
    """Whether the limit is the most that is allowed; else the least."""
    factor: float = 1.0
    """Of the column's unit in the constraint's."""


RULES: Mapping[str, Rule] = {
    "max_accuracy_drop": Rule(column="accuracy_drop", most=True),
    "min_accuracy": Rule(column="accuracy", most=False),
    "max_size_kb": Rule(column="size_bytes", most=True, factor=BYTES_PER_KB),
    "max_size_zstd_kb": Rule(column="size_zstd_bytes", most=True, factor=BYTES_PER_KB),
    "max_latency_ms": Rule(column="latency_p50_ms", most=True),
    "max_peak_rss_mb": Rule(column="peak_rss_mb", most=True),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Miss:
    """A constraint that does not hold."""

    constraint: str
    value: float
    """In the constraint's unit."""
    limit: float

    @property
    def share(self) -> float:
        """How far it is off, as a share of the limit; of a limit of 0, how far in its unit."""
        off = abs(self.value - self.limit)
        return off / self.limit if self.limit else off

    def text(self) -> str:
        """Say it in words."""
        share = f" ({self.share:.1%})" if self.limit else ""
        off = abs(self.value - self.limit)
        return f"{self.constraint} = {self.limit:g}: it is {self.value:.6g}, {off:.6g}{share} off"


def of_variant(variant: Variant) -> dict[str, float]:
    """Return what the host knows of a built file; what it does not know is not there."""
    known: dict[str, float | None] = {column: getattr(variant, column) for column in HOST}
    known["accuracy_drop"] = variant.accuracy_drop
    return {column: value for column, value in known.items() if value is not None}


def of_row(row: Mapping[str, object]) -> dict[str, float]:
    """Return what a device's row says of its own columns."""
    found = {column: row.get(column) for column in DEVICE}
    return {column: value for column, value in found.items() if isinstance(value, (int, float))}


def asked(search: Search) -> list[str]:
    """Return every column that an objective or a constraint is about, each once."""
    constrained = [RULES[name].column for name in search.constraints.given()]
    return list(dict.fromkeys([*search.objectives, *constrained]))


def of_device(search: Search) -> set[str]:
    """Return the wanted columns for which the device must be asked."""
    return set(asked(search)) & set(DEVICE)


def of_host(search: Search) -> set[str]:
    """Return the wanted columns that the host knows."""
    return set(asked(search)) - set(DEVICE)


def misses(search: Search, values: Values) -> tuple[Miss, ...]:
    """Return the constraints that these values break; one whose column is not there is not asked."""
    found = []
    for name, limit in search.constraints.given().items():
        rule = RULES[name]
        if rule.column not in values:
            continue
        value = values[rule.column] / rule.factor
        if (value > limit) if rule.most else (value < limit):
            found.append(Miss(constraint=name, value=value, limit=limit))
    return tuple(found)


def directions(search: Search) -> list[str]:
    """Return what is better of each objective, in their order."""
    return [direction(name, search.accuracy_better) for name in search.objectives]


def dominates(search: Search, one: Values, other: Values) -> bool:
    """Say whether one is as good as the other in every objective and better in at least one."""
    signs = [1.0 if direction == "minimize" else -1.0 for direction in directions(search)]
    pairs = [
        (sign * one[name], sign * other[name])
        for sign, name in zip(signs, search.objectives, strict=True)
    ]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
