"""Read .keras archives and .h5 files as data, without Keras."""

from __future__ import annotations

import stat
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

from harness import assets, lfs
from harness.errors import HarnessError, RecipeError
from harness.optimize.trust import configs

_CONFIG_BYTES = 64 << 20
"""Size of the largest config; a model of 100,000 layers has less."""
_PLAIN_BYTES = 100 << 20
_MAX_RATIO = 100
"""Above `_PLAIN_BYTES`, an entry that shrinks more is a bomb: weights hardly shrink at all."""
_CHUNK = 1 << 20
_MAX_ENTRIES = 10_000
_CONFIG_ATTRIBUTES = ("model_config", "training_config")
_UNREADABLE = (
    OSError,
    ValueError,
    KeyError,
    RuntimeError,
    NotImplementedError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


def keras(path: Path) -> Iterator[str]:
    """Yield what a .keras archive holds that runs code or is no part of a model.

    Raises RecipeError if it is not a readable archive.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
            yield from _entries(entries)
            for entry in entries:
                if entry.filename.endswith(".json"):
                    yield from configs.findings(_text(archive, entry))
                elif entry.filename.endswith((".h5", ".npz")):
                    yield from _weights(archive, entry)
    except _UNREADABLE as error:
        raise _damaged(path, ".keras", error) from error


def h5(path: Path) -> Iterator[str]:
    """Yield what an .h5 file holds that runs code or reads other files.

    Raises RecipeError if it is not a readable HDF5 file.
    """
    try:
        yield from _hdf5(path)
    except _UNREADABLE as error:
        raise _damaged(path, ".h5", error) from error


def _damaged(path: Path, form: str, error: Exception) -> RecipeError:
    reason = " ".join(str(error).split())
    advice = lfs.advice(path, "save the model again")
    return RecipeError(f"{path}: not a whole {form[1:]} file ({reason}); {advice}")


def _entries(entries: list[zipfile.ZipInfo]) -> Iterator[str]:
    """Check the names and the sizes that an archive claims, before anything is unpacked."""
    if len(entries) > _MAX_ENTRIES:
        yield f"it has {len(entries):,} entries, more than any model"
    seen: set[str] = set()
    for entry in entries:
        name = entry.filename.replace("\\", "/")
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[:1]:
            yield f'its entry "{entry.filename[:80]}" points outside of the archive'
        if name in seen:
            yield f'its entry "{name[:80]}" is there twice'
        seen.add(name)
        if stat.S_ISLNK(entry.external_attr >> 16):
            yield f'its entry "{name[:80]}" is a symbolic link'
        ratio = entry.file_size / max(entry.compress_size, 1)
        if entry.file_size > _PLAIN_BYTES and ratio > _MAX_RATIO:
            yield (
                f'its entry "{name[:80]}" unpacks to {entry.file_size:,} bytes from '
                f"{entry.compress_size:,}"
            )


def _text(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> bytes:
    with archive.open(entry) as file:
        text = file.read(_CONFIG_BYTES + 1)
    if len(text) > _CONFIG_BYTES:
        raise ValueError(f"{entry.filename} is larger than {_CONFIG_BYTES >> 20} MB")
    return text


def _weights(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[str]:
    """Unpack an entry of weights to a temporary file and check it there."""
    with (
        archive.open(entry) as source,
        tempfile.NamedTemporaryFile(prefix="edge-harness-") as copy,
    ):
        _copy(source, copy, entry.file_size)
        copy.flush()
        if entry.filename.endswith(".npz"):
            yield from arrays(Path(copy.name))
        else:
            yield from _hdf5(Path(copy.name))


def _copy(source: IO[bytes], copy: Any, size: int) -> None:  # noqa: ANN401 - a temporary file
    left = size
    while data := source.read(min(_CHUNK, left + 1)):
        left -= len(data)
        if left < 0:
            raise ValueError("an entry is larger than the archive says")
        copy.write(data)


def arrays(path: Path) -> Iterator[str]:
    """Yield the arrays of an .npz file that hold pickled Python objects; their headers are read."""
    from numpy.lib import format as npy

    with zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            with archive.open(entry) as file:
                version = npy.read_magic(file)
                read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
                _, _, dtype = read(file)
            if dtype.hasobject:
                yield f'its array "{entry.filename[:80]}" holds pickled Python objects'


def _hdf5(path: Path) -> Iterator[str]:
    """Check the configs of an HDF5 file, and that all its data is in the file itself."""
    try:
        import h5py  # type: ignore[import-untyped]
    except ImportError as error:
        raise HarnessError(
            f"reading this model needs h5py, which comes with TensorFlow ({error}); "
            f"{assets.install_command('tensorflow')}"
        ) from error
    with h5py.File(path, "r") as file:
        for name in _CONFIG_ATTRIBUTES:
            text = file.attrs.get(name)
            if text is not None and len(text) > _CONFIG_BYTES:
                raise ValueError(f"its {name} is larger than {_CONFIG_BYTES >> 20} MB")
            if text is not None:
                key = "" if name == "model_config" else f'{{"{name}": '
                plain = text.decode("utf-8") if isinstance(text, bytes) else str(text)
                yield from configs.findings(f"{key}{plain}{'}' if key else ''}")
        yield from _links(file, h5py)


def _links(file: Any, h5py: Any) -> Iterator[str]:  # noqa: ANN401 - untyped library
    """Walk the groups by their links, so that no other file is opened."""
    groups, seen = [file], set()
    while groups:
        group = groups.pop()
        if group.id in seen:
            continue
        seen.add(group.id)
        for name in group:
            link = group.get(name, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                yield f'its "{name[:80]}" is in another file ({link.filename[:80]})'
            if not isinstance(link, h5py.HardLink):
                continue
            item = group[name]
            if isinstance(item, h5py.Group):
                groups.append(item)
            elif isinstance(item, h5py.Dataset) and (item.external or item.is_virtual):
                yield f'its "{name[:80]}" is read from another file'
