"""The transfer encoding of a file: none, or a codec that both host and agent have.

Packing pays if sending bytes costs more than the host's time. So files for this machine are sent as
they are. For other devices a file is packed only if a quick estimate says that it shrinks by a tenth
or more: pruned and clustered weights do, plain float and int8 weights do not. docs/agent-protocol.md
describes how the agent unpacks.
"""

from __future__ import annotations

import posixpath
import zlib
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.devices.transports.space import free_bytes
from harness.errors import HarnessError, NoSpace, TransferFailed
from harness.protocols import FullTransport
from harness.tflite import payload
from harness.types import Device

PREFERRED = ("zstd", "xz", "gzip")
"""The first that both have is used. brotli is ten times slower for a few per cent less."""

QUICK = ("gzip",)
QUICK_OVER_BYTES = 8_000_000
"""Larger files are packed with a QUICK codec or not at all: xz packs 1 MB/s, a link in a lab sends 10.
An xz dictionary is as large as the file, and the agent must stay under 25 MB while it unpacks."""

MIN_BYTES = 4096
"""A smaller file takes one or two packets, packed or not."""

MAX_RATIO = 0.9
"""Packed bytes over original bytes; above this, packing is not worth its time."""

_SECONDS = 30.0
_PROBES = 4
_PROBE_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodedFile:
    """The file that is sent for a file, and its encoding."""

    path: Path
    codec: str | None
    """None if the file is sent as it is."""
    file_bytes: int
    """Size of the original file."""


def put(transport: FullTransport, device: Device, source: Path, destination: str) -> None:
    """Copy a file to the device; if it does not arrive whole, remove its part there.

    Raises NoSpace if the file does not fit on the device's disk, and what `Files.put` raises.
    """
    try:
        transport.put(source, destination)
    except TransferFailed as error:
        # A partial file would keep a full disk full. If the connection broke, the partial file stays
        # until the agent removes it a day later.
        with suppress(HarnessError):
            transport.run(["rm", "-f", destination], _SECONDS)
        folder = posixpath.dirname(destination)
        free = free_bytes(transport.run, folder)
        if free is None or not source.is_file() or free >= source.stat().st_size:
            raise
        raise NoSpace(
            f"{device.name}: the disk is full: {source.stat().st_size} bytes do not fit into the "
            f"{free} bytes that are free for {folder} (`df {folder}`); {error}"
        ) from error


def encode(source: Path, device: Device, unpacks: Collection[str], folder: Path) -> EncodedFile:
    """Pack a file for a device that unpacks these codecs; writes the packed file to `folder`.

    Raises TransferFailed if the file cannot be read.
    """
    try:
        return _encode(source, device, unpacks, folder)
    except OSError as error:
        raise TransferFailed(f"{source}: not sent to {device.name}: {error}") from error


def _encode(source: Path, device: Device, unpacks: Collection[str], folder: Path) -> EncodedFile:
    size = source.stat().st_size
    plain = EncodedFile(path=source, codec=None, file_bytes=size)
    if (
        device.address.startswith("local:")
        or size < MIN_BYTES
        or _estimate(source, size) > MAX_RATIO
    ):
        return plain
    wanted = QUICK if size > QUICK_OVER_BYTES else PREFERRED
    codec = next((name for name in wanted if name in unpacks and payload.is_installed(name)), None)
    if codec is None:
        return plain
    packed = payload.get(codec).pack(source.read_bytes())
    if len(packed) > MAX_RATIO * size:
        return plain
    target = folder / f"{source.name}.{codec}"
    target.write_bytes(packed)
    return EncodedFile(path=target, codec=codec, file_bytes=size)


def _estimate(source: Path, size: int) -> float:
    """Estimate packed over original bytes: zlib's fastest level on four evenly spread pieces."""
    with source.open("rb") as file:
        pieces = []
        for probe in range(_PROBES):
            file.seek(max(size - _PROBE_BYTES, 0) * probe // (_PROBES - 1))
            pieces.append(file.read(_PROBE_BYTES))
            if size <= _PROBE_BYTES:
                break
    sample = b"".join(pieces)
    return len(zlib.compress(sample, 1)) / len(sample)
