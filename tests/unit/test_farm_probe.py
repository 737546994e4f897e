from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.farm.probe import Probe, read
from harness.farm.wheels import Site

ANSWER: dict[str, Any] = {
    "version": [3, 11, 2],
    "bits": 32,
    "machine": "aarch64",
    "libc": "glibc 2.36",
    "free_bytes": 10**9,
    "noexec": False,
    "implementation": "cpython",
    "free_threaded": False,
    "numpy": "1.24.2",
}
OTHER = st.none() | st.booleans() | st.integers() | st.floats() | st.text()
JSON = st.recursive(OTHER, lambda one: st.lists(one) | st.dictionaries(st.text(), one))


def line(answer: object) -> bytes:
    return json.dumps(answer).encode()


def test_a_32_bit_system_on_a_64_bit_kernel() -> None:
    probe = read(line(ANSWER))
    assert (probe.version, probe.noexec) == ((3, 11, 2), False)
    assert Site.of(probe) == Site(
        python=(3, 11), arch="armv7l", glibc=(2, 36), numpy="1.24.2", plain=True
    )


@given(st.sampled_from(sorted(ANSWER)), JSON)
def test_a_field_of_another_type_is_refused_or_typed(key: str, value: object) -> None:
    try:
        probe = read(line({**ANSWER, key: value}))
    except (ValueError, KeyError, TypeError):
        return
    site = Site.of(probe)
    assert str(site).isprintable()
    assert len(site.platforms) < 1100
    assert all(type(part) is int for part in probe.version)
    assert probe.free_bytes is None or type(probe.free_bytes) is int


@given(JSON.map(line) | st.binary())
def test_any_bytes_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError, TypeError)):
        read(data)


def test_an_old_python_omits_fields() -> None:
    short = {key: ANSWER[key] for key in ("version", "bits", "machine")}
    assert read(line({**short, "version": [2, 7, 18]})) == Probe(
        version=(2, 7, 18),
        bits=32,
        machine="aarch64",
        free_bytes=None,
        noexec=None,
    )
