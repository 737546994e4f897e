"""Constraints in text form: `accuracy>=0.85`."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness import columns
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
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(
            f"--where {text!r}: {value!r} is not a number; units are in the column's name, "
            f"so write {column}{sign}1.5"
        )
    return Constraint(column=column, sign=sign, value=number)


def check_column(column: str, option: str) -> None:
    """Raise ConfigError, with the nearest name, for a column that rows do not have."""
    names = columns.names()
    if column in names:
        return
    starts = [known for known in names if column and known.startswith(column)]
    near = starts or difflib.get_close_matches(column, names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"columns are: {', '.join(names)}"
    raise ConfigError(f"{option}: unknown column {column!r}; {hint}")
