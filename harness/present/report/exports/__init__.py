"""Export a run in the formats of other tools; one module per format.

    text = write(table.rows.read(run), "junit")

Tools that plot trends and raise alerts read `bmf`, `github`, `pyperf` and `gbench`, so these have
only rows that were measured on a device (:mod:`harness.present.report.exports.entries`). `junit`,
`summary` and `csv` have every row. docs/exports.md shows each format with the tool that reads it.
"""

from __future__ import annotations

import errno
import os
import shlex
from pathlib import Path
from typing import Protocol

from harness.errors import ConfigError
from harness.present.report.exports import bmf, csv, gbench, github, junit, pyperf, summary
from harness.records.table.rows import Measured

__all__ = ["FORMATS", "encoded", "require_writable", "save", "write"]


_INPUTS = (
    ".toml",
    ".tflite",
    ".keras",
    ".h5",
    ".hdf5",
    ".pb",
    ".npz",
    ".npy",
    ".py",
    ".yml",
    ".yaml",
)
"""Endings of the files that a user gives; a slip in a command must not replace one by a report."""


class Writer(Protocol):
    """The function that a format provides."""

    def __call__(self, measured: Measured, *, emulated: bool, include_suspect: bool = False) -> str:
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


def write(
    measured: Measured, form: str, *, emulated: bool = False, include_suspect: bool = False
) -> str:
    """Write a run in one of FORMATS; `emulated` adds the rows of emulators to the trends.

    `include_suspect` adds the rows whose verdict is SUSPECT.

    Raises ConfigError for an unknown format, StoreError if a format needs a measured row and the
    run has none.
    """
    if form not in FORMATS:
        raise ConfigError(f"unknown format {form!r}; formats are {', '.join(FORMATS)}")
    return FORMATS[form](measured, emulated=emulated, include_suspect=include_suspect)


def save(text: str, path: Path, option: str = "-o") -> None:
    """Write an export to a file, completely or not at all; raises ConfigError if that fails.

    `option` is the option of the command line that names the file, for the error.
    """
    _require_folder(path, option)
    path = path.resolve()
    part = _part(path)
    try:
        _refuse_input(path, option)
        if path.exists() and not path.is_file():
            path.write_bytes(encoded(text))  # such as /dev/stdout
            return
        part.write_bytes(encoded(text))
        part.replace(path)
    except OSError as error:
        raise _unwritable(path, option, error) from error
    finally:
        part.unlink(missing_ok=True)


def require_writable(path: Path, option: str) -> None:
    """Raise ConfigError if a file cannot be written later, as far as that shows now.

    A missing folder is named with the command that makes it. A file of a kind that users give, as a
    plan or a model, is not replaced.
    """
    _require_folder(path, option)
    path = path.resolve()
    try:
        _refuse_input(path, option)
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        if not path.exists() or path.is_file():
            part = _part(path)
            part.touch()
            part.unlink()
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        raise _unwritable(path, option, error) from error


def _refuse_input(path: Path, option: str) -> None:
    if path.is_file() and path.suffix.lower() in _INPUTS:
        raise ConfigError(
            f"{option} {path}: a {path.suffix} file is there already, which would be lost; give another name"
        )


def _part(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _unwritable(path: Path, option: str, error: OSError) -> ConfigError:
    return ConfigError(f"{option} {path}: cannot be written: {error.strerror or error}")


def _require_folder(path: Path, option: str) -> None:
    folder = path.parent
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"{option} {path}: {folder} is a file, not a folder; give another name")
    if not folder.is_dir():
        raise ConfigError(
            f"{option} {path}: there is no folder {folder}; "
            f"`{shlex.join(['mkdir', '-p', str(folder)])}` makes it"
        )


def encoded(text: str) -> bytes:
    """Return the bytes of an export: always UTF-8, with lone surrogates as escapes."""
    return text.encode("utf-8", errors="backslashreplace")
