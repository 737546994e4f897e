"""The host's side: copying the agent to a device, and devices with arbitrary answers."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from agent_lab import digest_of
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.devices import opening
from harness.devices.dialects.python_agent import answers
from harness.devices.dialects.python_agent.answers import Fields
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect, open_json_lines
from harness.devices.framing import MAX_LINE_BYTES, JsonLines, parse
from harness.devices.transports.local import LocalTransport
from harness.errors import (
    AgentError,
    AgentSilent,
    HarnessError,
    RuntimeMissing,
    TransferFailed,
    Unreachable,
)
from harness.types import Device, Dose, LaunchOrder

pytest_plugins = ("agent_fixtures",)

ORDER = LaunchOrder(
    cell_id="c",
    kind="timed",
    block=0,
    position=0,
    variant_digest="0" * 64,
    target="xnnpack",
    threads=1,
    dose=Dose(),
)


class Canned:
    """A channel that sends the given bytes in pieces, and then ends."""

    def __init__(self, data: bytes, piece: int = 7) -> None:
        self._pieces = [data[at : at + piece] for at in range(0, len(data), piece)]

    def send(self, data: bytes) -> None:
        pass

    def read(self, deadline: float) -> bytes:
        return self._pieces.pop(0) if self._pieces else b""

    def errors(self) -> bytes:
        return b"end of stderr"

    def close(self) -> None:
        pass


def lines_of(data: bytes, piece: int = 7) -> JsonLines:
    return JsonLines(Canned(data, piece), "dut")


def soon() -> float:
    return time.monotonic() + 10


# --- framing ---------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.integers(1, 64))
@settings(deadline=None)
def test_any_bytes_give_objects_or_our_errors(data: bytes, piece: int) -> None:
    lines = lines_of(data, piece)
    try:
        while True:
            assert isinstance(lines.read(soon()), dict)
    except (AgentError, Unreachable) as error:
        assert "dut" in str(error)


WHOLE = st.integers(-(2**63), 2**63 - 1)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_an_object_or_a_value_error(value: object) -> None:
    line = json.dumps(value).encode()
    try:
        found = parse(line)
    except ValueError:
        return
    assert isinstance(value, dict)
    assert json.dumps(found, allow_nan=False).encode() == line


@given(st.lists(st.dictionaries(st.text(), WHOLE | st.text(), max_size=3), max_size=5))
@settings(deadline=None)
def test_objects_arrive_as_they_were_sent(messages: list[dict[str, Any]]) -> None:
    lines = lines_of(b"".join(json.dumps(one).encode() + b"\n" for one in messages), 5)
    assert [lines.read(soon()) for _ in messages] == messages
    with pytest.raises(Unreachable, match="end of stderr"):
        lines.read(soon())


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 200_000,
        b'{"a": NaN}',
        b'{"a": 1e999}',
        b'{"a": "\\ud800"}',
        b'{"a": ' + b"9" * 10_000 + b"}",
        b'{"a": "\xff"}',
        '{"a": 1}'.encode("utf-16"),
        b"null",
    ],
    ids=lambda line: repr(line[:14]),
)
def test_a_line_that_is_none_of_ours(line: bytes) -> None:
    lines = lines_of(b'{"id": 1}\n' + line + b"\n", 1 << 16)
    lines.read(soon())
    with pytest.raises(AgentError, match="dut"):
        lines.read(soon())


@pytest.mark.parametrize("end", [b"", b"\n"])
def test_a_line_without_end(end: bytes) -> None:
    lines = lines_of(b"x" * (MAX_LINE_BYTES + 1 + 65536 * (not end)) + end, 65536)
    with pytest.raises(AgentError, match="1 MiB"):
        lines.read(soon())


def test_a_shell_that_greets_is_passed_over_but_not_for_ever() -> None:
    assert lines_of(b"Welcome to pi!\n\n" + b'{"id": 1}\n').read(soon()) == {"id": 1}
    with pytest.raises(AgentError, match="stdout"):
        lines_of(b"Welcome\n" * 20_000, 1000).read(soon())


def test_a_request_over_the_line() -> None:
    with pytest.raises(AgentError, match="blob"):
        lines_of(b"").send({"data": "x" * MAX_LINE_BYTES})


# --- answers ---------------------------------------------------------------------------------------

GOOD_LAUNCH: dict[str, Any] = {
    "launch": {
        "runtime": "ai_edge_litert 2.3.0",
        "delegation": {"delegate": "none", "left": ["ADD"], "evidence": "graph walk"},
        "wall_ns": 5,
        "load_ns": 3,
        "first_ns": 2,
        "warmup": {"inferences": 3, "seconds": 0.5, "steady": True},
        "inferences": 1,
        "window": {"start_ns": 1, "end_ns": 2, "process_start_ns": 0, "process_end_ns": 3},
        "drift": None,
        "cpu_share": 1.0,
        "involuntary_switches": 0,
        "before": {"temperature_c": 40.5},
        "after": {},
        "flags": [],
        "columns": [
            {"series": "latency", "n": 1, "count": 1, "at": "AQAAAAAAAAA=", "value": "AAAAAAAA8D8="}
        ],
        "something new": 1,
    }
}


def no_file(digest: str, size: int) -> bytes:
    raise TransferFailed(digest)


def test_of_many_processes_left_running_the_others_are_counted() -> None:
    names = [f"tool (pid {number})" for number in range(11)]
    for count, others in ((8, ()), (9, ("1 more",)), (11, ("3 more",))):
        answer = {"launch": {**GOOD_LAUNCH["launch"], "left_running": names[:count]}}
        launch = answers.launch(ORDER, Fields("dut", answer), no_file)
        assert launch.left_running == (*names[:8], *others)


def test_a_good_launch_is_read() -> None:
    launch = answers.launch(ORDER, Fields("dut", GOOD_LAUNCH), no_file)
    assert list(launch.samples[0].at_ns) == [1]
    assert list(launch.samples[0].value) == [1.0]
    assert launch.before.temperature_c == 40.5
    stamps = answers.stamps(Fields("dut", GOOD_LAUNCH), 10, 20)
    assert stamps is not None
    assert (stamps.sent_ns, stamps.start_ns, stamps.end_ns, stamps.received_ns) == (10, 1, 2, 20)
    assert (stamps.process_start_ns, stamps.process_end_ns) == (0, 3)
    assert answers.stamps(Fields("dut", {"launch": {}}), 10, 20) is None


def _paths(value: object, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = (
        value.items()
        if isinstance(value, dict)
        else enumerate(value)
        if isinstance(value, list)
        else ()
    )
    return [path, *(found for key, one in inner for found in _paths(one, (*path, key)))]


def _with(value: Any, path: Sequence[Any], new: object) -> Any:
    if not path:
        return new
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = _with(value[path[0]], path[1:], new)
    return copy


@given(st.sampled_from(_paths(GOOD_LAUNCH)), JSON)
@settings(max_examples=400, deadline=None)
def test_a_launch_with_anything_in_it_is_read_or_refused(
    path: tuple[Any, ...], new: object
) -> None:
    _read_or_refuse(
        lambda fields: answers.launch(ORDER, fields, no_file), _with(GOOD_LAUNCH, path, new)
    )
    _read_or_refuse(lambda fields: answers.stamps(fields, 10, 20), _with(GOOD_LAUNCH, path, new))


GOOD_HELLO: dict[str, Any] = {
    "agent": "digest",
    "facts": {
        "identity": "i",
        "hostname": "h",
        "system": "Linux",
        "kernel": "6",
        "machine": "aarch64",
        "cores": 4,
        "python": "3.9.2",
        "runtimes": [{"name": "tflite_runtime", "version": "2.14.0", "numpy": "1.26.4"}],
        "accelerators": [],
        "sensors": ["vcgencmd"],
        "extra": {},
        "free_bytes": 10,
    },
}


@given(st.sampled_from(_paths(GOOD_HELLO)), JSON)
@settings(max_examples=300, deadline=None)
def test_facts_with_anything_in_them_are_read_or_refused(
    path: tuple[Any, ...], new: object
) -> None:
    _read_or_refuse(lambda fields: answers.device_facts(fields, 0.0), _with(GOOD_HELLO, path, new))


@pytest.mark.parametrize(
    "shape", [[True], [0, 1 << 30, 1 << 30, 1 << 30], [1] * 40, [-1], [1.0], "1", None, [1 << 62]]
)
def test_a_shape_that_is_none(shape: object) -> None:
    entry = {"name": "y", "dtype": "int8", "shape": shape, "data": ""}
    with pytest.raises(AgentError, match="dut"):
        answers.outputs(Fields("dut", {"outputs": [entry]}), no_file)


GOOD_INFER: dict[str, Any] = {
    "outputs": [{"name": "y", "dtype": "float32", "shape": [1, 2], "data": "AAAAAAAAgD8="}]
}


@given(st.sampled_from(_paths(GOOD_INFER)), JSON)
@settings(max_examples=300, deadline=None)
def test_outputs_with_anything_in_them_are_read_or_refused(
    path: tuple[Any, ...], new: object
) -> None:
    _read_or_refuse(lambda fields: answers.outputs(fields, no_file), _with(GOOD_INFER, path, new))


def _read_or_refuse(read: Callable[[Fields], object], value: object) -> None:
    try:
        read(Fields("dut", value))
    except HarnessError as error:
        assert "dut" in str(error) or isinstance(error, TransferFailed)


class Scripted(LocalTransport):
    """This machine, but the agent's answers are fixed."""

    def __init__(self, answer: bytes) -> None:
        super().__init__()
        self._answer = answer

    def talk(self, argv: Sequence[str]) -> Any:
        return Canned(self._answer, 1 << 16)


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"id": 1, "event": "error", "kind": "rejected", "reason": "no"}, "ModelRejected"),
        ({"id": 1, "event": "error", "kind": "no_runtime", "reason": "no"}, "RuntimeMissing"),
        ({"id": 1, "event": "error", "kind": "silent", "reason": "no"}, "AgentSilent"),
        ({"id": 1, "event": "error", "kind": "crashed", "reason": "no"}, "Crashed"),
        ({"id": 1, "event": "error", "kind": "out_of_memory", "reason": "no"}, "OutOfMemory"),
        ({"id": 1, "event": "error", "kind": "unsupported", "reason": "no"}, "Unsupported"),
        ({"id": 1, "event": "error", "kind": "transfer_failed", "reason": "no"}, "TransferFailed"),
        ({"id": 1, "event": "error", "kind": "brand new", "reason": "no"}, "AgentError"),
        ({"id": None, "event": "error", "kind": "workdir", "reason": "no"}, "AgentError"),
        ({"id": 1, "event": "error"}, "AgentError"),
        ({"id": 1, "event": "surprise"}, "AgentError"),
        ({"id": None, "event": "result"}, "AgentError"),
        ({"id": [], "event": "result"}, "Unreachable"),
        ({"id": 99, "event": "result"}, "Unreachable"),
    ],
)
def test_error_answers_become_our_errors(
    device: Device, answer: Mapping[str, Any], error: str
) -> None:
    dialect = open_json_lines(Scripted(json.dumps(answer).encode() + b"\n"), device)
    with pytest.raises(HarnessError, match="bench-one") as caught:
        dialect.launch(ORDER)
    assert type(caught.value).__name__ == error


