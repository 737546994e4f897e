"""The codecs for payloads, by name.

    packed = codecs.get("xz").pack(data)
    codecs.get("xz").unpack(packed, limit=len(data))

zstd and brotli need their packages (in the extra `light`); the others come with Python or with this
project. `unpack` never returns more than `limit` bytes. It raises PayloadError for data that is
damaged, truncated or followed by other bytes.
"""

from __future__ import annotations

import gzip
import importlib.util
import lzma
import zlib
from typing import Protocol

from harness import assets
from harness.errors import PayloadError
from harness.plugins import unknown
from harness.tflite.payload.huffman import Huffman

_ZSTD_LEVEL, _ZSTD_QUICK_LEVEL = 19, 12
_ZSTD_QUICK_OVER_BYTES = 8_000_000
"""Level 19 packs 3 MB per second, level 12 over 100 MB; on weights 19 saves less than 0.5 %."""
_GZIP_LEVEL = 9
_BROTLI_QUALITY = 11
_BROTLI_WINDOWS = (22, 24)
"""Base 2 logarithms: brotli's default, and its maximum for files larger than that window."""

_XZ_PRESET = 9 | lzma.PRESET_EXTREME
_XZ_DICTIONARY_BYTES = (1 << 12, 1 << 26)
_XZ_MEMORY_BYTES = 1 << 27
_PIECE_BYTES = 1 << 20
_PACKAGES = {"zstd": "zstandard", "brotli": "brotli"}


class Codec(Protocol):
    """A lossless compression of a payload."""

    name: str

    def pack(self, data: bytes) -> bytes:
        """Return the packed bytes; HarnessError if the codec's package is not installed."""

    def unpack(self, data: bytes, limit: int) -> bytes:
        """Return the packed bytes' content; PayloadError if damaged or over `limit` bytes."""


class Zstd:
    """Zstandard at level 19, the highest with a window that every decoder accepts; large files at 12."""

    name = "zstd"

    def pack(self, data: bytes) -> bytes:
        """Return one frame; its header has the content size."""
        import zstandard

        level = _ZSTD_LEVEL if len(data) <= _ZSTD_QUICK_OVER_BYTES else _ZSTD_QUICK_LEVEL
        return zstandard.ZstdCompressor(level=level).compress(data)

    def unpack(self, data: bytes, limit: int) -> bytes:
        """Return the only frame's content; see Codec."""
        import zstandard

        try:
            promised(self.name, zstandard.get_frame_parameters(data).content_size, limit)
            return zstandard.ZstdDecompressor().decompress(data, allow_extra_data=False)
        except zstandard.ZstdError as error:
            raise damaged(self.name, error) from error


class Brotli:
    """Brotli at quality 11: often the smallest, and by far the slowest to pack."""

    name = "brotli"

    def pack(self, data: bytes) -> bytes:
        """Return one stream."""
        import brotli

        small, large = _BROTLI_WINDOWS
        window = small if len(data) < 1 << small else large
        return bytes(brotli.compress(data, quality=_BROTLI_QUALITY, lgwin=window))

    def unpack(self, data: bytes, limit: int) -> bytes:
        """Return the stream's content, piece by piece; see Codec."""
        import brotli

        decoder = brotli.Decompressor()
        found = bytearray()
        given = data
        try:
            while not decoder.is_finished():
                piece = decoder.process(given, output_buffer_limit=_PIECE_BYTES)
                given = b""
                found += piece
                promised(self.name, len(found), limit)
                if not piece and not decoder.is_finished():
                    raise damaged(self.name, "it is truncated")
        except brotli.error as error:
            raise damaged(self.name, error) from error
        return bytes(found)


class Gzip:
    """Gzip at level 9: every device unpacks it."""

    name = "gzip"

    def pack(self, data: bytes) -> bytes:
        """Return one member without a time, so that equal bytes give equal results."""
        return gzip.compress(data, _GZIP_LEVEL, mtime=0)

    def unpack(self, data: bytes, limit: int) -> bytes:
        """Return the only member's content; see Codec."""
        inflater = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        try:
            found = inflater.decompress(data, limit + 1)
        except zlib.error as error:
            raise damaged(self.name, error) from error
        promised(self.name, len(found), limit)
        if not inflater.eof or inflater.unused_data:
            raise damaged(self.name, "it is truncated, or other bytes follow its end")
        return found


class Xz:
    """LZMA2 with preset 9 extreme and a dictionary no larger than the file needs.

    With the preset's own dictionary a device would need 64 MiB to unpack a 50 kB file.
    """

    name = "xz"

    def pack(self, data: bytes) -> bytes:
        """Return one .xz stream."""
        low, high = _XZ_DICTIONARY_BYTES
        needed = 1 << max(len(data) - 1, 0).bit_length()
        chain = {
            "id": lzma.FILTER_LZMA2,
            "preset": _XZ_PRESET,
            "dict_size": min(max(needed, low), high),
        }
        return lzma.compress(data, check=lzma.CHECK_CRC32, filters=[chain])

    def unpack(self, data: bytes, limit: int) -> bytes:
        """Return the only stream's content; see Codec."""
        found = bytearray()
        given = data
        try:
            decoder = lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_XZ_MEMORY_BYTES)
            while not decoder.eof:
                piece = decoder.decompress(given, _PIECE_BYTES)
                given = b""
                found += piece
                promised(self.name, len(found), limit)
                if not piece and decoder.needs_input:
                    raise damaged(self.name, "it is truncated")
        except lzma.LZMAError as error:
            raise damaged(self.name, error) from error
        if decoder.unused_data:
            raise damaged(self.name, "other bytes follow its end")
        return bytes(found)


_ALL: dict[str, Codec] = {one.name: one for one in (Zstd(), Brotli(), Gzip(), Xz(), Huffman())}


def names() -> tuple[str, ...]:
    """List every codec, including those whose package is not installed."""
    return tuple(_ALL)


def get(name: str) -> Codec:
    """Return the codec.

    Raises PayloadError for an unknown name, or, if its package is missing, with the extra to install.
    """
    if name not in _ALL:
        raise PayloadError(unknown("codec", name, _ALL))
    if not is_installed(name):
        raise PayloadError(
            f"{name} needs the package {_PACKAGES[name]}; {assets.install_command('light')}"
        )
    return _ALL[name]


def is_installed(name: str) -> bool:
    """Return whether the codec's package is installed."""
    return name not in _PACKAGES or importlib.util.find_spec(_PACKAGES[name]) is not None


def promised(name: str, size: int, limit: int) -> None:
    """Raise PayloadError if the unpacked size is over the limit."""
    if size > limit:
        raise PayloadError(
            f"{name}: the payload unpacks to more than the {limit:,} bytes promised; refused"
        )


def damaged(name: str, why: object) -> PayloadError:
    """Return the error for a damaged payload."""
    return PayloadError(f"{name}: the payload is damaged: {why}; send or copy it again")
