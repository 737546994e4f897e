"""Recognise a pointer of Git LFS, which stands in a checkout for a file that was not fetched."""

from __future__ import annotations

from pathlib import Path

_HEAD = b"version https://git-lfs.github.com/spec/"
"""The first line of every pointer (git-lfs, docs/spec.md)."""


def advice(path: Path, otherwise: str) -> str:
    """Return what to do about a file that cannot be read: `git lfs pull` for a pointer."""
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_HEAD)) == _HEAD
    except OSError:
        is_pointer = False
    if is_pointer:
        return "it is a pointer of Git LFS, not the file itself; `git lfs pull` fetches it"
    return otherwise
