from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.farm.busy import Busy, read


def test_the_busy_are_named_and_the_idle_are_not() -> None:
    line = json.dumps([[1.98, 7, "ffmpeg"], [0.11, 8, "x" * 99], [0.02, 9, "sshd"]])
    assert read(line.encode()) == (
        Busy(pid=7, name="ffmpeg", share=1.98),
        Busy(pid=8, name="x" * 40, share=0.11),
    )


@pytest.mark.parametrize("line", [b"", b"null", b"[[1, 2]]", b'[["a", 1, "x"]]', b"{", b"[1e999]"])
def test_what_is_no_answer(line: bytes) -> None:
    assert read(line) is None


@given(
    st.binary()
    | st.recursive(st.none() | st.floats() | st.text(), st.lists).map(json.dumps).map(str.encode)
)
def test_whatever_is_said_it_is_an_answer_or_none(line: bytes) -> None:
    found = read(line)
    assert found is None or all(one.share >= 0.1 for one in found)
