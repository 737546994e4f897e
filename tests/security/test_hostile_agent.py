"""Agents that lie: whatever comes is a HarnessError, in time, and leaves nothing behind."""

from __future__ import annotations

import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hostile import BITING, ORDER, hostile_device

from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.framing import JsonLines
from harness.devices.transports.local import LocalTransport
from harness.errors import AgentError, AgentSilent, HarnessError, TransferFailed, TransportError
from harness.farm import contact
from harness.measure import pinning
from harness.measure.sessions import Session
from harness.records.store import codec
from harness.types import Launch

MEGABYTES = 1 << 10
"""Of what getrusage counts on Linux."""


@pytest.fixture
def local() -> Iterator[LocalTransport]:
    transport = LocalTransport()
    yield transport
    transport.close()


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))


def peak_kilobytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def on(verb: str, change: str) -> str:
    """An `evil` that changes the usual answer `a` to one verb, or returns other lines."""
    return f"def evil(request, a):\n if request['verb'] == {verb!r}:\n  {change}\n return [a]\n"


BAD_FACTS = {
    "deep": 'return [b\'{"id":\' + str(request[\'id\']).encode() + b\',"event":"result","v":\''
    " + b'[' * 900 + b']' * 900 + b'}\\n']",
    "very deep": "return [b'[' * 300000 + b'\\n']",
    "twice": 'return [b\'{"id":1,"id":\' + str(request[\'id\']).encode() + b\',"event":"x"}\\n\']',
    "NaN": "a['facts'] = dict(a['facts'], load_1m=float('nan'))",
    "infinite": 'return [b\'{"event":"result","id":1e999}\\n\']',
    "huge integer": "a['facts'] = dict(a['facts'], cores=10**4000)",
    "huger integer": "a['facts'] = dict(a['facts'], cores=10**30)",
    "negative cores": "a['facts'] = dict(a['facts'], cores=-1)",
    "surrogate": "a['facts'] = dict(a['facts'], board='\\ud800')",
    "not UTF-8": 'return [b\'{"a": "\\xff"}\\n\']',
    "long text": "a['facts'] = dict(a['facts'], board='x' * 50000)",
    "long line": "return [b'{\"a\":\"' + b'x' * (3 << 20) + b'\"}\\n']",
    "no end": "return [b'x' * (3 << 20)]",
    "no object": "return [b'[1]\\n']",
    "unknown event": "a['event'] = 'surprise'",
    "no facts": "del a['facts']",
    "facts of another type": "a['facts'] = [1]",
    "runtimes of another type": "a['facts'] = dict(a['facts'], runtimes=[1])",
    "the end": "raise SystemExit",
}


@pytest.mark.parametrize("name", BAD_FACTS)
def test_a_hello_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    device = hostile_device(tmp_path / "board", on("hello", BAD_FACTS[name]))
    with pytest.raises(HarnessError) as caught:
        Session(device)
    assert "bench" in str(caught.value)
    assert len(str(caught.value)) < 2000


BAD_LAUNCHES = {
    "no latency": "a['launch']['columns'] = []",
    "an empty latency": "a['launch']['columns'] = [column('latency', [])]",
    "a latency of 0": "a['launch']['columns'] = [column('latency', [0.0] * 9)]",
    "a negative latency": "a['launch']['columns'] = [column('latency', [-5.0])]",
    "NaN in the column": "a['launch']['columns'] = [column('latency', [float('nan')])]",
    "a series with a quote": "a['launch']['columns'] += [column(\"x'; DROP\", [1.0])]",
    "a series with NUL": "a['launch']['columns'] += [column('x\\0y', [1.0])]",
    "another length": "a['launch']['columns'][0]['n'] = 7",
    "a huge length": "a['launch']['columns'][0]['n'] = 10**12",
    "no base64": "a['launch']['columns'][0]['at'] = 'a b'",
    "many series": "a['launch']['columns'] *= 17",
    "a blob elsewhere": "a['launch']['blob'] = '../../etc/passwd'",
    "a blob that is not there": "a['launch']['blob'] = 'a' * 64",
    "a negative time": "a['launch']['wall_ns'] = -1",
    "a flag that is none": "a['launch']['flags'] = [1]",
    "no delegation's words": "a['launch']['delegation'] = {}",
    "names of megahertz": "a['launch']['before'] = {'seconds_at_mhz': {'x': 'y'}}",
    "a window of words": "a['launch']['window'] = {'start_ns': 'x', 'end_ns': 2}",
    "a window without an end": "a['launch']['window'] = {'start_ns': 1}",
    "a window before the boot": "a['launch']['window'] = {'start_ns': -5, 'end_ns': 2}",
    "a window that is none": "a['launch']['window'] = [1, 2]",
}


