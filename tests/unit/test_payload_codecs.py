"""Every codec gives back what it was given, and refuses what it did not pack."""

from __future__ import annotations

import gzip
import lzma
import random
import subprocess
import sys
import zlib
from pathlib import Path

import brotli
import pytest
import zstandard
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shared_data import shared_folder

from harness.demo import DATA
from harness.errors import PayloadError
from harness.tflite import payload
from harness.tflite.payload import codecs

DIGITS = (DATA / "digits.tflite").read_bytes()
BESIDE = shared_folder()
MODELS = [DATA / "digits.tflite", *(sorted((BESIDE / "kws").glob("*.tflite")) if BESIDE else [])]
NAMES = ("zstd", "brotli", "gzip", "xz", "huffman")
QUICK = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)

# Plain noise never repeats itself; real files do.
CONTENT = st.one_of(
    st.binary(max_size=3000),
    st.builds(
        lambda seed, size, few: bytes(random.Random(seed).choices(range(few), k=size)),
        st.integers(0, 1000),
        st.integers(0, 10_000),
        st.integers(1, 256),
    ),
    st.builds(lambda piece, times: piece * times, st.binary(max_size=50), st.integers(0, 400)),
)


@pytest.fixture(params=NAMES, name="codec")
def _codec(request: pytest.FixtureRequest) -> payload.Codec:
    return payload.get(request.param)


def test_the_names_are_these() -> None:
    assert payload.names() == NAMES
    with pytest.raises(PayloadError, match='did you mean "zstd"'):
        payload.get("zsdt")


@given(data=CONTENT)
@QUICK
def test_unpacking_returns_the_packed_bytes(codec: payload.Codec, data: bytes) -> None:
    packed = codec.pack(data)
    assert codec.unpack(packed, limit=len(data)) == data
    assert packed == codec.pack(data)


@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.name)
def test_a_model_comes_back_smaller(codec: payload.Codec, model: Path) -> None:
    data = model.read_bytes()
    packed = codec.pack(data)
    assert len(packed) < len(data)
    assert codec.unpack(packed, limit=len(data)) == data


def test_others_read_what_we_pack_and_the_reverse() -> None:
    def unpack(name: str) -> bytes:
        return payload.get(name).pack(DIGITS)

    assert gzip.decompress(unpack("gzip")) == DIGITS
    assert lzma.decompress(unpack("xz")) == DIGITS
    assert brotli.decompress(unpack("brotli")) == DIGITS
    assert zstandard.ZstdDecompressor().decompress(unpack("zstd")) == DIGITS
    assert payload.get("gzip").unpack(gzip.compress(DIGITS, 1), len(DIGITS)) == DIGITS
    assert payload.get("xz").unpack(lzma.compress(DIGITS), len(DIGITS)) == DIGITS


def test_a_small_file_needs_a_small_dictionary_on_the_device() -> None:
    packed = payload.get("xz").pack(DIGITS)
    assert lzma.LZMADecompressor(memlimit=2_000_000).decompress(packed) == DIGITS
    with pytest.raises(lzma.LZMAError, match="limit"):
        lzma.LZMADecompressor(memlimit=2_000_000).decompress(lzma.compress(DIGITS, preset=9))


# --- what is not what was packed -----------------------------------------------------------------


@given(data=st.binary(max_size=400))
@QUICK
def test_any_bytes_are_unpacked_or_refused(codec: payload.Codec, data: bytes) -> None:
    try:
        assert len(codec.unpack(data, limit=1000)) <= 1000
    except PayloadError as error:
        assert codec.name in str(error)


@given(cut=st.integers(0, 10**6))
@QUICK
def test_a_payload_that_was_cut_is_refused(codec: payload.Codec, cut: int) -> None:
    packed = _packed(codec.name)
    with pytest.raises(PayloadError, match=codec.name):
        codec.unpack(packed[: cut % len(packed)], limit=len(DIGITS))


@given(tail=st.binary(min_size=1, max_size=40))
@QUICK
def test_a_payload_with_a_tail_is_refused(codec: payload.Codec, tail: bytes) -> None:
    with pytest.raises(PayloadError, match=codec.name):
        codec.unpack(_packed(codec.name) + tail, limit=len(DIGITS))


@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
@QUICK
def test_a_flipped_bit_is_refused_or_keeps_the_promise(
    codec: payload.Codec, place: int, bit: int
) -> None:
    packed = bytearray(_packed(codec.name))
    packed[place % len(packed)] ^= 1 << bit
    try:
        found = codec.unpack(bytes(packed), limit=len(DIGITS))
    except PayloadError as error:
        assert codec.name in str(error)
    else:
        # brotli and our zstd frames have no checksum; the digest of the whole file finds it.
        assert len(found) <= len(DIGITS)
        assert codec.name in {"brotli", "zstd"} or found == DIGITS


_CACHE: dict[str, bytes] = {}


def _packed(name: str) -> bytes:
    if name not in _CACHE:
        _CACHE[name] = payload.get(name).pack(DIGITS)
    return _CACHE[name]


def test_a_decompression_bomb_is_refused_early(codec: payload.Codec) -> None:
    zeros = bytes(64_000_000)
    bombs = {
        "huffman": lambda: _huffman_bomb(len(zeros)),
        "brotli": lambda: brotli.compress(zeros, quality=1),
    }
    bomb = bombs.get(codec.name, lambda: codec.pack(zeros))()
    assert len(bomb) < 1_000_000
    with pytest.raises(PayloadError, match=r"1,000 (bytes )?promised|1,000 promised"):
        codec.unpack(bomb, limit=1000)


def _huffman_bomb(size: int) -> bytes:
    """An honest container: everything is in the deflated rest."""
    from harness.tflite.payload import huffman

    side = zlib.compress(bytes(size), 9)
    head = huffman._HEADER.pack(b"EHHF", 1, 0, size, 0, len(side))
    return head + side


def test_a_zstd_frame_with_a_wrong_size_is_refused() -> None:
    frame = zstandard.ZstdCompressor(write_content_size=False).compress(bytes(10**6))
    with pytest.raises(PayloadError, match="promised"):
        payload.get("zstd").unpack(frame, limit=10**7)


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(codecs._PACKAGES, "brotli", "no_such_package")
    with pytest.raises(PayloadError, match=r"no_such_package.*edge-harness\[light\]"):
        payload.get("brotli")
    found = payload.payload_report(DATA / "digits.tflite", only=["brotli", "gzip"]).packed
    assert [one.bytes is None for one in found] == [True, False]
    assert found[0].missing


def test_the_package_is_light_to_import() -> None:
    script = (
        "import sys, harness.tflite.payload\n"
        "heavy = {'zstandard', 'brotli', 'ai_edge_litert', 'tensorflow', 'pandas', 'duckdb'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True)
    assert done.stdout.decode().strip() == "[]"
