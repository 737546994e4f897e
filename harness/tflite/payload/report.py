"""The size of a file for transfer: under each codec, next to the entropy bound, and as a delta.

report.payload_report(Path("model.tflite"), old=Path("model-before.tflite")).plain()
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.errors import PayloadError
from harness.tflite.payload import codecs, delta, huffman
from harness.tflite.payload.huffman import Weights


@dataclass(frozen=True, slots=True, kw_only=True)
class Packed:
    """The file's size under one codec."""

    codec: str
    bytes: int | None
    """Null with `missing`."""
    share: float | None
    """Share of the file's size, to four decimals."""
    missing: str | None = None
    """Why there is no size: the package to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaSize:
    """The file's size as a delta to an older file."""

    old: Path
    old_digest: str
    way: str
    """`prefix` or `difference`."""
    bytes: int
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadReport:
    """Sizes in bytes of one file."""

    path: Path
    digest: str
    size_bytes: int
    packed: tuple[Packed, ...]
    huffman: Weights
    """The weights alone under Huffman codes, next to their entropy bound."""
    delta: DeltaSize | None = None

    def plain(self) -> dict[str, Any]:
        """Return the report as JSON-able values."""
        found = asdict(self)
        found |= {"path": str(self.path), "packed": [asdict(one) for one in self.packed]}
        if self.delta is not None:
            found["delta"]["old"] = str(self.delta.old)
        return found


def payload_report(
    path: Path, old: Path | None = None, only: Iterable[str] | None = None
) -> PayloadReport:
    """Pack a file with every codec, or with those in `only`, and as a delta to `old`.

    A codec whose package is not installed has no size and a reason. Packing is slow: brotli takes
    seconds per megabyte. Raises PayloadError if a file cannot be read.
    """
    data = _bytes(path)
    names = codecs.names() if only is None else tuple(only)
    return PayloadReport(
        path=path,
        digest=hashlib.sha256(data).hexdigest(),
        size_bytes=len(data),
        packed=tuple(_packed(name, data) for name in names),
        huffman=huffman.weights(data),
        delta=None if old is None else _delta(old, data),
    )


def _packed(name: str, data: bytes) -> Packed:
    try:
        size = len(codecs.get(name).pack(data))
    except PayloadError as error:
        if name not in codecs.names():
            raise
        return Packed(codec=name, bytes=None, share=None, missing=str(error))
    return Packed(codec=name, bytes=size, share=_share(size, data))


def _delta(old: Path, data: bytes) -> DeltaSize:
    before = _bytes(old)
    found = delta.pack(before, data)
    return DeltaSize(
        old=old,
        old_digest=hashlib.sha256(before).hexdigest(),
        way=found.way,
        bytes=len(found.data),
        share=_share(len(found.data), data),
    )


def _share(size: int, data: bytes) -> float:
    return round(size / max(len(data), 1), 4)


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise PayloadError(f"{path}: cannot be read ({error.strerror or error})") from error
