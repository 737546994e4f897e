"""The numbers a plan may give: what must be at least or at most what."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.errors import ConfigError
from harness.types import Dose

_INFINITE = float("inf")

# Key path to the least and the largest value, both allowed; a whole array is checked one by one.
_LIMITS: dict[str, tuple[float, float]] = {
    "run.threads": (1, 1024),
    "run.seed": (0, 2**32 - 1),
    "run.patience_seconds": (0, 86_400),
    "dose.launches": (1, _INFINITE),
    "dose.min_inferences": (1, _INFINITE),
    "dose.min_seconds": (0, _INFINITE),
    "dose.max_seconds": (0.001, _INFINITE),
    "dose.warmup_seconds": (0, _INFINITE),
    "dose.warmup_min_inferences": (0, _INFINITE),
    "dose.warmup_max_inferences": (1, _INFINITE),
    "dose.warmup_max_seconds": (0.001, _INFINITE),
    "dose.memory_launches": (0, _INFINITE),
    "dose.period_ms": (0.001, _INFINITE),
    "dose.sustained_minutes": (0.01, 1440),
    "accept.max_accuracy_drop": (0, 1),
    "accept.min_agreement": (0, 1),
    "accept.min_delegated": (0, 1),
    "gate.margin": (0, 1),
    "gate.min_effect": (0, 1),
    "gate.max_pairs": (2, _INFINITE),
    "gate.budget_seconds": (1, _INFINITE),
}

# Pairs of which the first must not be larger than the second.
_ORDERED = (
    ("dose.min_seconds", "dose.max_seconds"),
    ("dose.warmup_min_inferences", "dose.warmup_max_inferences"),
    ("dose.warmup_seconds", "dose.warmup_max_seconds"),
)


def check(tables: Mapping[str, Any], name: str) -> None:
    """Refuse a number outside its limits; raises ConfigError with `name` and the key path."""
    for key, (low, high) in _LIMITS.items():
        value = _value(tables, key)
        for number in value if isinstance(value, (tuple, list)) else (value,):
            # Not-a-number is outside of every limit, and infinity of those that have no end.
            if number is not None and not (low <= number <= high and number < _INFINITE):
                end = "" if high == _INFINITE else f" and at most {high}"
                raise ConfigError(f"{name}: {key}: must be at least {low}{end}, not {number}")
    if not tables["run"]["threads"]:
        raise ConfigError(f"{name}: run.threads: at least one number is needed")
    for small, large in _ORDERED:
        if _value(tables, small) > _value(tables, large):
            raise ConfigError(
                f"{name}: {small} ({_value(tables, small)}) must not be larger than "
                f"{large} ({_value(tables, large)})"
            )
    _scenario(tables["dose"], name)


def _scenario(dose: Mapping[str, Any], name: str) -> None:
    """Refuse what belongs to another scenario: a key without effect would be ignored in silence."""
    scenario, period_ms = dose["scenario"], dose["period_ms"]
    if scenario == "stream" and period_ms is None:
        raise ConfigError(
            f"{name}: dose.period_ms: a stream needs its frame period, such as period_ms = 33.3"
        )
    if scenario != "stream" and period_ms is not None:
        raise ConfigError(
            f'{name}: dose.period_ms: only scenario = "stream" has one, this is "{scenario}"; '
            "leave one of the two out"
        )
    if period_ms is not None and period_ms > dose["max_seconds"] * 1e3:
        raise ConfigError(
            f"{name}: dose.period_ms ({period_ms}) must not be longer than dose.max_seconds "
            f"({dose['max_seconds']}): no second frame would be measured"
        )
    if scenario != "sustained" and dose["sustained_minutes"] != Dose().sustained_minutes:
        raise ConfigError(
            f'{name}: dose.sustained_minutes: only scenario = "sustained" has them, this is '
            f'"{scenario}"; leave one of the two out'
        )


def _value(tables: Mapping[str, Any], key: str) -> Any:  # noqa: ANN401 - any TOML number
    table, _, field = key.partition(".")
    return tables[table][field]
