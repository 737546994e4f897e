"""The codec `huffman`: the weights of a .tflite as canonical Huffman codes, one code per buffer.

It shows the gain of coding single weights next to their entropy bound. General codecs also find
repetitions and are usually smaller (docs/payload.md).

    header   magic "EHHF", version (u8, 1), crc32 of the file (u32), size of the file (u64), number
             of coded buffers (u32), size of the side part (u32); little-endian, as everything but
             the stream
    side     deflated: each buffer's position and size (u64, u64), then each buffer's 256 code
             lengths (4 bits each, the even symbol in the low half), then each lane's size in bits
             (u16 each; a lane is 4,096 symbols, the last of a buffer the remainder), then the rest
             of the file in order
    stream   each buffer's code words, highest bit first, padded to whole 16-bit words

Buffers under 1,024 bytes stay in the rest: their code would cost more than it saves. A file that is
not a .tflite file is coded as one buffer.
"""

from __future__ import annotations

import math
import struct
import zlib
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from harness.errors import PayloadError
from harness.tflite.payload import canonical, constants
from harness.tflite.payload.canonical import LANE, SYMBOLS, WORD_BYTES, Bytes, Ints

MIN_BYTES = 1024
_HEADER = struct.Struct("<4sBIQII")
_MAGIC, _VERSION = b"EHHF", 1
_ENTRY_BYTES = 16 + SYMBOLS // 2
_TABLES_AT_ONCE = 64
"""Buffers decoded together; their tables take 4 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """Sizes in bytes of the coded weights alone, without tables and the rest of the file."""

    buffers: int
    weights_bytes: int
    """Size of the coded buffers in the file."""
    coded_bytes: int
    """Size of their code words."""
    entropy_bytes: int
    """The lower bound: the sum of the buffers' order-0 entropies, rounded up."""


class Huffman:
    """The codec of this module."""

    name = "huffman"

    def pack(self, data: bytes) -> bytes:
        """Return the container that the module's docstring describes."""
        spans = constants.spans(data, MIN_BYTES)
        places, lengths, lanes, streams = [], [], [], []
        for begin, end in spans:
            symbols = np.frombuffer(data, np.uint8, end - begin, begin)
            code = canonical.code_lengths(canonical.histogram(symbols))
            stream, bits = canonical.encode(symbols, code)
            places.append(struct.pack("<QQ", begin, end - begin))
            lengths.append((code[0::2] | (code[1::2] << 4)).tobytes())
            lanes.append(bits.astype("<u2").tobytes())
            streams.append(stream)
        parts = [*places, *lengths, *lanes, *_rest(data, spans)]
        side = zlib.compress(b"".join(parts), 9)
        head = _HEADER.pack(_MAGIC, _VERSION, zlib.crc32(data), len(data), len(spans), len(side))
        return b"".join((head, side, *streams))

    def unpack(self, data: bytes, limit: int) -> bytes:
        """Return the file; raises PayloadError for anything that `pack` does not write."""
        try:
            return _read(data, limit)
        except (struct.error, zlib.error, ValueError) as error:
            raise PayloadError(f"huffman: the payload is damaged: {error}") from error


