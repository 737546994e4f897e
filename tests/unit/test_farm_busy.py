from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.farm import busy
from harness.farm.busy import BusyProcess, read, read_owners


def stat(pid: int, name: str, ticks: int, flags: int = 0x400000, start: int = 77) -> str:
    """Format a line of /proc/PID/stat as in proc(5)."""
    before = f"{pid} ({name}) S 1 1 1 0 -1 {flags} 10 0 0 0"
    return f"{before} {ticks} {ticks // 10} 0 0 20 0 1 0 {start} 0 0"


def answer(first: list[str], second: list[str], *, seconds: float = 0.5) -> bytes:
    lines = ["Welcome", "edge-harness-busy 100", "100.00 50.00", *first, "edge-harness-busy again"]
    lines += [f"{100 + seconds:.2f} 50.00", *second, "edge-harness-busy end", ""]
    return "\n".join(lines).encode()


def test_busy_processes_are_listed_and_idle_ones_are_not() -> None:
    first = [stat(7, "ffmpeg", 1000), stat(8, "x" * 99, 0), stat(9, "sshd", 10)]
    second = [stat(7, "ffmpeg", 1090), stat(8, "x" * 99, 5), stat(9, "sshd", 11)]
    assert read(answer(first, second)) == (
        BusyProcess(pid=7, name="ffmpeg", share=1.98),
        BusyProcess(pid=8, name="x" * 40, share=0.1),
    )


def test_a_process_name_may_contain_anything() -> None:
    name = "a) S (b\x1b[31m) 1 1"
    assert read(answer([stat(7, name, 0)], [stat(7, name, 50)])) == (
        BusyProcess(pid=7, name="a) S (b[31m) 1 1", share=1.1),
    )


def test_kernel_threads_and_processes_that_started_or_ended_do_not_count() -> None:
    kernel = 0x200000
    first = [stat(2, "kworker", 0, kernel), stat(7, "gone", 0), stat(8, "again", 0, start=1)]
    second = [stat(2, "kworker", 50, kernel), stat(9, "new", 50), stat(8, "again", 50, start=2)]
    assert read(answer(first, second)) == ()


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"edge-harness-busy 100\n1.0 1\n",
        answer([], [], seconds=0.0),
        answer([], []).replace(b"100.00", b"x"),
        answer([], []).replace(b"busy 100", b"busy 0"),
        answer([], []).replace(b"busy 100", b"busy 9999999"),
    ],
)
def test_an_invalid_answer_is_none(line: bytes) -> None:
    assert read(line) is None


@given(
    st.binary()
    | st.tuples(st.lists(st.text()), st.lists(st.text())).map(
        lambda both: answer(*both) if all("\0" not in one for one in both[0]) else b""
    )
    | st.lists(st.integers(), min_size=20).map(
        lambda many: answer([f"1 (x) S {many}"], ["1 (x) " + " ".join(map(str, many))])
    )
)
def test_any_bytes_are_an_answer_or_none(line: bytes) -> None:
    found = read(line)
    assert found is None or all(one.share >= 0.1 for one in found)


def test_a_real_shell_runs_the_script() -> None:
    reply = subprocess.run(["sh", "-c", busy._SCRIPT], capture_output=True, check=True)
    assert read(reply.stdout) is not None


def test_the_owners_of_processes() -> None:
    listed = b"dr-xr-xr-x 9 1000 1000 0 Nov 30 10:00 /proc/1\nls: no such file\nd 1 0 0 x\n"
    assert read_owners(listed) == {1000, 0}


@given(st.binary())
def test_any_listing_gives_user_ids(listed: bytes) -> None:
    assert all(number >= 0 for number in read_owners(listed))
