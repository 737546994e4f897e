"""The arguments of the public functions: paths may be text, and one item needs no list."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias, TypeVar

AnyPath: TypeAlias = str | os.PathLike[str]
"""A path as text or as an object; `~` is the home folder."""

T = TypeVar("T")
Several: TypeAlias = Iterable[T] | T
"""Some items, or a single one."""


def path(given: AnyPath) -> Path:
    """Return the path; `~` is replaced by the home folder."""
    return Path(given).expanduser()


def optional_path(given: AnyPath | None) -> Path | None:
    """Return the path, or None."""
    return None if given is None else path(given)


def paths(given: Iterable[AnyPath] | AnyPath) -> tuple[Path, ...]:
    """Return the paths; a single one needs no list."""
    if isinstance(given, str | os.PathLike):
        return (path(given),)
    return tuple(map(path, given))


def texts(given: Iterable[str] | str) -> tuple[str, ...]:
    """Return the texts; a single one needs no list."""
    return (given,) if isinstance(given, str) else tuple(given)


def numbers(given: Iterable[int] | int) -> tuple[int, ...]:
    """Return the numbers; a single one needs no list."""
    return (given,) if isinstance(given, int) else tuple(given)