# --- copying the agent -----------------------------------------------------------------------------


def test_no_python_on_the_device(transport: LocalTransport, device: Device) -> None:
    dialect = open_json_lines(transport, opening.with_options(device, python="/no/such/python3"))
    with pytest.raises(RuntimeMissing, match=r"farm\.toml") as caught:
        dialect.deploy({})
    assert "bench-one" in str(caught.value)
    assert "/no/such/python3" in str(caught.value)
    assert "`python`" in str(caught.value)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("""echo 'edge-harness {"python": [3, 8, 10], "sha256": null}'""", r"3\.8\.10.*3\.9"),
        ("""echo 'edge-harness {"python": [2, 7, 18], "sha256": null}'""", r"2\.7\.18"),
        ("echo hello", "not a working Python"),
        ("exit 3", "not a working Python: exit code 3"),
        ("echo 'edge-harness {'", "not a working Python"),
    ],
)
def test_a_python_that_does_not_do(
    transport: LocalTransport, device: Device, tmp_path: Path, script: str, reason: str
) -> None:
    python = tmp_path / "python3"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    with pytest.raises(RuntimeMissing, match=reason):
        open_json_lines(transport, opening.with_options(device, python=str(python))).deploy({})


class Losing(LocalTransport):
    """This machine, but files arrive without their last byte."""

    def put(self, source: Path, destination: str) -> None:
        super().put(source, destination)
        target = Path(destination)
        target.write_bytes(target.read_bytes()[:-1])


