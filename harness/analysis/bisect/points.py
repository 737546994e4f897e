"""The ordered list that a bisection searches: points with a model each, the first one good."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import ConfigError, HarnessError

MIN_POINTS = 2


class Untestable(HarnessError):
    """A point has no model to measure: its build fails, or the file is missing."""

    kind = "untestable"


@dataclass(frozen=True, slots=True, kw_only=True)
class BisectPoint:
    """A point of the list."""

    name: str
    """Its name in the result: a file or a commit."""
    title: str = ""
    """The first line of a commit's message."""

    def __str__(self) -> str:
        """Write the name and the title."""
        return f"{self.name} ({self.title})" if self.title else self.name


class Points(Protocol):
    """An ordered list of models; the first is good, the last is bad."""

    @property
    def all(self) -> Sequence[BisectPoint]:
        """The points, oldest first."""

    def model(self, at: int) -> Path:
        """Return the model of the point at this index; raises Untestable if it has none."""


class ModelFiles:
    """Model files as points, in the order given."""

    def __init__(
        self, files: Sequence[Path], *, good: str | None = None, bad: str | None = None
    ) -> None:
        """Take the files from `good` to `bad`, by default all.

        Raises ConfigError if a file is missing, an end is not in the list, or fewer than two remain.
        """
        for file in files:
            if not file.exists():
                raise ConfigError(f"{file}: no such model")
        start = 0 if good is None else _index(files, good, "--good")
        end = len(files) - 1 if bad is None else _index(files, bad, "--bad")
        if end - start + 1 < MIN_POINTS:
            raise ConfigError(
                "bisect needs two models or more, the good one before the bad one in the list"
            )
        self._files = files[start : end + 1]

    @property
    def all(self) -> Sequence[BisectPoint]:
        """The files, in the order given."""
        return [BisectPoint(name=str(file)) for file in self._files]

    def model(self, at: int) -> Path:
        """Return the file."""
        return self._files[at]


def _index(files: Sequence[Path], wanted: str, key: str) -> int:
    for index, file in enumerate(files):
        if file == Path(wanted):
            return index
    raise ConfigError(f"{key} {wanted} is not one of the files: {', '.join(map(str, files))}")
