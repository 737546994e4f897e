"""Canonical Huffman against a textbook one, the entropy, Kraft, and hostile containers."""

from __future__ import annotations

import heapq
import math
import random
import struct
import time
import zlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.demo import DATA
from harness.errors import PayloadError
from harness.tflite import flatbuffer
from harness.tflite.payload import canonical, constants, huffman
from harness.tflite.payload.canonical import LANE, MAX_BITS
from harness.tflite.payload.huffman import Huffman

DIGITS = (DATA / "digits.tflite").read_bytes()
CODEC = Huffman()


def some_counts(seed: int, symbols: int, spread: float) -> list[int]:
    """Counts of many symbols, log-normally unlike."""
    drawn = np.random.default_rng(seed).lognormal(3, spread, symbols)
    return [int(count) for count in np.minimum(drawn, 10**9)]


COUNTS = st.one_of(
    st.lists(st.integers(0, 10**6), max_size=20),
    st.builds(some_counts, st.integers(0, 10**6), st.integers(1, 256), st.floats(0, 5)),
).filter(any)
# Fibonacci counts give the deepest of all trees: past 15 bits from the 17th on.
FIBONACCI = [1, 1]
while len(FIBONACCI) < 40:
    FIBONACCI.append(sum(FIBONACCI[-2:]))


def textbook(counts: list[int]) -> tuple[int, int]:
    """Total bits and the longest code of a plain Huffman tree (Huffman 1952)."""
    heap = [(count, 0) for count in counts if count]
    if len(heap) == 1:
        return heap[0][0], 1
    heapq.heapify(heap)
    total = 0
    while len(heap) > 1:
        (a, deep), (b, deeper) = heapq.heappop(heap), heapq.heappop(heap)
        total += a + b
        heapq.heappush(heap, (a + b, max(deep, deeper) + 1))
    return total, heap[0][1]


def entropy_bits(counts: list[int]) -> float:
    total = sum(counts)
    return -sum(count * math.log2(count / total) for count in counts if count)


def bits_of(counts: list[int]) -> tuple[int, np.ndarray]:
    lengths = canonical.code_lengths(np.array(counts, np.int64))
    return int((np.array(counts) * lengths).sum()), lengths


@given(COUNTS)
@settings(max_examples=150, deadline=None)
def test_lengths_are_as_good_as_the_textbook(counts: list[int]) -> None:
    counts = [*counts, *[0] * (256 - len(counts))]
    total, lengths = bits_of(counts)
    best, deepest = textbook(counts)
    assert total == best if deepest <= MAX_BITS else total >= best
    assert all(length for count, length in zip(counts, lengths, strict=True) if count)
    assert sum(2.0 ** -int(length) for length in lengths if length) == 1.0
    assert entropy_bits(counts) - 1e-6 <= total <= entropy_bits(counts) + sum(counts)
    assert canonical.entropy_bits(np.array(counts)) == pytest.approx(entropy_bits(counts), abs=1e-3)


@pytest.mark.parametrize("symbols", [2, 15, 16, 17, 25, 40])
def test_lengths_end_at_the_limit(symbols: int) -> None:
    counts = FIBONACCI[:symbols] + [0] * (256 - symbols)
    total, lengths = bits_of(counts)
    best, deepest = textbook(counts)
    assert lengths.max() == min(deepest, MAX_BITS)
    assert canonical.is_complete(lengths)
    # Cutting a tree of 39 levels down to 15 costs little, and nothing if it fits.
    assert best <= total <= best * (1 if deepest <= MAX_BITS else 1.01)


def test_codes_are_those_of_rfc_1951() -> None:
    # Its own example, section 3.2.2: lengths of A to H, and the codes they give.
    lengths = np.zeros(256, np.uint8)
    lengths[65:73] = (3, 3, 3, 3, 3, 2, 4, 4)
    words = canonical.codes(lengths)
    found = [format(words[65 + i], f"0{lengths[65 + i]}b") for i in range(8)]
    assert found == ["010", "011", "100", "101", "110", "00", "1110", "1111"]