@pytest.mark.parametrize("name", BAD_LAUNCHES)
def test_a_launch_that_lies_is_refused(name: str, tmp_path: Path) -> None:
    session = Session(hostile_device(tmp_path / "board", on("launch", BAD_LAUNCHES[name])))
    try:
        with pytest.raises((AgentError, TransferFailed)):
            session.dialect.launch(ORDER)
    finally:
        session.close()


BAD_CLOCKS = {
    "says nothing": "pass",
    "words": "a.update(arrived_ns='x', answered_ns=[])",
    "fractions": "a.update(arrived_ns=0.5, answered_ns=1.5)",
    "before the boot": "a.update(arrived_ns=-1, answered_ns=1)",
    "backwards": "a.update(arrived_ns=9, answered_ns=1)",
    "worked for centuries": "a.update(arrived_ns=0, answered_ns=2**63 - 1)",
    "another time each time": "import random; now = random.randrange(2**62)"
    "; a.update(arrived_ns=now, answered_ns=now)",
    "centuries ahead": "a.update(arrived_ns=2**63 - 1, answered_ns=2**63 - 1)",
    "no clock": "a.update(event='error', kind='protocol', reason='unknown verb')",
}
WINDOWS = {
    "right": (0, 20_000_000),
    "centuries": (0, 2**63 - 1),
    "backwards": (20_000_000, 0),
}


@pytest.mark.parametrize("length", WINDOWS)
@pytest.mark.parametrize("name", BAD_CLOCKS)
def test_a_clock_that_lies_costs_only_the_window(name: str, length: str, tmp_path: Path) -> None:
    start, end = WINDOWS[length]
    evil = (
        f"def evil(request, a):\n if request['verb'] == 'clock':\n  {BAD_CLOCKS[name]}\n"
        " if request['verb'] == 'launch':\n"
        f"  a['launch']['window'] = {{'start_ns': {start}, 'end_ns': {end}}}\n return [a]\n"
    )
    session = Session(hostile_device(tmp_path / "board", evil))
    try:
        sent = time.monotonic_ns()
        launch = session.dialect.launch(ORDER)
        received = time.monotonic_ns()
    finally:
        session.close()
    assert len(launch.samples[0]) == 20
    if launch.window is None:
        assert length == "backwards"
        assert "clock_stepped" in launch.flags
    else:
        assert sent <= launch.window.start_host_ns <= launch.window.end_host_ns <= received
        assert launch.window.uncertainty_ns <= received - sent
        codec.load(Launch, codec.decode(codec.encode(codec.dump(launch))))


BAD_OUTPUTS = {
    "an odd type": "a['outputs'] = [{'name': 'y', 'dtype': 'object', 'shape': [1], 'data': ''}]",
    "a huge shape": "a['outputs'] = [{'name':'y','dtype':'int8','shape':[2**40],'blob':'a'*64}]",
    "a shape of nothing": "a['outputs'] = [{'name':'y','dtype':'int8','shape':[0,2**62],'data':''}]",
    "too many": "a['outputs'] = [{'name':'y','dtype':'int8','shape':[1],'data':'AA=='}] * 1001",
    "too much": "a['outputs'] = [{'name':'y','dtype':'int8','shape':[2**29],'blob':'a'*64}] * 3",
}


@pytest.mark.parametrize("name", BAD_OUTPUTS)
def test_outputs_that_lie_are_refused(name: str, tmp_path: Path) -> None:
    session = Session(hostile_device(tmp_path / "board", on("infer", BAD_OUTPUTS[name])))
    try:
        with pytest.raises((AgentError, TransferFailed)):
            session.dialect.infer(ORDER, {"x": np.zeros((1, 2), np.int8)})
    finally:
        session.close()


@pytest.mark.parametrize("kind", ["pipe", "endless", "link"])
def test_an_output_that_is_no_file_of_its_size_is_refused(kind: str, tmp_path: Path) -> None:
    digest = "b" * 64
    entry = {"name": "y", "dtype": "int8", "shape": [1000], "blob": digest}
    device = hostile_device(tmp_path / "board", on("infer", f"a['outputs'] = [{entry!r}]"))
    session = Session(device)
    there = Path(AgentOptions.of(device).workdir) / "out" / digest
    there.parent.mkdir(exist_ok=True)
    if kind == "pipe":
        os.mkfifo(there)
    else:
        there.symlink_to("/dev/zero" if kind == "endless" else "/etc/passwd")
    try:
        with pytest.raises(TransferFailed):
            session.dialect.infer(ORDER, {"x": np.zeros((1, 2), np.int8)})
    finally:
        session.close()


def test_what_a_device_calls_itself_is_cut_and_kept_apart(tmp_path: Path) -> None:
    long = f"a['facts'] = dict(a['facts'], board='B' * 9000, cores=2**60, hostname={BITING!r})"
    session = Session(hostile_device(tmp_path / "board", on("hello", long)))
    session.close()
    assert len(session.facts.board or "") == 300
    assert session.facts.cores <= 1 << 16


