"""Find a plan's models and data: resolve paths and globs to absolute files, and name the models."""

from __future__ import annotations

import glob
import os
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness import text_files
from harness.config import bounds, globs, paths
from harness.errors import ConfigError
from harness.printable import clipped, file_name
from harness.tflite import kinds
from harness.types import DataSource

_RESERVED = (".", "..", "con", "prn", "aux", "nul")
"""Names that are folders, or that no file can have on some systems."""

SUFFIXES = (".keras", ".h5", ".hdf5", ".tflite", ".lite")
"""Suffixes of model files; a folder is a model if it has a SavedModel."""

_FORMS = ".keras, .h5, .tflite or a SavedModel folder (one with saved_model.pb)"


def find(base: Path, written: str, where: str) -> list[Path]:
    """Return the models that a plan's `path` names, absolute and sorted.

    A path that exists is used literally, also with brackets. Otherwise `*`, `?`, `[...]` and `**`
    make it a glob, and files that are not models are left out. Raises ConfigError that starts with
    `where` for a path that is missing, unreadable or not a model, and for a glob without a match.
    """
    pattern = paths.expanded(written, where)
    path = base / pattern
    if paths.exists(path, where):
        _check_model(path, where)
        return [path]
    if not glob.has_magic(written):
        raise ConfigError(f'{where}: there is no file or folder "{file_name(path)}"')
    # The base is not part of the pattern: its own brackets must not act as a glob.
    root = Path(pattern.anchor) if pattern.is_absolute() else base
    inner = str(pattern.relative_to(pattern.anchor))
    found, has_matched = globs.find(root, inner, where, _is_model)
    if not found:
        what = "matches no model" if has_matched else "matches nothing"
        shown = file_name(written)
        raise ConfigError(f'{where}: the glob "{shown}" {what} in {base}; models are {_FORMS}')
    bounds.check_count(where, len(found), bounds.MAX_MODELS)
    for match in found:
        paths.check_name(match, where)
        _check_model(match, where)
    return found


def check_name(name: str, where: str) -> None:
    """Refuse a name of a model that cannot be part of a file's name; raises ConfigError."""
    reason = None
    if not name.strip() or name != name.strip():
        reason = "is empty, or begins or ends with a blank"
    elif len(name) > bounds.MAX_NAME:
        reason = f"has more than {bounds.MAX_NAME} characters"
    elif "/" in name or "\\" in name or not name.isprintable():
        reason = "has a slash or an invisible character"
    elif name.lower() in _RESERVED or name.startswith("-"):
        reason = "is reserved, or reads like an option"
    if reason:
        raise ConfigError(
            f'{where}: "{clipped(file_name(name))}" is not a name of a model: it {reason}; '
            'use one such as "kws-v2"'
        )


def name_all(paths: Sequence[Path], base: Path) -> list[str]:
    """Name models after their files: the stem, or as much of the path as makes it unique.

    What no name may have (a backslash, an invisible character) is replaced; a long name is shortened.
    """
    return [_as_name(name) for name in _unique_names(paths, base)]


def _as_name(text: str) -> str:
    """Return a text as a name that `check_name` accepts."""
    visible = "".join(char if char.isprintable() and char not in "/\\" else "-" for char in text)
    name = clipped(visible.lstrip("- ").rstrip())
    return f"model-{name}".rstrip(".-") if not name or name.lower() in _RESERVED else name


def _unique_names(paths: Sequence[Path], base: Path) -> list[str]:
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
    path = base / paths.expanded(file, where)
    if not paths.exists(path, where):
        hint = '; only calibration can be "random"' if written == "random" else ""
        raise ConfigError(f'{where}: there is no file or folder "{file_name(path)}"{hint}')
    _check_kind(path, where)
    if function is None and path.suffix == ".py":
        raise ConfigError(f'{where}: name the generator in {path.name}, as in "{written}:batches"')
    return str(path) if function is None else f"{path}:{function}"


def _is_model(path: Path) -> bool:
    return path.suffix in SUFFIXES or kinds.saved_model(path) is not None


def _check_model(path: Path, where: str) -> None:
    if not _is_model(path):
        what = kinds.other(path)
        known = f": {what}" if what else f"; models are {_FORMS}"
        raise ConfigError(f'{where}: "{file_name(path)}" is not a model{known}')
    file = kinds.saved_model(path) or path
    _check_kind(file, where)
    try:
        with file.open("rb"):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise ConfigError(f'{where}: "{file_name(file)}" cannot be read: {reason}') from error


def _check_kind(path: Path, where: str) -> None:
    """Refuse a pipe, a device or a socket, which may never end; a folder may be a model or data."""
    kind = text_files.kind(path.stat().st_mode)
    if kind is not None and not path.is_dir():
        raise ConfigError(f'{where}: "{file_name(path)}" is {kind}, not a file')
