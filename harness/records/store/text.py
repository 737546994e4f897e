"""JSON as the store writes and reads it: without NaN and infinities, in both directions.

JSON has none, and a number that is not one must never come back as a measurement.
"""

from __future__ import annotations

import json
from typing import Any, NoReturn

from harness.errors import StoreError


def encode(plain: object) -> str:
    """Write one line of JSON; raises StoreError for NaN and infinities."""
    try:
        return json.dumps(plain, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    except (TypeError, ValueError) as error:
        raise StoreError(f"a record cannot be stored as JSON: {error}") from error


def decode(text: str | bytes) -> Any:  # noqa: ANN401 - JSON
    """Read JSON; raises ValueError where it is not (RecursionError is one of its ways)."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number that can be stored")
