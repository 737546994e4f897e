"""Runs for other people's tools: one file a format, a run in, text out.

    text = write(table.rows.read(run), "junit")

`bmf`, `github`, `pyperf` and `gbench` are read by tools that draw trends and raise alarms, so they
hold only rows that are numbers of a device (:mod:`harness.present.report.exports.entries`); `junit`,
`summary` and `csv` hold every row. docs/exports.md shows each with the tool that reads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from harness.errors import ConfigError
from harness.present.report.exports import bmf, csv, gbench, github, junit, pyperf, summary
from harness.records.table.rows import Measured

__all__ = ["FORMATS", "encoded", "save", "write"]


class Writer(Protocol):
    """What a format offers."""

    def __call__(self, measured: Measured, *, emulated: bool) -> str:
        """Write the run."""


FORMATS: dict[str, Writer] = {
    "bmf": bmf.write,
    "github": github.write,
    "junit": junit.write,
    "pyperf": pyperf.write,
    "gbench": gbench.write,
    "csv": csv.write,
    "summary": summary.write,
}


def write(measured: Measured, form: str, *, emulated: bool = False) -> str:
    """Write a run in one of FORMATS; `emulated` lets rows of emulators into the trends.

    Raises ConfigError for an unknown format, StoreError where a format needs a measured row and
    the run has none.
    """
    if form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}; formats are {', '.join(FORMATS)}")
    return FORMATS[form](measured, emulated=emulated)


def save(text: str, path: Path) -> None:
    """Write an export into a file; raises ConfigError where that cannot be written."""
    try:
        path.write_bytes(encoded(text))
    except OSError as error:
        raise ConfigError(f"-o {path}: cannot be written: {error.strerror or error}") from error


def encoded(text: str) -> bytes:
    """Return the bytes of an export: UTF-8 wherever it goes; lone surrogates become escapes."""
    return text.encode("utf-8", errors="backslashreplace")
