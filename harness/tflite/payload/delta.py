"""A payload with only the changes of a model, for a device that has the old file.

    packed = delta.pack(old, new)
    delta.unpack(old, packed, limit=len(new)) == new

`pack` tries two methods and keeps the smaller result. `prefix` is zstd with the old file as its
dictionary, as in `zstd --patch-from`; it finds bytes that were kept or moved. `difference` is the
new file's bytes minus the old file's at the same position (modulo 256, as in bsdiff), packed by
zstd; it is small for weights that changed a little.

    header   magic "EHDL", version (u8, 1), method (u8, 0 prefix, 1 difference), sha256 of the old
             file, sha256 of the new one; then one zstd frame
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import PayloadError
from harness.tflite.payload import codecs
from harness.tflite.payload.canonical import Bytes

if TYPE_CHECKING:
    import zstandard

NAME = "delta"
WAYS = ("prefix", "difference")
_LEVEL = 19
_HEADER = struct.Struct("<4sBB32s32s")
_MAGIC, _VERSION = b"EHDL", 1
_WINDOW_LOGS = (20, 31)
"""31 is the largest window of zstd; the old and the new file together may have 2 GB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delta:
    """A delta payload and its method."""

    data: bytes
    way: str


def pack(old: bytes, new: bytes) -> Delta:
    """Return the smaller delta of the two methods; needs zstandard."""
    codecs.get("zstd")
    frames = (_pack_after(old, new), codecs.get("zstd").pack(_minus(new, old)))
    best = min(range(len(WAYS)), key=lambda index: len(frames[index]))
    head = _HEADER.pack(_MAGIC, _VERSION, best, _digest(old), _digest(new))
    return Delta(data=head + frames[best], way=WAYS[best])


def unpack(old: bytes, data: bytes, limit: int) -> bytes:
    """Return the new file.

    Raises PayloadError if the delta is damaged or made for another old file, and if the result is
    larger than `limit` bytes or is not the packed file.
    """
    codecs.get("zstd")
    try:
        magic, version, way, before, after = _HEADER.unpack_from(data)
    except struct.error as error:
        raise codecs.damaged(NAME, error) from error
    if (magic, version) != (_MAGIC, _VERSION) or way >= len(WAYS):
        raise codecs.damaged(NAME, "it is not a delta of version 1")
    if before != _digest(old):
        raise PayloadError(
            f"{NAME}: it was made for another old file (sha256 {before.hex()}), not for the one "
            f"given ({_digest(old).hex()}); give that file, or send the whole new one"
        )
    frame = data[_HEADER.size :]
    if WAYS[way] == "prefix":
        new = _unpack_after(old, frame, limit)
    else:
        new = _plus(codecs.get("zstd").unpack(frame, limit), old)
    if after != _digest(new):
        raise codecs.damaged(NAME, "its result is not the packed file")
    return new


def _pack_after(old: bytes, new: bytes) -> bytes:
    import zstandard

    low, high = _WINDOW_LOGS
    # The window must reach from the end of the new file to the beginning of the old one.
    window = min(max((len(old) + len(new)).bit_length(), low), high)
    settings = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL,
        source_size=len(new),
        dict_size=len(old),
        window_log=window,
        enable_ldm=True,
    )
    return zstandard.ZstdCompressor(
        dict_data=_dictionary(old), compression_params=settings
    ).compress(new)


def _unpack_after(old: bytes, frame: bytes, limit: int) -> bytes:
    import zstandard

    try:
        codecs.promised(NAME, zstandard.get_frame_parameters(frame).content_size, limit)
        decoder = zstandard.ZstdDecompressor(
            dict_data=_dictionary(old), max_window_size=1 << _WINDOW_LOGS[1]
        )
        return decoder.decompress(frame, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise codecs.damaged(NAME, error) from error


def _dictionary(old: bytes) -> zstandard.ZstdCompressionDict:
    import zstandard

    return zstandard.ZstdCompressionDict(old, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _minus(new: bytes, old: bytes) -> bytes:
    """Subtract byte by byte, modulo 256; the old file is cut or padded with zeros."""
    return (_array(new) - _fitted(old, len(new))).tobytes()


def _plus(difference: bytes, old: bytes) -> bytes:
    return (_array(difference) + _fitted(old, len(difference))).tobytes()


def _array(data: bytes) -> Bytes:
    return np.frombuffer(data, np.uint8)


def _fitted(old: bytes, size: int) -> Bytes:
    return _array(old[:size] + bytes(max(size - len(old), 0)))


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
