"""A delta gives the new file from the old one, and nothing else."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.demo import DATA
from harness.errors import PayloadError
from harness.tflite import payload
from harness.tflite.payload import delta

DIGITS = (DATA / "digits.tflite").read_bytes()
SOME = st.binary(max_size=2000)


def weights(seed: int, size: int = 200_000) -> bytes:
    return np.random.default_rng(seed).normal(0, 20, size).astype(np.int8).tobytes()


@given(SOME, SOME)
@settings(max_examples=60, deadline=None)
def test_any_two_files(old: bytes, new: bytes) -> None:
    packed = delta.pack(old, new).data
    assert delta.unpack(old, packed, limit=len(new)) == new


@given(st.integers(0, len(DIGITS) - 1), SOME, SOME)
@settings(max_examples=25, deadline=None)
def test_an_edit_of_a_model(place: int, gone: bytes, come: bytes) -> None:
    new = DIGITS[:place] + come + DIGITS[place + len(gone) :]
    packed = delta.pack(DIGITS, new).data
    assert delta.unpack(DIGITS, packed, limit=len(new)) == new
    assert len(packed) < len(come) + 700


def test_the_same_file_is_next_to_nothing() -> None:
    assert len(delta.pack(DIGITS, DIGITS).data) < 150


def test_moved_weights_are_stored_once() -> None:
    old = weights(1) + weights(2)
    new = weights(2) + b"in between" + weights(1)
    found = delta.pack(old, new)
    assert found.way == "prefix"
    assert len(found.data) < 1000
    assert delta.unpack(old, found.data, len(new)) == new


def test_weights_that_changed_a_little_give_a_small_delta() -> None:
    old = np.frombuffer(weights(3), np.int8)
    step = np.random.default_rng(4).choice([-1, 0, 0, 0, 1], old.size).astype(np.int8)
    new = (old + step).tobytes()
    found = delta.pack(old.tobytes(), new)
    assert found.way == "difference"
    # An entropy of 1.37 bits per weight; the whole file needs 6.4.
    assert len(found.data) < 0.35 * len(payload.get("zstd").pack(new))
    assert delta.unpack(old.tobytes(), found.data, len(new)) == new


def test_a_window_reaches_over_a_large_old_file() -> None:
    noise = random.Random(0).randbytes(12_000_000)
    packed = delta.pack(noise, noise[:1_000_000])
    assert len(packed.data) < 1000
    assert delta.unpack(noise, packed.data, 1_000_000) == noise[:1_000_000]


def test_another_old_file_is_refused() -> None:
    packed = delta.pack(b"old one" * 100, b"new one" * 100).data
    with pytest.raises(PayloadError, match="another old file"):
        delta.unpack(b"another" * 100, packed, 10**6)


def test_a_delta_that_gives_more_than_promised_is_refused() -> None:
    for old, new in ((DIGITS, DIGITS + bytes(10**7)), (b"", bytes(10**7))):
        with pytest.raises(PayloadError, match="promised"):
            delta.unpack(old, delta.pack(old, new).data, limit=len(DIGITS))


OLD, NEW = weights(5, 5000), weights(5, 4000) + weights(6, 1000)
GOOD = delta.pack(OLD, NEW).data


@given(st.integers(0, 10**6), st.integers(1, 255))
@settings(max_examples=150, deadline=None)
def test_a_damaged_delta_is_refused(place: int, change: int) -> None:
    bad = bytearray(GOOD)
    bad[place % len(bad)] ^= change
    try:
        found = delta.unpack(OLD, bytes(bad), len(NEW))
    except PayloadError as error:
        assert str(error)
    else:
        # Bits that mean nothing, as in a frame's header.
        assert found == NEW


@given(st.integers(0, len(GOOD) - 1), st.binary(max_size=10))
@settings(max_examples=80, deadline=None)
def test_a_delta_that_was_cut_is_refused(cut: int, tail: bytes) -> None:
    if GOOD[:cut] + tail != GOOD:
        with pytest.raises(PayloadError):
            delta.unpack(OLD, GOOD[:cut] + tail, len(NEW))


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(PayloadError, match="delta"):
        delta.unpack(b"old", data, 1000)
