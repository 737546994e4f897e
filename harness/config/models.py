"""Find a plan's models and data: resolve paths and globs to absolute files, and name the models."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.errors import ConfigError
from harness.types import DataSource

SUFFIXES = (".keras", ".h5", ".tflite")
"""Suffixes of model files; a folder is a model if it has a SavedModel."""

_FORMS = ".keras, .h5, .tflite or a SavedModel folder (one with saved_model.pb)"


def find(base: Path, written: str, where: str) -> list[Path]:
    """Return the models that a plan's `path` names, absolute and sorted.

    A path that exists is used literally, also with brackets. Otherwise `*`, `?`, `[...]` and `**`
    make it a glob, and files that are not models are left out. Raises ConfigError that starts with
    `where` for a path that is missing, unreadable or not a model, and for a glob without a match.
    """
    path = base / Path(written).expanduser()
    if path.exists():
        _check_model(path, where)
        return [path]
    if not glob.has_magic(written):
        raise ConfigError(f'{where}: there is no file or folder "{path}"')
    # The base is not part of the pattern: its own brackets must not act as a glob.
    pattern = Path(written).expanduser()
    root = Path(pattern.anchor) if pattern.is_absolute() else base
    matches = sorted(root.glob(str(pattern.relative_to(pattern.anchor))))
    found = [match for match in matches if _is_model(match)]
    if not found:
        what = "matches no model" if matches else "matches nothing"
        raise ConfigError(f'{where}: the glob "{written}" {what} in {base}; models are {_FORMS}')
    for match in found:
        _check_model(match, where)
    return found


def name_all(paths: Sequence[Path], base: Path) -> list[str]:
    """Name models after their files: the stem, or as much of the path as makes it unique."""
    stems = [path.stem if path.suffix in SUFFIXES else path.name for path in paths]
    shared = {stem for stem, count in Counter(stems).items() if count > 1}
    names = [path.name if stem in shared else stem for path, stem in zip(paths, stems, strict=True)]
    shared = {name for name, count in Counter(names).items() if count > 1}
    return [
        relative(path, base).replace("/", "-") if name in shared else name
        for path, name in zip(paths, names, strict=True)
    ]


def relative(path: Path | str, base: Path) -> str:
    """Return a path relative to `base`, with slashes; it is the same if the folder is moved."""
    return Path(os.path.relpath(path, base)).as_posix()


def data_source(
    base: Path,
    *,
    training: str | None,
    calibration: str | None,
    evaluation: str | None,
    metric: str,
    where: str,
) -> DataSource:
    """Make every path of a [data] table absolute; raises ConfigError for one that is missing."""
    return DataSource(
        training=_data(base, training, f"{where}.training"),
        calibration="random"
        if calibration == "random"
        else _data(base, calibration, f"{where}.calibration"),
        evaluation=_data(base, evaluation, f"{where}.evaluation"),
        metric=metric,
    )


def split_generator(written: str) -> tuple[str, str | None]:
    """Split `file.py:generator`; the second part is None for a plain path."""
    file, colon, function = written.rpartition(":")
    if colon and file.endswith(".py") and function.isidentifier():
        return file, function
    return written, None


def _data(base: Path, written: str | None, where: str) -> str | None:
    if written is None:
        return None
    file, function = split_generator(written)
    path = base / Path(file).expanduser()
    if not path.exists():
        hint = '; only calibration can be "random"' if written == "random" else ""
        raise ConfigError(f'{where}: there is no file or folder "{path}"{hint}')
    if function is None and path.suffix == ".py":
        raise ConfigError(f'{where}: name the generator in {path.name}, as in "{written}:batches"')
    return str(path) if function is None else f"{path}:{function}"


def _is_model(path: Path) -> bool:
    return path.suffix in SUFFIXES or (path / "saved_model.pb").is_file()


def _check_model(path: Path, where: str) -> None:
    if not _is_model(path):
        raise ConfigError(f'{where}: "{path}" is not a model; models are {_FORMS}')
    file = path / "saved_model.pb" if (path / "saved_model.pb").is_file() else path
    if not (file.is_file() or file.is_dir()):
        raise ConfigError(f'{where}: "{file}" is not a regular file')  # a pipe would be waited for
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        raise ConfigError(f'{where}: "{file}" cannot be read: {error.strerror}') from error
