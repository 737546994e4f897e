"""Canonical Huffman coding of bytes, order 0, in numpy.

Code lengths are the best ones of at most 15 bits: package-merge (Larmore, Hirschberg: A fast
algorithm for optimal length-limited Huffman codes, JACM 37, 1990). They satisfy Kraft's inequality
with equality, so every 15-bit window begins with exactly one code word. Codes are canonical: sorted
by length, then by symbol, counted upwards (as in RFC 1951, 3.2.2), so that the lengths say all.

Symbols are coded in lanes of 4,096 whose lengths in bits are kept: the lanes are decoded side by
side, one symbol of each in one step, which is what makes it fast without a loop over all symbols.
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
"""A length fits half a byte, a lane's length in bits 16 bits, a decoding table 64 KiB."""

LANE = 4096
WORD_BYTES = 2
_WORD_BITS = 16
_WINDOWS = 1 << MAX_BITS
_AT_ONCE = 64 * LANE
"""Symbols coded in one step: what it needs of memory stays under 20 MB."""


def histogram(symbols: Bytes) -> Ints:
    """Count each of the 256 symbols."""
    return np.bincount(symbols, minlength=SYMBOLS).astype(np.int64)


def entropy_bits(counts: Ints) -> float:
    """Return n times the Shannon entropy of order 0, in bits: no code of single bytes is shorter."""
    present = counts[counts > 0].astype(np.float64)
    total = present.sum()
    return float(total * np.log2(total) - (present * np.log2(present)).sum()) if total else 0.0


def code_lengths(counts: Ints) -> Bytes:
    """Return the 256 optimal code lengths in bits, 0 for a symbol that does not occur.

    Where only one symbol occurs, its neighbour gets a code as well, so that the code is complete.
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
    # Of each row the cheapest are taken: the leaves among them get a bit more, and each package
    # among them takes two of the row it was made from.
    for is_leaf in reversed(leaves):
        taken = int(np.count_nonzero(is_leaf[: max(take, 0)]))
        lengths[symbols[:taken]] += 1
        take = 2 * (take - taken)
    return lengths


def _merged(weights: Ints) -> list[np.ndarray[Any, np.dtype[np.bool_]]]:
    """Return which entries of each of the MAX_BITS sorted rows are leaves, the others packages."""
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
    """Tell whether these lengths satisfy Kraft's inequality with equality."""
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
    """Return, for every 15-bit window, the symbol it begins with and its length (high byte)."""
    order, spans = _canonical(lengths)
    entries = order.astype(np.uint16) | (lengths[order].astype(np.uint16) << np.uint16(8))
    return np.repeat(entries, spans)


def _canonical(lengths: Bytes) -> tuple[Ints, Ints]:
    """Return the symbols in canonical order and how many 15-bit windows each begins."""
    symbols = np.flatnonzero(lengths)
    order = symbols[np.argsort(lengths[symbols], kind="stable")]
    return order, _WINDOWS >> lengths[order].astype(np.int64)


def encode(symbols: Bytes, lengths: Bytes) -> tuple[bytes, Ints]:
    """Return the code words of all symbols, as whole 16-bit big-endian words, and each lane's bits.

    Every symbol that occurs must have a length.
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
    """Add code words to the stream at these bit positions; one touches at most two 16-bit words.

    No two share a bit, so adding is the same as or-ing, and a float64 holds the sums exactly.
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
    stream: bytes, *, starts: Ints, ends: Ints, sizes: Ints, tables: Table, which: Ints
) -> list[Bytes]:
    """Decode lanes side by side; returns the symbols of each.

    Args:
        stream: The bits of all lanes.
        starts: First bit of every lane.
        ends: The bit after its last.
        sizes: Symbols of every lane.
        tables: Decoding tables (`table`), one after another.
        which: The table of every lane.

    Raises ValueError where a lane does not end where it should.
    """
    order = np.argsort(-sizes, kind="stable")
    at, base = starts[order], which[order] * _WINDOWS
    windows = _windows(stream)
    steps = int(sizes.max(initial=0))
    # Lanes by falling size: those not at their end yet are always the first.
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
        raise ValueError("a lane ends somewhere else than its length says")
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
