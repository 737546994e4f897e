"""Read TOML into a dataclass; an error is one line with the place and the fault.

    plan.toml: run.recipes[2]: must be text in quotes, not 3
    farm.toml: device.bench-pi: unknown key "adress"; did you mean "address"? (known: ...)

pydantic checks the plain dataclasses strictly (no "1" for 1). Only the first fault is reported, and
unknown keys before all others, because a misspelt key is often also a missing one.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import tomllib
import types
import typing
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

from annotated_types import Ge, Le

from harness import decoding, text_files
from harness.config import bounds
from harness.config.bounds import path_text
from harness.errors import ConfigError
from harness.printable import clipped, file_name

if typing.TYPE_CHECKING:
    from pydantic_core import ErrorDetails

T = TypeVar("T")
Location = tuple[int | str, ...]

_EXPECTED = {
    "bool_type": "true or false",
    "dataclass_type": "a table",
    "dataclass_exact_type": "a table",
    "dict_type": "a table",
    "float_type": "a number",
    "int_type": "a whole number",
    "mapping_type": "a table",
    "path_type": "text in quotes",
    "string_type": "text in quotes",
    "tuple_type": "an array",
}
_UNKNOWN_KEY = "unexpected_keyword_argument"
_LIMITS = ("greater_than_equal", "less_than_equal", "finite_number")


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file; raises ConfigError if it cannot be read, is too large or is not TOML."""
    return parse(text_files.read(path, max_bytes=bounds.MAX_TOML_BYTES), file_name(path))


def parse(text: str, name: str) -> dict[str, Any]:
    """Parse TOML text; `name` is its name in errors, which have the line and the column."""
    bounds.check_text(text, name)
    try:
        found = tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, or a number that Python does not convert
        lines = text.count("\n") + 1
        reason = str(error).replace("at end of document", f"at line {lines}, the end of the file")
        raise ConfigError(f"{name}: not valid TOML: {clipped(reason, 300)}") from None
    bounds.check_values(found, name)
    return found


def check(
    mapping: Mapping[str, Any], kind: type[T], name: str, within: Location = (), single: str = ""
) -> T:
    """Make the dataclass `kind` from a table that tomllib parsed.

    Args:
        mapping: the table.
        kind: the dataclass; its fields are the known keys.
        name: the file's name in errors.
        within: the place of the table in the file, for errors.
        single: a key whose array is written as one table; errors leave its index out.

    Raises:
        ConfigError: with the file, the key path, and the known keys or allowed values.
    """
    bounds.check_values(mapping, name, within)
    with contextlib.suppress(decoding.Doubt):
        return decoding.decode(kind, mapping)
    import pydantic

    try:
        # As JSON, because strict checks of Python values require the dataclasses themselves.
        return pydantic.TypeAdapter(kind).validate_json(json.dumps(mapping), strict=True)
    except pydantic.ValidationError as error:
        faults = error.errors(include_url=False)
        fault = min(faults, key=lambda item: item["type"] != _UNKNOWN_KEY)
        location = fault["loc"]
        message = _message(fault, kind)
        if fault["type"] == "value_error":
            location, message = _own_check(fault, kind)
        if fault["type"] in {_UNKNOWN_KEY, "missing"}:
            location = location[:-1]
        if single and location[:2] == (single, 0):
            location = (single, *location[2:])
        if fault["type"] in _LIMITS and isinstance(location[-1], int):
            location = location[:-1]
        where = path_text((*within, *location))
        raise ConfigError(
            f"{name}: {where}: {message}" if where else f"{name}: {message}"
        ) from None


def _own_check(fault: ErrorDetails, kind: type) -> tuple[Location, str]:
    """Split the message of a dataclass's own check: `field: reason`, or only a reason."""
    message = str(fault["ctx"]["error"])
    key, _, reason = message.partition(": ")
    if reason and key in _keys(kind, fault["loc"]):
        return (*fault["loc"], key), reason
    return fault["loc"], message


def _message(fault: ErrorDetails, kind: type) -> str:
    """Return our message for a fault that pydantic found."""
    sort, location = fault["type"], fault["loc"]
    if sort == _UNKNOWN_KEY:
        from harness import plugins

        return plugins.unknown("key", str(location[-1]), _keys(kind, location[:-1]))
    if sort == "missing":
        return f'the key "{location[-1]}" is missing'
    if sort == "literal_error":
        return f"must be {fault['ctx']['expected']}, not {_shown(fault['input'])}"
    if sort in _EXPECTED:
        return f"must be {_EXPECTED[sort]}, not {_shown(fault['input'])}"
    if sort in _LIMITS:
        return f"must be {_limits(kind, location)}, not {_shown(fault['input'])}"
    return f"{_shown(fault['input'])} is not a valid value"


def _limits(kind: Any, location: Location) -> str:  # noqa: ANN401 - any annotation
    """Format the limits of a number from its annotations (annotated-types)."""
    found = list(_metadata(kind, location))
    low = next((limit.ge for limit in found if isinstance(limit, Ge)), None)
    high = next((limit.le for limit in found if isinstance(limit, Le)), None)
    parts = [f"at least {low}" if low is not None else "", f"at most {high}" if high else ""]
    return " and ".join(filter(None, parts)) or "a finite number"


def _metadata(kind: Any, location: Location) -> Iterable[Any]:  # noqa: ANN401 - any annotation
    """Yield the annotations on the path from `kind` to a place."""
    while True:
        kind = _without_none(kind)
        if typing.get_origin(kind) is Annotated:
            kind, *more = typing.get_args(kind)
            yield from more
        elif not location:
            return
        elif dataclasses.is_dataclass(kind):
            hints = typing.get_type_hints(kind, include_extras=True)
            kind, location = hints[str(location[0])], location[1:]
        else:
            inner = typing.get_args(kind)
            kind = inner[0] if isinstance(location[0], int) else inner[-1]
            location = location[1:]


def _shown(value: object) -> str:
    if isinstance(value, str):
        return f'"{clipped(value)}"'
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list):
        return "an array"
    return str(value)


def _keys(kind: Any, location: Location) -> list[str]:  # noqa: ANN401 - any annotation
    """List the known keys at a place: follow the annotations from `kind` to a dataclass."""
    kind = _without_none(kind)
    if not location:
        return [field.name for field in dataclasses.fields(kind)]
    if dataclasses.is_dataclass(kind):
        hints = typing.get_type_hints(kind)
        return _keys(hints[str(location[0])], location[1:])
    # A mapping's value type is its last argument, a tuple's item type the first.
    inner = typing.get_args(kind)
    return _keys(inner[0] if isinstance(location[0], int) else inner[-1], location[1:])


def _without_none(kind: Any) -> Any:  # noqa: ANN401 - any annotation
    if typing.get_origin(kind) in {typing.Union, types.UnionType}:
        return next(option for option in typing.get_args(kind) if option is not types.NoneType)
    return kind
