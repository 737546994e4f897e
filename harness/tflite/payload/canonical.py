"""Canonical Huffman coding of bytes, order 0, in numpy.

Code lengths are optimal under a limit of 15 bits: package-merge (Larmore, Hirschberg: A fast
algorithm for optimal length-limited Huffman codes, JACM 37, 1990). They satisfy Kraft's inequality
with equality, so every 15-bit window begins with exactly one code word. Codes are canonical: sorted
by length, then by symbol, counted upwards (as in RFC 1951, 3.2.2). The lengths alone define them.

Symbols are coded in lanes of 4,096, and each lane's length in bits is stored. The decoder takes one
symbol of every lane per step, which is fast because it needs no loop over all symbols.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import numpy as np

Ints: TypeAlias = np.ndarray[Any, np.dtype[np.int64]]
Bytes: TypeAlias = np.ndarray[Any, np.dtype[np.uint8]]
Words: TypeAlias = np.ndarray[Any, np.dtype[np.uint32]]
Table: TypeAlias = np.ndarray[Any, np.dtype[np.uint16]]

SYMBOLS = 256
MAX_BITS = 15
"""With it a code length fits into 4 bits, a lane's size in 16 bits, a decoding table in 64 KiB."""

LANE = 4096
WORD_BYTES = 2
_WORD_BITS = 16
_WINDOWS = 1 << MAX_BITS
_AT_ONCE = 64 * LANE
"""Symbols coded per step; a step needs less than 20 MB of memory."""


def histogram(symbols: Bytes) -> Ints:
    """Count each of the 256 symbols."""
    return np.bincount(symbols, minlength=SYMBOLS).astype(np.int64)


def entropy_bits(counts: Ints) -> float:
    """Return n times the Shannon entropy of order 0, in bits; no code of single bytes is shorter."""
    present = counts[counts > 0].astype(np.float64)
    total = present.sum()
    return float(total * np.log2(total) - (present * np.log2(present)).sum()) if total else 0.0


def code_lengths(counts: Ints) -> Bytes:
    """Return the 256 optimal code lengths in bits, 0 for a symbol that does not occur.

    If only one symbol occurs, its neighbour gets a code as well, so that the code is complete.
    """
    counts = counts.copy()
    if np.count_nonzero(counts) == 1:
        counts[int(np.flatnonzero(counts)[0]) ^ 1] = 1
    symbols = np.flatnonzero(counts)
    symbols = symbols[np.argsort(counts[symbols], kind="stable")]
    weights = counts[symbols]
    leaves = _merged(weights)
    lengths = np.zeros(SYMBOLS, np.uint8)
    take = 2 * len(symbols) - 2
    # Each row gives its cheapest entries. A leaf among them adds a bit to its symbol; a package
    # takes two entries of the row it was made from.
    for is_leaf in reversed(leaves):
        taken = int(np.count_nonzero(is_leaf[: max(take, 0)]))
        lengths[symbols[:taken]] += 1
        take = 2 * (take - taken)
    return lengths