def weights(data: bytes) -> Weights:
    """Return the coded size of the weights and its lower bound, without coding them."""
    spans = constants.spans(data, MIN_BYTES)
    coded_bits, entropy_bits = 0, 0.0
    for begin, end in spans:
        counts = canonical.histogram(np.frombuffer(data, np.uint8, end - begin, begin))
        coded_bits += int((counts * canonical.code_lengths(counts)).sum())
        entropy_bits += canonical.entropy_bits(counts)
    return Weights(
        buffers=len(spans),
        weights_bytes=sum(end - begin for begin, end in spans),
        coded_bytes=-(-coded_bits // 8),
        entropy_bytes=math.ceil(round(entropy_bits / 8, 6)),
    )


def _rest(data: bytes, spans: list[constants.Span]) -> list[bytes]:
    edges = [0, *(edge for span in spans for edge in span), len(data)]
    return [data[begin:end] for begin, end in list(pairwise(edges))[0::2]]


def _read(data: bytes, limit: int) -> bytes:
    magic, version, checksum, size, count, side_bytes = _HEADER.unpack_from(data)
    if (magic, version) != (_MAGIC, _VERSION):
        raise ValueError("it is not a Huffman container of version 1")
    if size > limit:
        raise PayloadError(
            f"huffman: the payload unpacks to {size:,} bytes, more than the {limit:,} promised; refused"
        )
    if count * MIN_BYTES > size:
        raise ValueError(f"{count:,} buffers do not fit into {size:,} bytes")
    side = _inflate(data[_HEADER.size : _HEADER.size + side_bytes], count, size)
    spans = _spans(side, count, size)
    codes = _code_lengths(side, count)
    sizes = [_lane_sizes(end - begin) for begin, end in spans]
    at = _ENTRY_BYTES * count
    total = sum(map(len, sizes))
    if at + 2 * total + size - sum(end - begin for begin, end in spans) != len(side):
        raise ValueError("the rest of the file is incomplete")
    bits = np.frombuffer(side, "<u2", total, at).astype(np.int64)
    buffers = _decode(data[_HEADER.size + side_bytes :], codes, sizes, bits)
    whole = _joined(side[at + 2 * total :], spans, buffers, size)
    if zlib.crc32(whole) != checksum:
        raise ValueError("its checksum does not match")
    return whole


def _inflate(side: bytes, count: int, size: int) -> bytes:
    limit = size + _ENTRY_BYTES * count + 2 * (size // LANE + count)
    inflater = zlib.decompressobj()
    found = inflater.decompress(side, limit + 1)
    if len(found) > limit or not inflater.eof or inflater.unused_data:
        raise ValueError("its side part is truncated or too long")
    return found


def _spans(side: bytes, count: int, size: int) -> list[constants.Span]:
    found = [struct.unpack_from("<QQ", side, 16 * index) for index in range(count)]
    edge = 0
    for begin, length in found:
        if begin < edge or length < MIN_BYTES or begin + length > size:
            raise ValueError("its buffers overlap or lie outside the file")
        edge = begin + length
    return [(begin, begin + length) for begin, length in found]


def _code_lengths(side: bytes, count: int) -> list[Bytes]:
    halves = np.frombuffer(side, np.uint8, SYMBOLS // 2 * count, 16 * count)
    codes = np.stack((halves & 0xF, halves >> 4), axis=-1).reshape(count, SYMBOLS)
    if not all(map(canonical.is_complete, codes)):
        raise ValueError("a code is not complete")
    return list(codes)


def _lane_sizes(symbols: int) -> list[int]:
    whole, left = divmod(symbols, LANE)
    return [LANE] * whole + [left] * (left > 0)


def _decode(stream: bytes, codes: list[Bytes], sizes: list[list[int]], bits: Ints) -> list[bytes]:
    """Decode all buffers, _TABLES_AT_ONCE of them together."""
    lanes_each = np.array([len(one) for one in sizes], np.int64)
    buffer_of = np.repeat(np.arange(len(sizes)), lanes_each)
    starts, total = _starts(bits, buffer_of, len(sizes))
    if total != len(stream):
        raise ValueError(f"its stream has {len(stream):,} bytes, not {total:,}")
    symbols = np.array([size for one in sizes for size in one], np.int64)
    edges = np.concatenate(([0], np.cumsum(lanes_each)))
    pieces: list[Bytes] = []
    for first in range(0, len(codes), _TABLES_AT_ONCE):
        group = codes[first : first + _TABLES_AT_ONCE]
        lanes = slice(edges[first], edges[first + len(group)])
        begin = int(starts[lanes.start]) // 8
        end = int(starts[lanes.stop]) // 8 if lanes.stop < len(starts) else total
        pieces += canonical.decode(
            stream[begin:end],
            starts=starts[lanes] - 8 * begin,
            ends=starts[lanes] - 8 * begin + bits[lanes],
            sizes=symbols[lanes],
            tables=np.concatenate([canonical.table(code) for code in group]),
            table_of=buffer_of[lanes] - first,
        )
    return [np.concatenate(pieces[a:b]).tobytes() for a, b in pairwise(edges)]


def _starts(bits: Ints, buffer_of: Ints, buffers: int) -> tuple[Ints, int]:
    """Return the first bit of each lane and the stream's size in bytes.

    Each buffer begins at a whole 16-bit word.
    """
    totals = np.bincount(buffer_of, bits, minlength=buffers).astype(np.int64)
    word_bits = 8 * WORD_BYTES
    filled = -(-totals // word_bits) * word_bits
    begins = np.cumsum(filled) - filled
    inside = np.cumsum(bits) - bits
    starts = inside - (np.cumsum(totals) - totals)[buffer_of] + begins[buffer_of]
    return starts, int(filled.sum()) // 8


def _joined(rest: bytes, spans: list[constants.Span], buffers: list[bytes], size: int) -> bytes:
    parts: list[bytes] = []
    at, edge = 0, 0
    for (begin, end), buffer in zip(spans, buffers, strict=True):
        parts += (rest[at : at + begin - edge], buffer)
        at, edge = at + begin - edge, end
    whole = b"".join((*parts, rest[at:]))
    assert len(whole) == size
    return whole
