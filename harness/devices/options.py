"""Read a device's table of options into the dataclass of its transport or dialect."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from harness import plugins
from harness.errors import ConfigError

if TYPE_CHECKING:
    from pydantic import TypeAdapter

T = TypeVar("T")


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
        reason = str(cause) if isinstance(cause, ValueError) else f"{key}: {fault['msg']}"
        raise ConfigError(f"{where}: {reason}") from error
    return made


@functools.cache
def _adapter(kind: type) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)