class LosingBlobs(Losing):
    def put(self, source: Path, destination: str) -> None:
        if "/agents/" in destination:
            LocalTransport.put(self, source, destination)
        else:
            super().put(source, destination)


def test_an_agent_that_does_not_arrive_whole(device: Device, workdir: Path) -> None:
    with pytest.raises(TransferFailed, match="bench-one"):
        open_json_lines(Losing(), device).deploy({})
    assert not list((workdir / "agents").iterdir())


def test_a_file_that_does_not_arrive_whole(device: Device, workdir: Path, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"x" * 1000)
    dialect = open_json_lines(LosingBlobs(), device)
    with pytest.raises(TransferFailed, match="999 bytes"):
        dialect.deploy({digest_of(source): source})
    assert not list((workdir / "incoming").iterdir())
    assert not list((workdir / "blobs").iterdir())
    dialect.close()


class Deaf(LocalTransport):
    """This machine, but the agent never answers."""

    def talk(self, argv: Sequence[str]) -> Any:
        return super().talk(["/bin/sleep", "600"])


def test_hello_says_what_and_when(dialect: JsonLinesDialect, device: Device) -> None:
    facts = dialect.hello()
    assert len(facts.identity) == 32
    assert facts.identity == dialect.hello().identity
    assert facts.cores >= 1
    assert facts.runtimes[0].name == "ai_edge_litert"
    assert facts.runtimes[0].numpy
    assert facts.free_bytes
    assert facts.boot_id
    assert facts.clock_offset_seconds is not None
    assert abs(facts.clock_offset_seconds) < 0.5


def test_a_clock_a_day_off_is_seen(device: Device) -> None:
    day = 86_400 * 10**9
    now = time.time_ns()
    answer = {
        "id": 1,
        "event": "result",
        **GOOD_HELLO,
        "received_ns": now + day,
        "answered_ns": now + day,
    }
    facts = open_json_lines(Scripted(json.dumps(answer).encode() + b"\n"), device).hello()
    assert facts.clock_offset_seconds == pytest.approx(86_400, abs=5)


def test_close_never_raises_and_may_be_repeated(dialect: JsonLinesDialect) -> None:
    dialect.close()
    dialect.hello()
    dialect.close()
    dialect.close()


def test_an_agent_that_stops_answering(device: Device) -> None:
    transport = Deaf()
    dialect = open_json_lines(transport, device)
    # The dialect waits a grace of 20 s longer than the agent's own deadline.
    with pytest.raises(AgentSilent):
        dialect.launch(replace(ORDER, timeout_seconds=-19.5))
    transport.close()
