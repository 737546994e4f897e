"""Say in our words why a value of an option or an argument is invalid.

typer checks values with pydantic, whose texts ("Input should be a valid integer, unable to parse string
as an integer") do not name the value.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.printable import clipped, file_name

_EXPECTED = {
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": "a whole number",
    "int_type": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}
_LIMITS = {
    "greater_than_equal": ("at least", "ge"),
    "greater_than": ("more than", "gt"),
    "less_than_equal": ("at most", "le"),
    "less_than": ("less than", "lt"),
}


def reword(error: Any) -> None:  # noqa: ANN401 - click's UsageError, which typer may bundle
    """Replace the message of a usage error that pydantic caused; other errors stay as they are."""
    read = getattr(error.__cause__, "errors", None)
    if read is not None:
        error.message = _message(read(include_url=False)[0])


def _message(fault: Mapping[str, Any]) -> str:
    kind, given = fault["type"], clipped(file_name(fault["input"]))
    if kind == "value_error":
        return str(fault["ctx"]["error"])
    if kind in _LIMITS:
        words, key = _LIMITS[kind]
        return f"must be {words} {fault['ctx'][key]}, not {given}"
    if kind in _EXPECTED:
        return f'must be {_EXPECTED[kind]}, not "{given}"'
    return f'"{given}" is not a valid value'
