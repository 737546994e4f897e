"""Read a device's table of options into the dataclass of its transport or dialect."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from harness import plugins
from harness.errors import ConfigError
from harness.printable import clipped, file_name

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")
_EXPECTED = {
    "path_type": "a path",
    "string_type": "text",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def read(kind: type[T], table: Mapping[str, Any], where: str) -> T:
    """Make an instance of the dataclass `kind` from a table.

    Raises ConfigError with `where` and the key. Loading a farm.toml checks its tables; this also
    checks the tables of a device that was made in Python.
    """
    from pydantic import ValidationError

    known = [one.name for one in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in table:
        if key not in known:
            raise ConfigError(f"{where}: {plugins.unknown('key', key, known)}")
    hashable: Any = kind  # mypy: a type[T] is not Hashable
    try:
        made: T = _adapter(hashable).validate_python(dict(table))
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in fault["loc"])
        cause = fault.get("ctx", {}).get("error")
        expected = _EXPECTED.get(fault["type"], "a valid value")
        shown = clipped(file_name(fault["input"]))
        must = f"{key}: must be {expected}, not {shown}"
        reason = str(cause) if isinstance(cause, ValueError) else must
        raise ConfigError(f"{where}: {reason}") from error
    return made


@functools.cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
