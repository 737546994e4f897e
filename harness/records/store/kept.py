"""The measured files of a run, `variants/<sha256>.tflite`."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from harness import durable
from harness.errors import StoreError
from harness.records.store.journal import appearing
from harness.types import Variant


def files_of(variant: Variant) -> Iterator[tuple[Path, str]]:
    """Yield the path and digest of a variant's file, and of the one that was compiled to it."""
    if variant.uncompiled is not None:
        yield variant.uncompiled.path, variant.uncompiled.digest
    yield variant.path, variant.digest


def keep(folder: Path, variant: Variant) -> Path:
    """Copy a variant's files into a run's folder of variants, and return the path of its copy.

    A copy that is there and whole stays; a damaged one is replaced. Raises StoreError if a file is
    gone or no longer has its digest.
    """
    kept = folder
    for path, digest in files_of(variant):
        kept = folder / f"{digest}.tflite"
        if not is_whole(kept, digest):
            _copy(path, kept, digest)
    return kept


def is_whole(path: Path, digest: str) -> bool:
    """Return whether a file is there and has this digest."""
    try:
        return _digest(path) == digest
    except OSError:
        return False


def _copy(path: Path, kept: Path, digest: str) -> None:
    """Copy the file; a link would change if the user overwrites the original."""
    if not path.is_file():
        raise StoreError(f"{path} is gone; build it again before it is measured")
    with appearing(kept) as part:
        shutil.copyfile(path, part)
        found = _digest(part)
        if found != digest:
            raise StoreError(
                f"{path} changed while it was in use: its digest is {found}, "
                f"not {digest}; build it again"
            )


def _digest(path: Path) -> str:
    with durable.opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
