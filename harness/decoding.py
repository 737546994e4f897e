"""Convert JSON types to dataclasses without importing pydantic, if the values are certainly valid.

    try:
        device = decoding.decode(Device, {"name": "pi", "profile": "raspberry_pi_5", ...})
    except decoding.Doubt:
        ...  # use pydantic, which decides and writes the error

It accepts only values that pydantic accepts unchanged, in strict and in lax mode, and the result
equals pydantic's. It raises :class:`Doubt` for everything else: a wrong type, an unknown or a
missing key, a number that is not finite, an unknown annotation. So only pydantic decides what is
invalid, and it is imported (a tenth of a second with its schemas) only if it is needed.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import math
import sys
import threading
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, TypeVar

_pausing = threading.Lock()
_pauses: list[bool] = []
"""One entry per pause in progress: whether the collector was on before the first of them."""


@contextmanager
def many_objects() -> Iterator[None]:
    """Pause the search for cycles of objects while many are made that have none.

    It would visit all of them again and again: a third of the time to read 20,000 rows.
    """
    with _pausing:
        _pauses.append(_pauses[0] if _pauses else gc.isenabled())
        gc.disable()
    try:
        yield
    finally:
        with _pausing:
            was_on = _pauses.pop()
            if was_on and not _pauses:
                gc.enable()


T = TypeVar("T")
Decoder = Callable[[Any], Any]


class Doubt(Exception):
    """The value may be valid or not; pydantic must decide."""


def decode(noun: type[T], plain: object) -> T:
    """Make a dataclass from a dict of JSON types; raises Doubt unless it is certainly valid."""
    kind: Any = noun  # mypy: a type[T] is not Hashable
    made: T = _decoder(kind)(plain)
    return made


@functools.cache
def _decoder(kind: Any) -> Decoder:  # noqa: ANN401 - any annotation
    if kind in _SCALARS:
        return _SCALARS[kind]
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal and all(isinstance(option, str) for option in arguments):
        return functools.partial(_literal, frozenset(arguments))
    if origin in {typing.Union, types.UnionType}:
        options = [_decoder(option) for option in arguments if option is not types.NoneType]
        some = options[0] if len(options) == 1 else functools.partial(_union, options)
        return some if len(options) == len(arguments) else functools.partial(_optional, some)
    if origin is tuple and len(arguments) == 2 and arguments[1] is Ellipsis:  # noqa: PLR2004
        return functools.partial(_tuple, _decoder(arguments[0]))
    if origin in {dict, Mapping} and arguments[0] is str:
        return functools.partial(_mapping, _decoder(arguments[1]))
    return _doubt


class _Fields(dict[str, Decoder]):
    """The decoders of a dataclass's fields; each is made at the first use of its key."""

    def __init__(self, kind: Any) -> None:  # noqa: ANN401 - any dataclass
        super().__init__()
        self._kind = kind
        self._annotations = {item.name: item.type for item in dataclasses.fields(kind)}

    def __missing__(self, name: str) -> Decoder:
        annotation: Any = self._annotations[name]
        if isinstance(annotation, str):
            # Like typing.get_type_hints, which cannot evaluate single fields.
            annotation = eval(annotation, vars(sys.modules[self._kind.__module__]))  # noqa: S307
        made = self[name] = _decoder(annotation)
        return made


def _dataclass(kind: Any) -> Decoder:  # noqa: ANN401 - any dataclass
    decoders = _Fields(kind)

    def make(value: Any) -> Any:  # noqa: ANN401
        if type(value) is not dict:
            raise Doubt
        try:
            return kind(**{name: decoders[name](item) for name, item in value.items()})
        except (KeyError, NameError, TypeError, ValueError) as error:
            raise Doubt from error

    return make


def _same(value: Any) -> Any:  # noqa: ANN401
    return value


def _doubt(_: object) -> NoReturn:
    raise Doubt


def _text(value: Any) -> str:  # noqa: ANN401
    if type(value) is not str:
        raise Doubt
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:  # a lone surrogate
            raise Doubt from error
    return value


def _path(value: object) -> Path:
    return Path(_text(value))


def _whole(value: Any) -> int:  # noqa: ANN401
    if type(value) is not int:
        raise Doubt
    return value


def _number(value: Any) -> float:  # noqa: ANN401
    if type(value) is int:
        try:
            return float(value)
        except OverflowError as error:
            raise Doubt from error
    if type(value) is not float or not math.isfinite(value):
        raise Doubt
    return value


def _boolean(value: Any) -> bool:  # noqa: ANN401
    if type(value) is not bool:
        raise Doubt
    return value


def _literal(options: frozenset[str], value: Any) -> str:  # noqa: ANN401
    if type(value) is not str or value not in options:
        raise Doubt
    return value


def _tuple(inner: Decoder, value: Any) -> tuple[Any, ...]:  # noqa: ANN401
    if type(value) is not list:
        raise Doubt
    return tuple([inner(item) for item in value])


def _mapping(inner: Decoder, value: Any) -> dict[str, Any]:  # noqa: ANN401
    if type(value) is not dict:
        raise Doubt
    return {_text(key): inner(item) for key, item in value.items()}


def _optional(inner: Decoder, value: Any) -> Any:  # noqa: ANN401
    return None if value is None else inner(value)


def _union(options: Sequence[Decoder], value: Any) -> Any:  # noqa: ANN401
    """Return the value if exactly one of the options accepts it."""
    found = []
    for option in options:
        try:
            found.append(option(value))
        except Doubt:
            continue
    if len(found) != 1:
        raise Doubt
    return found[0]


_SCALARS: dict[Any, Decoder] = {
    Any: _same,
    str: _text,
    int: _whole,
    float: _number,
    bool: _boolean,
    Path: _path,
}
