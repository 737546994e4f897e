"""Constraints in text form: `accuracy>=0.85`."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness import columns
from harness.columns import Column
from harness.errors import ConfigError

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_CONSTRAINT = re.compile(r"\s*(?P<column>\w+)\s*(?P<sign><=|>=|==|!=|<|>)\s*(?P<value>.*?)\s*")
_WITH_UNIT = re.compile(r"(?P<number>[+-]?\d+(?:[.,]\d+)?(?:[eE][+-]?\d+)?)\s*(?P<unit>\S*)")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_BYTES = {
    "bytes": 1.0,
    "B": 1.0,
    "kB": 1e3,
    "KB": 1e3,
    "MB": 1e6,
    "GB": 1e9,
    "KiB": 2.0**10,
    "MiB": 2.0**20,
    "GiB": 2.0**30,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A condition that a row must meet: `accuracy>=0.85`. A null never meets it."""

    column: str
    sign: str
    value: float | str

    def __str__(self) -> str:
        """Write it as text."""
        value = self.value if isinstance(self.value, str) else f"{self.value:.15g}"
        return f"{self.column}{self.sign}{value}"

    def holds(self, found: float | str | None) -> bool:
        """Return whether a row's value meets it."""
        return found is not None and _OPERATORS[self.sign](found, self.value)

    def shortfall(self, found: float | str | None) -> float:
        """Return the distance of a value from the limit, relative to it; inf if not a number."""
        if self.holds(found):
            return 0.0
        if isinstance(self.value, str) or found is None or isinstance(found, str):
            return math.inf
        return abs(found - self.value) / (abs(self.value) or 1.0)


def parse_constraint(text: str) -> Constraint:
    """Read `COLUMN<=VALUE`, with one of <=, >=, <, >, ==, !=.

    The unit is in the column's name, so a value is a bare number; text columns take == and !=.
    Raises ConfigError with the allowed form.
    """
    found = _CONSTRAINT.fullmatch(text)
    if found is None or not found["value"] or found["value"][0] in "<>=!":
        raise ConfigError(
            f"--where {text!r} is not a constraint: write COLUMN<=VALUE, with one of "
            f"{', '.join(_OPERATORS)}"
        )
    column, sign, value = found["column"], found["sign"], found["value"]
    check_column(column, f"--where {text!r}")
    kind = columns.get(column).kind
    if kind == "list":
        raise ConfigError(f"--where {text!r}: {column} is a list and cannot be compared")
    if kind == "text":
        if sign not in {"==", "!="}:
            raise ConfigError(f"--where {text!r}: {column} is text, compared with == or != only")
        return Constraint(column=column, sign=sign, value=value.strip("\"'"))
    number = _float(value)
    if not math.isfinite(number):
        meant = _without_unit(value, columns.get(column))
        written = "" if meant is None else f", so write {column}{sign}{meant:.15g}"
        raise ConfigError(
            f"--where {text!r}: {value!r} is not a number; units are in the column's name{written}"
        )
    return Constraint(column=column, sign=sign, value=number)


def check_column(column: str, option: str) -> None:
    """Raise ConfigError, with the nearest name, for a column that rows do not have."""
    if column in columns.names():
        return
    near = columns.nearest(column)
    hint = f"did you mean {near!r}?" if near else f"columns are: {', '.join(columns.names())}"
    raise ConfigError(f"{option}: unknown column {column!r}; {hint}")


def _float(text: str) -> float:
    """Return a number; NaN for other text."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _without_unit(text: str, column: Column) -> float | None:
    """Return the number that a value with a unit means in the column's own unit; None if unclear."""
    found = _WITH_UNIT.fullmatch(text)
    if found is None:
        return None
    number, unit = _float(found["number"].replace(",", ".")), found["unit"]
    if not unit:
        return number
    if unit == "%":
        return number / 100 if column.unit == "" else None
    for scales in (_SECONDS, _BYTES):
        if unit in scales and column.unit in scales:
            return number * scales[unit] / scales[column.unit]
    return number if unit == column.unit else None