def _merged(weights: Ints) -> list[np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return for each of the MAX_BITS sorted rows which entries are leaves; others are packages."""
    row = weights
    rows = [np.ones(len(weights), np.bool_)]
    for _ in range(MAX_BITS - 1):
        paired = len(row) // 2 * 2
        packages = row[0:paired:2] + row[1:paired:2]
        both = np.concatenate((weights, packages))
        order = np.argsort(both, kind="stable")
        row = both[order]
        rows.append(order < len(weights))
    return rows


def is_complete(lengths: Bytes) -> bool:
    """Return whether these lengths satisfy Kraft's inequality with equality."""
    present = lengths[lengths > 0].astype(np.int64)
    return int((_WINDOWS >> present).sum()) == _WINDOWS


def codes(lengths: Bytes) -> Ints:
    """Return the canonical code word of every symbol, right-aligned."""
    order, spans = _canonical(lengths)
    words = np.zeros(SYMBOLS, np.int64)
    starts = np.cumsum(spans) - spans
    words[order] = starts >> (MAX_BITS - lengths[order].astype(np.int64))
    return words


def table(lengths: Bytes) -> Table:
    """Return for every 15-bit window its first symbol (low byte) and that code's length (high byte)."""
    order, spans = _canonical(lengths)
    entries = order.astype(np.uint16) | (lengths[order].astype(np.uint16) << np.uint16(8))
    return np.repeat(entries, spans)


def _canonical(lengths: Bytes) -> tuple[Ints, Ints]:
    """Return the symbols in canonical order and the number of 15-bit windows that begin with each."""
    symbols = np.flatnonzero(lengths)
    order = symbols[np.argsort(lengths[symbols], kind="stable")]
    return order, _WINDOWS >> lengths[order].astype(np.int64)


def encode(symbols: Bytes, lengths: Bytes) -> tuple[bytes, Ints]:
    """Return the code words of all symbols and the size of each lane in bits.

    The code words fill whole 16-bit big-endian words. Every symbol that occurs must have a length.
    """
    words = codes(lengths)
    wide = lengths.astype(np.int64)
    lanes = [np.zeros(0, np.int64)]
    total = int((histogram(symbols) * wide).sum())
    stream = np.zeros(-(-total // _WORD_BITS) + 1, np.uint16)
    position = 0
    for begin in range(0, len(symbols), _AT_ONCE):
        part = symbols[begin : begin + _AT_ONCE]
        bits = wide[part]
        ends = np.cumsum(bits)
        _place(stream, words[part], bits, position + ends - bits)
        lanes.append(np.add.reduceat(bits, np.arange(0, len(part), LANE)))
        position += int(ends[-1])
    return stream[:-1].astype(">u2").tobytes(), np.concatenate(lanes)


def _place(stream: Table, words: Ints, bits: Ints, at: Ints) -> None:
    """Add code words to the stream at these bit positions; each touches at most two 16-bit words.

    No two share a bit, so adding equals a bitwise or. A float64 holds the sums exactly.
    """
    index = at >> 4
    first = int(index[0])
    index = index - first
    shifted = words << (2 * _WORD_BITS - bits - (at & (_WORD_BITS - 1)))
    size = int(index[-1]) + 2
    sums = np.bincount(index, shifted >> _WORD_BITS, minlength=size)
    sums += np.bincount(index + 1, shifted & 0xFFFF, minlength=size)
    stream[first : first + size] += sums.astype(np.uint16)


def decode(
    stream: bytes, *, starts: Ints, ends: Ints, sizes: Ints, tables: Table, table_of: Ints
) -> list[Bytes]:
    """Decode all lanes together; return the symbols of each lane.

    Args:
        stream: The bits of all lanes.
        starts: First bit of each lane.
        ends: The bit after the last of each lane.
        sizes: Number of symbols of each lane.
        tables: Decoding tables (`table`), one after another.
        table_of: Index of each lane's table.

    Raises ValueError if a lane does not end where it should.
    """
    order = np.argsort(-sizes, kind="stable")
    at, base = starts[order], table_of[order] * _WINDOWS
    windows = _windows(stream)
    steps = int(sizes.max(initial=0))
    # Lanes are in descending size, so the unfinished ones always come first.
    active = np.searchsorted(-sizes[order], -np.arange(steps), side="left")
    found = np.zeros((steps, len(order)), np.uint8)
    last = len(windows) - 1
    for step, count in enumerate(active.tolist()):
        here = at[:count]
        window = windows[np.minimum(here >> 3, last)] >> (17 - (here & 7))
        entry = tables[base[:count] + (window & (_WINDOWS - 1))]
        found[step, :count] = entry & 0xFF
        here += entry >> 8
    if not np.array_equal(at, ends[order]):
        raise ValueError("a lane does not end at its stated length")
    lanes = found.T
    place = np.argsort(order, kind="stable")
    return [lanes[index, :size] for index, size in zip(place, sizes, strict=True)]


def _windows(stream: bytes) -> Words:
    """Return the 32 bits that begin at every byte."""
    padded = np.frombuffer(stream + bytes(4), np.uint8).astype(np.uint32)
    size = len(padded) - 3
    found = padded[:size].copy()
    for ahead in range(1, 4):
        found = (found << np.uint32(8)) | padded[ahead : ahead + size]
    return found
