"""Write and read JSON without NaN and infinities.

JSON has none, and they must never be read as a measurement.
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
    """Read JSON; raises ValueError if it is not JSON or nested too deeply."""
    try:
        return json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not a number that can be stored")
