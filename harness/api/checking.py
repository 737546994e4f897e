"""Refuse an argument of the wrong type in one line, before a call goes deep into the library.

It checks what an annotation says plainly: text, numbers, truth values, paths, several of these,
mappings, functions and classes of ours. What it does not know it accepts.
"""

from __future__ import annotations

import functools
import inspect
import os
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, TypeVar

from harness.errors import ConfigError
from harness.printable import clipped

_NAMES: Mapping[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    os.PathLike: "a path",
    types.NoneType: "None",
}
F = TypeVar("F", bound=Callable[..., Any])


def checked(function: F) -> F:
    """Return the function with a check of its arguments; it raises ConfigError for a wrong type."""
    signature = inspect.signature(function)

    @functools.wraps(function)
    def call(*args: Any, **named: Any) -> Any:  # noqa: ANN401 - those of the function
        try:
            given = signature.bind(*args, **named).arguments
        except TypeError:
            given = {}  # Python's own message names the argument that is missing or unknown.
        for name, value in given.items():
            hint = _hint(function, name)
            if not fits(value, hint):
                raise ConfigError(
                    f"{function.__name__}: {name} is {clipped(repr(value))}, "
                    f"a {type(value).__name__}; it takes {' or '.join(_described(hint))}"
                )
        return function(*args, **named)

    return typing.cast("F", call)


def _hint(function: Callable[..., Any], name: str) -> Any:  # noqa: ANN401 - any annotation
    """Return a parameter's annotation; Any if it names what only type checkers import."""
    annotation = function.__annotations__.get(name, Any)
    if not isinstance(annotation, str):
        return annotation
    try:
        return eval(annotation, vars(inspect.getmodule(function)))  # noqa: S307 - our own source
    except NameError:
        return Any


def fits(value: object, hint: Any) -> bool:  # noqa: ANN401 - any annotation
    """Return whether a value has the annotated type, as far as that is plain."""
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return any(fits(value, part) for part in parts)
    if origin is Literal:
        return value in parts
    return _is_a(value, types.NoneType if hint is None else origin or hint, parts)


def _is_a(value: object, kind: Any, parts: tuple[Any, ...]) -> bool:  # noqa: ANN401 - any annotation
    """Return whether a value is of a kind; `parts` are the kind's own, as of an iterable."""
    if kind is Callable:
        return callable(value)
    if kind is Any or not isinstance(kind, type) or getattr(kind, "_is_protocol", False):
        return True
    if kind in {int, float}:
        number = "__index__" if kind is int else "__float__"
        return hasattr(value, number) and not isinstance(value, bool | str)
    if issubclass(kind, Iterable) and kind is not str and not issubclass(kind, Mapping):
        if isinstance(value, str | bytes) or not isinstance(value, kind):
            return False
        items = value if parts and isinstance(value, list | tuple | set | frozenset) else ()
        return all(fits(item, parts[0]) for item in items)
    return isinstance(value, kind)


def _described(hint: Any) -> list[str]:  # noqa: ANN401 - any annotation
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in {typing.Union, types.UnionType}:
        return list(dict.fromkeys(text for part in parts for text in _described(part)))
    if origin is Literal:
        return [repr(part) for part in parts]
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, Mapping):
        return ["a mapping"]
    if isinstance(kind, type) and issubclass(kind, Iterable) and kind is not str:
        return [f"several ({' or '.join(_described(parts[0]))})"] if parts else ["several"]
    return [_NAMES.get(kind, getattr(kind, "__name__", str(kind)))]
