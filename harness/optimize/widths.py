"""The width that a step promises for the weights of its file, and the parameter that relaxes it.

A recipe named int8 whose file stores most of its weights in float is not what its name says: it is
refused. The module is apart from the quantiser, so that listing the steps imports nothing heavy.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.protocols import Parameter, Promise

FLAG = "wide_weights"
"""The flag of a file with weights that are wider than its recipe names."""
ELEMENTWISE = (
    *("ADD", "SUB", "MUL", "DIV", "POW", "PRELU", "MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE"),
    *("SELECT", "SELECT_V2", "EQUAL", "NOT_EQUAL"),
)
"""Operators whose constants are used once per output; their width is not what a step is named for."""


def int8(default: float = 0.9) -> Parameter:
    """Return the parameter for the smallest share of weights in 8 bits."""
    return Parameter(
        name="min_int8",
        type="number 0..1",
        default=default,
        help="minimum share of weights in 8 bits or fewer; a file with less is an error",
    )


FLOAT16 = Parameter(
    name="min_float16",
    type="number 0..1",
    default=0.9,
    help="minimum share of weights in 16 bits or fewer; a file with less is an error",
)


def promises(parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
    """Promise the share of weights that the step's parameters set."""
    measures: tuple[tuple[str, Any], ...] = (
        ("min_int8", "int8_share"),
        ("min_float16", "float16_share"),
    )
    return tuple(
        Promise(measure=measure, at_least=parameters[name], except_operators=ELEMENTWISE)
        for name, measure in measures
        if name in parameters
    )