@pytest.mark.parametrize(
    "extra",
    [
        {"usb": 5, "processors": "3", "throttled": "much"},
        {"usb": [{"a": 1}, ["b"]], "processors": ["a", None, {}]},
        {"usb": {"a": 1}, "processors": [10**18, -1, True], "python_bits": [], "throttled": "x"},
    ],
)
def test_extras_of_any_shape_are_only_not_used(extra: dict[str, object], tmp_path: Path) -> None:
    change = f"a['facts'] = dict(a['facts'], extra={extra!r})"
    session = Session(hostile_device(tmp_path / "board", on("hello", change)))
    session.close()
    from harness.config import profiles

    assert pinning.processors(session.facts, 2) == ()
    assert session.facts.processors == ()
    assert (session.facts.throttled, session.facts.python_bits) == (None, None)
    assert contact.survey(session.facts, profiles.load_all())


def test_a_board_cannot_take_a_shipped_profiles_place(tmp_path: Path) -> None:
    change = "a['facts'] = dict(a['facts'], machine='riscv64', board='Raspberry PI 5')"
    session = Session(hostile_device(tmp_path / "board", on("hello", change)))
    session.close()
    made = contact.new_profile(session.facts)
    assert made.name == "raspberry_pi_5"
    with pytest.raises(HarnessError, match="shipped profile"):
        contact.write_profile(tmp_path / "profiles", made)
    assert not (tmp_path / "profiles").exists()


PROGRESS = b'{"id":1,"event":"progress","stage":"started"}\n'


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ('while :; do echo \'{"id":1,"event":"progress"}\'; sleep 0.05; done', "a drip"),
        ('exec yes \'{"id":1,"event":"progress"}\'', "a flood"),
        ("yes >&2 & exec sleep 60", "a flood of words"),
        ("while :; do printf x; sleep 0.05; done", "a line that never ends"),
        ("exec sleep 60", "silence"),
    ],
)
def test_a_deadline_holds_whatever_comes(script: str, words: str, local: LocalTransport) -> None:
    channel = local.talk(["sh", "-c", script])
    lines = JsonLines(channel, words)
    before = peak_kilobytes()
    began = time.monotonic()
    with pytest.raises(AgentSilent):  # noqa: PT012 - the loop is what a dialect does
        while lines.read(began + 0.7).get("event") == "progress":
            pass
    assert time.monotonic() - began < 3.0
    channel.close(grace_seconds=0.0)
    assert peak_kilobytes() - before < 64 * MEGABYTES


def test_who_never_reads_and_always_writes_is_ended(local: LocalTransport) -> None:
    channel = local.talk(["sh", "-c", "exec yes"])
    before = peak_kilobytes()
    with pytest.raises(TransportError, match="unasked"):
        channel.send(b"x" * (4 << 20))
    channel.close()
    assert peak_kilobytes() - before < 64 * MEGABYTES


def test_a_command_that_floods_stderr_ends_at_its_deadline(local: LocalTransport) -> None:
    began = time.monotonic()
    with pytest.raises((AgentSilent, TransportError)):
        local.run(["sh", "-c", "exec 1>&-; exec yes >&2"], 1.0)
    assert time.monotonic() - began < 5.0


def test_noise_before_the_first_object_is_bounded(local: LocalTransport) -> None:
    channel = local.talk(["sh", "-c", "exec yes hello"])
    with pytest.raises(AgentError, match="print to the agent's stdout"):
        JsonLines(channel, "noisy").read(time.monotonic() + 10)
    channel.close(grace_seconds=0.0)


BOOTSTRAPS = {
    "deep": "'[' * 200000",
    "an odd version": '\'{"python": ["x", 1, 2], "sha256": null}\'',
    "a huge version": "'{\"python\": [' + '9' * 5000 + ', 1, 2], \"sha256\": null}'",
    "another digest's type": '\'{"python": [3, 11, 0], "sha256": {}}\'',
    "no object": "'[]'",
    "nothing": "''",
}


@pytest.mark.parametrize("name", BOOTSTRAPS)
def test_a_first_answer_that_is_none(name: str, tmp_path: Path) -> None:
    device = hostile_device(tmp_path / "board")
    liar = Path(AgentOptions.of(device).python)
    liar.write_text(f"#!{sys.executable}\nprint('edge-harness ' + {BOOTSTRAPS[name]})\n")
    with pytest.raises(HarnessError, match="is not a working Python"):
        Session(device)


def test_a_reason_is_cut_and_its_words_are_kept(tmp_path: Path) -> None:
    lie = "return [dict(id=a['id'], event='error', kind='crashed', reason='begin' + 'x' * 19000 + 'end')]"
    session = Session(hostile_device(tmp_path / "board", on("launch", lie)))
    with pytest.raises(HarnessError) as caught:
        session.dialect.launch(ORDER)
    session.close()
    assert "begin" in str(caught.value)
    assert str(caught.value).endswith("end")
    assert len(str(caught.value)) < 4200