@given(st.integers(0, 10**6), st.integers(1, 3 * LANE), st.integers(1, 256))
@settings(max_examples=40, deadline=None)
def test_a_stream_is_the_code_words_one_after_another(seed: int, size: int, few: int) -> None:
    data = bytes(random.Random(seed).choices(range(few), k=size))
    symbols = np.frombuffer(data, np.uint8)
    lengths = canonical.code_lengths(canonical.histogram(symbols))
    words = canonical.codes(lengths)
    stream, lanes = canonical.encode(symbols, lengths)
    plain = "".join(format(words[symbol], f"0{lengths[symbol]}b") for symbol in data)
    assert "".join(f"{byte:08b}" for byte in stream).rstrip("0") == plain.rstrip("0")
    assert len(stream) == -(-len(plain) // 16) * 2
    assert lanes.sum() == len(plain)
    assert len(lanes) == -(-size // LANE)


@pytest.mark.parametrize("size", [1024, LANE, LANE + 1, 70 * LANE + 3])
@pytest.mark.parametrize("kind", ["one symbol", "two symbols", "skewed", "noise"])
def test_a_buffer_comes_back(size: int, kind: str) -> None:
    rng = np.random.default_rng(7)
    data = {
        "one symbol": np.full(size, 200, np.uint8),
        "two symbols": rng.integers(0, 2, size).astype(np.uint8),
        "skewed": np.minimum(rng.geometric(0.5, size), 255).astype(np.uint8),
        "noise": rng.integers(0, 256, size).astype(np.uint8),
    }[kind].tobytes()
    packed = CODEC.pack(data)
    assert CODEC.unpack(packed, len(data)) == data
    counts = list(Counter(data).values())
    header = 29 + 16 + 128 + 2 * (size // LANE + 1) + 100
    assert entropy_bits(counts) / 8 <= len(packed) <= entropy_bits(counts) / 8 + size / 8 + header


def test_a_model_stands_between_its_bounds() -> None:
    found = huffman.weights(DIGITS)
    spans = constants.spans(DIGITS, huffman.MIN_BYTES)
    entropy = sum(entropy_bits(list(Counter(DIGITS[a:b]).values())) for a, b in spans) / 8
    assert found.buffers == len(spans) > 3
    assert found.weights_bytes == sum(b - a for a, b in spans)
    assert found.entropy_bytes == math.ceil(entropy)
    assert found.entropy_bytes <= found.coded_bytes <= found.entropy_bytes + found.weights_bytes / 8
    assert found.coded_bytes < len(CODEC.pack(DIGITS)) < len(DIGITS)


def test_buffers_are_where_the_runtime_has_them() -> None:
    # The generated reader of the format is the independent source.
    facts = flatbuffer.read(DATA / "digits.tflite")
    large = sorted(w.bytes for w in facts.weights if w.bytes >= huffman.MIN_BYTES)
    spans = constants.spans(DIGITS, huffman.MIN_BYTES)
    assert sorted(end - begin for begin, end in spans) == large


@given(st.integers(0, 10**9), st.binary(min_size=1, max_size=8), st.integers(0, 10**6))
@settings(max_examples=200, deadline=None)
def test_a_damaged_model_is_still_only_bytes(place: int, new: bytes, cut: int) -> None:
    data = bytearray(DIGITS[: 8 + cut % len(DIGITS)])
    place %= len(data)
    data[place : place + len(new)] = new
    spans = constants.spans(bytes(data), 1)
    edges = [edge for span in spans for edge in span]
    assert edges == sorted(edges)
    assert not edges or (edges[0] >= 0 and edges[-1] <= len(data))


def test_a_file_that_claims_overlapping_buffers_comes_back() -> None:
    # The same buffer listed twice, and a vector longer than the file.
    (root,) = struct.unpack_from("<I", DIGITS)
    data = bytearray(DIGITS)
    begin, _ = constants.spans(DIGITS, huffman.MIN_BYTES)[0]
    struct.pack_into("<I", data, begin - 4, 2**31)
    assert constants.spans(bytes(data), 1) == [(0, len(data))]
    assert CODEC.unpack(CODEC.pack(bytes(data)), len(data)) == bytes(data)
    assert root < len(DIGITS)


# --- containers that nobody packed ---------------------------------------------------------------


PACKED = CODEC.pack(DIGITS[:9000])
HEADER = huffman._HEADER


def rebuilt(side: bytes, **changes: int) -> bytes:
    """The container with another side, and other numbers in its header."""
    names = ("magic", "version", "checksum", "size", "count", "side_bytes")
    head = dict(zip(names, HEADER.unpack_from(PACKED), strict=True))
    stream = PACKED[HEADER.size + head["side_bytes"] :]
    squeezed = zlib.compress(side)
    head |= {"side_bytes": len(squeezed), **changes}
    return HEADER.pack(*head.values()) + squeezed + stream


def inflated() -> bytes:
    side = HEADER.unpack_from(PACKED)[5]
    return zlib.decompress(PACKED[HEADER.size : HEADER.size + side])


def test_the_container_can_be_taken_apart() -> None:
    assert CODEC.unpack(rebuilt(inflated()), 9000) == DIGITS[:9000]


@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=16))
@settings(max_examples=200, deadline=None)
def test_any_side_is_read_or_refused(place: int, new: bytes) -> None:
    side = bytearray(inflated())
    place %= len(side)
    side[place : place + len(new)] = new
    try:
        assert CODEC.unpack(rebuilt(bytes(side)), 9000) == DIGITS[:9000]
    except PayloadError as error:
        assert "huffman" in str(error)


@given(
    st.dictionaries(
        st.sampled_from(["version", "checksum", "size", "count", "side_bytes"]), st.integers(0, 255)
    )
)
@settings(max_examples=100, deadline=None)
def test_any_header_is_read_or_refused(changes: dict[str, int]) -> None:
    try:
        assert CODEC.unpack(rebuilt(inflated(), **changes), 9000) == DIGITS[:9000]
    except PayloadError as error:
        assert "huffman" in str(error)


@pytest.mark.parametrize(
    ("side", "message"),
    [
        (struct.pack("<QQ", 0, 2**62), "overlap or lie outside"),
        (struct.pack("<QQ", 2**63, 2**63), "overlap or lie outside"),
        (struct.pack("<QQ", 0, 1), "overlap or lie outside"),
        (struct.pack("<QQ", 0, 9000) + bytes(128), "not complete"),
        (struct.pack("<QQ", 0, 9000) + b"\x11" * 128, "not complete"),
        (b"", "huffman"),
        (bytes(10**6), "too long"),
    ],
)
def test_a_wrong_side_part_is_refused(side: bytes, message: str) -> None:
    with pytest.raises(PayloadError, match=message):
        CODEC.unpack(rebuilt(side), 9000)


def test_four_megabytes_take_seconds_at_most() -> None:
    data = np.random.default_rng(0).normal(0, 12, 4_000_000).astype(np.int8).tobytes()
    began = time.monotonic()
    assert CODEC.unpack(CODEC.pack(data), len(data)) == data
    # About 1 s on a slow core; a loop over the symbols in Python would take many.
    assert time.monotonic() - began < 10
