"""The transfer encoding of a file: none, or a codec that host and agent both know.

Packing pays if bytes cost more than the host's time. So files to this machine are sent as they are,
and to other devices only a file is packed that a quick estimate says shrinks by a tenth or more:
plain float and int8 weights do not, pruned and clustered ones do. docs/agent-protocol.md says what
the agent does.
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

MIN_BYTES = 4096
"""Under this a file is one packet or two in any form."""

WORTH = 0.9
"""Packed bytes over bytes, above which it is not worth the time."""

_LOOKS = 4
_LOOK_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFile:
    """What is sent for a file, and how it is encoded."""

    path: Path
    codec: str | None
    """None if the file is sent as it is."""
    file_bytes: int
    """Size of the original file."""


def encode(source: Path, device: Device, unpacks: Collection[str], folder: Path) -> EncodedFile:
    """Pack a file for a device that unpacks these codecs; a packed file is written to `folder`.

    Raises TransferFailed if the file cannot be read.
    """
    try:
        return _encode(source, device, unpacks, folder)
    except OSError as error:
        raise TransferFailed(f"{source}: not sent to {device.name}: {error}") from error


def _encode(source: Path, device: Device, unpacks: Collection[str], folder: Path) -> EncodedFile:
    size = source.stat().st_size
    plain = EncodedFile(path=source, codec=None, file_bytes=size)
    if device.address.startswith("local:") or size < MIN_BYTES or _estimate(source, size) > WORTH:
        return plain
    wanted = QUICK if size > QUICK_OVER_BYTES else PREFERRED
    codec = next((name for name in wanted if name in unpacks and payload.is_installed(name)), None)
    if codec is None:
        return plain
    packed = payload.get(codec).pack(source.read_bytes())
    if len(packed) > WORTH * size:
        return plain
    target = folder / f"{source.name}.{codec}"
    target.write_bytes(packed)
    return EncodedFile(path=target, codec=codec, file_bytes=size)


def _estimate(source: Path, size: int) -> float:
    """Estimate packed bytes over bytes: four pieces, evenly spread, by the fastest of zlib."""
    with source.open("rb") as file:
        pieces = []
        for look in range(_LOOKS):
            file.seek(max(size - _LOOK_BYTES, 0) * look // (_LOOKS - 1))
            pieces.append(file.read(_LOOK_BYTES))
            if size <= _LOOK_BYTES:
                break
    seen = b"".join(pieces)
    return len(zlib.compress(seen, 1)) / len(seen)
