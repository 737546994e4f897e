"""In what form a file travels to a device: as it is, or packed by a codec that both ends know.

Packing pays where bytes cost more than the host's time, so files to this machine go as they are,
and elsewhere only what a quick look says shrinks by a tenth or more: plain float and int8 weights
do not, pruned and clustered ones do. docs/agent-protocol.md says what the agent does.
"""

from __future__ import annotations

import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from harness.errors import TransferFailed
from harness.tflite import payload
from harness.types import Device

PREFERRED = ("zstd", "xz", "gzip")
"""The first that both know is taken. brotli packs ten times slower for a few per cent."""

QUICK = ("gzip",)
QUICK_OVER_BYTES = 8_000_000
"""Files over this are packed quickly or not at all: xz does 1 MB/s, a link in a lab 10. An xz
dictionary is as large as the file, and the agent stays under 25 MB while it unpacks."""

LEAST_BYTES = 4096
"""Under this a file is one packet or two in any form."""

WORTH = 0.9
"""Packed bytes over bytes, above which it is not worth the time."""

_LOOKS = 4
_LOOK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class Parcel:
    """What to send for a file."""

    path: Path
    codec: str | None
    """None where the file goes as it is."""
    file_bytes: int
    """Of the file itself."""


def parcel(source: Path, device: Device, unpacks: Collection[str], folder: Path) -> Parcel:
    """Pack a file for a device that unpacks these; the packed file lies in `folder`.

    Raises TransferFailed where the file cannot be read.
    """
    try:
        return _parcel(source, device, unpacks, folder)
    except OSError as error:
        raise TransferFailed(f"{source}: not sent to {device.name}: {error}") from error


def _parcel(source: Path, device: Device, unpacks: Collection[str], folder: Path) -> Parcel:
    size = source.stat().st_size
    plain = Parcel(path=source, codec=None, file_bytes=size)
    if device.address.startswith("local:") or size < LEAST_BYTES or _look(source, size) > WORTH:
        return plain
    wanted = QUICK if size > QUICK_OVER_BYTES else PREFERRED
    codec = next((name for name in wanted if name in unpacks and payload.is_here(name)), None)
    if codec is None:
        return plain
    packed = payload.get(codec).pack(source.read_bytes())
    if len(packed) > WORTH * size:
        return plain
    target = folder / f"{source.name}.{codec}"
    target.write_bytes(packed)
    return Parcel(path=target, codec=codec, file_bytes=size)


def _look(source: Path, size: int) -> float:
    """Estimate what packing leaves: four pieces, evenly spread, by the fastest of zlib."""
    with source.open("rb") as file:
        pieces = []
        for look in range(_LOOKS):
            file.seek(max(size - _LOOK_BYTES, 0) * look // (_LOOKS - 1))
            pieces.append(file.read(_LOOK_BYTES))
            if size <= _LOOK_BYTES:
                break
    seen = b"".join(pieces)
    return len(zlib.compress(seen, 1)) / len(seen)
