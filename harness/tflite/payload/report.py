"""What a file takes when it travels: under each codec, beside the entropy bound, and as a delta.

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
    """The file under one codec."""

    codec: str
    bytes: int | None
    """Null with `missing`."""
    share: float | None
    """Of the file's size, to four places."""
    missing: str | None = None
    """Why there is no number: the package to install."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeltaSize:
    """The file as a change of an older one."""

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
    """The weights under Huffman codes alone, beside their entropy bound."""
    delta: DeltaSize | None = None

    def plain(self) -> dict[str, Any]:
        """Return the whole as JSON-able values."""
        found = asdict(self)
        found |= {"path": str(self.path), "packed": [asdict(one) for one in self.packed]}
        if self.delta is not None:
            found["delta"]["old"] = str(self.delta.old)
        return found


def payload_report(
    path: Path, old: Path | None = None, only: Iterable[str] | None = None
) -> PayloadReport:
    """Pack a file every way there is; `only` names some of the codecs.

    A codec whose package is not installed has no number and says so. Packing is slow: brotli
    takes seconds for a megabyte. Raises PayloadError where a file cannot be read.
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
