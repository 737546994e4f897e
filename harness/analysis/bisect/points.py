"""What is searched: an ordered list of points, the first good, each with a model at hand."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from harness.errors import ConfigError, HarnessError

LEAST = 2


class Untestable(HarnessError):
    """A point has no model to measure: it does not build, or lacks the file."""

    kind = "untestable"


@dataclass(frozen=True, slots=True, kw_only=True)
class BisectPoint:
    """One place in the list."""

    name: str
    """What it is called in the answer: a file, a commit."""
    title: str = ""
    """What a person knows it by: the first line of a commit's message."""

    def __str__(self) -> str:
        """Write it for a person."""
        return f"{self.name} ({self.title})" if self.title else self.name


class Points(Protocol):
    """An ordered list of models; the first is good, the last is bad."""

    @property
    def all(self) -> Sequence[BisectPoint]:
        """The points, oldest first."""

    def model(self, at: int) -> Path:
        """Return the model of a point; raises Untestable where it has none."""


class ModelFiles:
    """Model files as they are, in the order given."""

    def __init__(
        self, files: Sequence[Path], *, good: str | None = None, bad: str | None = None
    ) -> None:
        """Take the files from `good` to `bad`, by default all; raises ConfigError."""
        for file in files:
            if not file.exists():
                raise ConfigError(f"{file}: no such model")
        start = 0 if good is None else _place(files, good, "--good")
        end = len(files) - 1 if bad is None else _place(files, bad, "--bad")
        if end - start + 1 < LEAST:
            raise ConfigError(
                "bisect needs two models or more, the good one before the bad one in the list"
            )
        self._files = files[start : end + 1]

    @property
    def all(self) -> Sequence[BisectPoint]:
        """The files, as they were given."""
        return [BisectPoint(name=str(file)) for file in self._files]

    def model(self, at: int) -> Path:
        """Return the file."""
        return self._files[at]


def _place(files: Sequence[Path], wanted: str, key: str) -> int:
    for place, file in enumerate(files):
        if file == Path(wanted):
            return place
    raise ConfigError(f"{key} {wanted} is not one of the files: {', '.join(map(str, files))}")
