"""Limits of a plan's numbers that are not annotated at a field.

These are the limits of dataclasses that are stored with a run (Dose, Accept), so that a changed
limit makes no old run unreadable, and the limits between two keys.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness import columns, metrics, plugins
from harness.config import bounds
from harness.errors import ConfigError
from harness.protocols import JudgesSamples
from harness.types import Dose, GateRules, PlannedModel

_INFINITE = float("inf")
_DAY = 86_400

# Key path to the smallest and the largest allowed value.
_LIMITS: dict[str, tuple[float, float]] = {
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
    "accept.max_accuracy_drop": (0, _INFINITE),
    "accept.min_agreement": (0, 1),
    "accept.min_delegated": (0, 1),
}

# Bounds that no measurement needs to exceed; docs/plans.md#text-and-limits.
_BOUNDS: dict[str, float] = {
    "dose.launches": 10_000,
    "dose.min_inferences": 10_000_000,
    "dose.min_seconds": _DAY,
    "dose.max_seconds": _DAY,
    "dose.warmup_seconds": _DAY,
    "dose.warmup_min_inferences": 10_000_000,
    "dose.warmup_max_inferences": 10_000_000,
    "dose.warmup_max_seconds": _DAY,
    "dose.memory_launches": 1_000,
    "dose.period_ms": _DAY * 1e3,
}

# Pairs of keys; the first value must not be larger than the second.
_ORDERED = (
    ("dose.min_seconds", "dose.max_seconds"),
    ("dose.warmup_min_inferences", "dose.warmup_max_inferences"),
    ("dose.warmup_seconds", "dose.warmup_max_seconds"),
)


def check(tables: Mapping[str, Any], name: str) -> None:
    """Refuse a number outside its limits; raises ConfigError with `name` and the key path."""
    for key, (low, high) in _LIMITS.items():
        number = _value(tables, key)
        # NaN is outside of every limit, and infinity is refused if there is no upper limit.
        if number is not None and not (low <= number <= high and number < _INFINITE):
            end = "" if high == _INFINITE else f" and at most {high}"
            raise ConfigError(f"{name}: {key}: must be at least {low}{end}, not {number}")
    for key, most in _BOUNDS.items():
        bounds.check_number(f"{name}: {key}", _value(tables, key), most)
    if not tables["run"]["threads"]:
        raise ConfigError(f"{name}: run.threads: at least one number is needed")
    for small, large in _ORDERED:
        if _value(tables, small) > _value(tables, large):
            raise ConfigError(
                f"{name}: {small} ({_value(tables, small)}) must not be larger than "
                f"{large} ({_value(tables, large)})"
            )
    _scenario(tables["dose"], name)


def gate(rules: GateRules, where: str) -> GateRules:
    """Return the rules; raises ConfigError for an unknown metric or contradicting limits.

    `where` is the table's name in errors: `plan.toml: gate`.
    """
    known = columns.gate_metrics()
    for metric in rules.metrics:
        if metric not in known:
            raise ConfigError(f"{where}.metrics: {plugins.unknown('metric', metric, known)}")
    if not rules.metrics:
        raise ConfigError(f"{where}.metrics: at least one of {', '.join(known)}")
    if not rules.min_effect < rules.margin:
        raise ConfigError(
            f"{where}: min_effect ({rules.min_effect}) must be under margin ({rules.margin})"
        )
    return rules


def accuracy_drops(
    limits: Mapping[str, float | None], planned: Iterable[PlannedModel], name: str
) -> None:
    """Refuse a limit over 1 for a metric that is a share; an error may increase by any amount.

    `limits` are by key path. Raises ConfigError.
    """
    over = {key: limit for key, limit in limits.items() if limit is not None and limit > 1}
    if not over:
        return
    for metric in {model.source.data.metric for model in planned}:
        if isinstance(metrics.load(metric)(), JudgesSamples):
            key, limit = next(iter(over.items()))
            raise ConfigError(f"{name}: {key}: must be at least 0 and at most 1, not {limit}")


def _scenario(dose: Mapping[str, Any], name: str) -> None:
    """Refuse a key of another scenario, which would have no effect."""
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
