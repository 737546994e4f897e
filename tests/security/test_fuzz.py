"""Fuzzers of every module that reads data from a device, and a test that none is missing."""

from __future__ import annotations

import ast
import io
import json
import os
import random
import re
import subprocess
import sys
import time
from array import array
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from fuzzed import FUZZERS, NOT_A_DEVICE
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from harness.analysis.layers import tool, tool_log
from harness.config import profiles
from harness.devices.dialects.python_agent import answers, bootstrap
from harness.devices.dialects.python_agent.answers import Fields
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect
from harness.devices.transports import space
from harness.devices.transports.ssh import channel as ssh_channel
from harness.devices.transports.ssh import command_files
from harness.errors import HarnessError
from harness.farm import cleaning, contact, setup
from harness.farm.setup import Installation
from harness.measure import pinning, thermal
from harness.protocols import Reply
from harness.records.store import codec, journal
from harness.testing import FakeDialect, FakeTransport
from harness.types import Device, Launch

ROOT = Path(__file__).resolve().parents[2]
AGENT = ROOT / "agents" / "python_tflite"
DEVICE = Device(
    name="dut",
    profile="p",
    address="local:",
    dialect_options={"python": "python3", "workdir": "/w"},
)

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats()
    | st.text(max_size=30)
    | st.sampled_from(["9" * 400, "\x1b[2J", "-1", "1e999", "a" * 500]),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)
DIGITS = st.from_regex(r"[0-9]{1,30}", fullmatch=True) | st.sampled_from(
    ["9" * 5000, "-" * 9 + "5", "\u0663", "1_0", "0x1", "1e9", "--5", "nan", ""]
)


class Saying(FakeTransport):
    """A device that answers every command with these bytes."""

    def __init__(self, stdout: bytes, stderr: bytes = b"", exit_code: int = 0) -> None:
        super().__init__(DEVICE)
        self.said = stdout, stderr, exit_code

    def run(self, argv: Any, timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        stdout, stderr, code = self.said
        return Reply(argv=tuple(argv), exit_code=code, stdout=stdout, stderr=stderr, seconds=0.1)

    def talk(self, argv: Any) -> Any:
        return RecordedChannel(self.said[0])


class RecordedChannel:
    """A channel that sends these bytes and ends."""

    def __init__(self, data: bytes) -> None:
        self.pieces = [data[at : at + 50] for at in range(0, len(data), 50)]

    def send(self, data: bytes) -> None:
        pass

    def read(self, deadline: float) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def errors(self) -> bytes:
        return b"\x1b[31mend of stderr"

    def close(self) -> None:
        pass


# --- no module is missing ---------------------------------------------------------------------------

READS = re.compile(r"\.stdout\b|\.read\(deadline\)|_channel\.recv\b|reply\.stderr")
"""The calls with which a module reads a device's data: from a reply, or from a channel."""

PARSERS = ("answers.py", "framing.py", "tool_log.py", "flatbuffer.py", "codecs.py", "codec.py")
"""Modules that get a device's data from other modules."""


def reading_modules() -> set[str]:
    found = set()
    for package in ("devices", "farm", "measure", "analysis", "tflite"):
        for path in (ROOT / "harness" / package).rglob("*.py"):
            text = path.read_text(encoding="utf-8")
            if READS.search(text) or path.name in PARSERS:
                found.add(str(path.relative_to(ROOT)))
    for path in (ROOT / "harness" / "records").rglob("*.py"):
        if path.name in PARSERS:
            found.add(str(path.relative_to(ROOT)))
    return found


def test_every_reader_of_a_device_has_a_fuzzer() -> None:
    known = {*FUZZERS, *NOT_A_DEVICE}
    forgotten = reading_modules() - known
    assert not forgotten, f"write a fuzzer for these and name it in fuzzed.py: {forgotten}"
    assert not [name for name in known if not (ROOT / name).is_file()]


@pytest.mark.parametrize("module", FUZZERS)
def test_every_fuzzer_is_there_and_fuzzes(module: str) -> None:
    for named in FUZZERS[module]:
        file, _, test = named.partition("::")
        tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
        functions = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        assert test in functions, named
        decorators = [ast.unparse(one) for one in functions[test].decorator_list]
        assert any(one.startswith(("given", "pytest.mark.parametrize")) for one in decorators)


# --- dialects -------------------------------------------------------------------------------------


@given(st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b'{"python": [' + b"9" * 5000 + b', 1, 2], "sha256": null}')
@example(b'{"python": [3, 11, 2], "sha256": "x", "trouble": "\\ud800"}')
@settings(deadline=None)
def test_the_first_answer(data: bytes) -> None:
    with suppress(HarnessError):
        found = bootstrap._inspect(
            Saying(b"noise\nedge-harness " + data), DEVICE, "/w/agents/x.zip"
        )
        assert found is None or isinstance(found, str)


LINES = st.lists(
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.fixed_dictionaries(
        {
            "id": st.sampled_from([1, 2, None, True, "1", [1]]),
            "event": st.sampled_from(["result", "error", "progress", 5]),
        },
        optional=dict.fromkeys(
            ("have", "unpacks", "facts", "kind", "reason", "epoch", "arrived_ns", "answered_ns"),
            JSON,
        ),
    ).map(lambda value: json.dumps(value).encode()),
    max_size=4,
)


@given(LINES, st.sampled_from(["deploy", "hello", "hold", "holder", "exchange", "close"]))
@settings(deadline=None)
def test_a_conversation(lines: list[bytes], verb: str) -> None:
    from harness.devices.framing import JsonLines

    dialect = JsonLinesDialect(Saying(b""), DEVICE)
    channel = RecordedChannel(b"".join(line + b"\n" for line in lines))
    dialect._channel = channel  # type: ignore[assignment]
    dialect._lines = JsonLines(channel, "dut")  # type: ignore[arg-type]
    calls: dict[str, Callable[[], object]] = {
        "deploy": lambda: dialect.deploy({"a" * 64: Path("/nowhere")}),
        "hello": dialect.hello,
        "hold": dialect.hold,
        "holder": dialect.holder,
        "exchange": dialect.exchange,
        "close": dialect.close,
    }
    # The missing file is caused by the test: the answer was read.
    with suppress(HarnessError, FileNotFoundError):
        calls[verb]()
    dialect._disconnect()


FACTS = {
    "identity": "i",
    "hostname": "h",
    "system": "Linux",
    "kernel": "6",
    "machine": "x86_64",
    "python": "3.11",
    "cores": 4,
    "runtimes": [{"name": "n", "version": "1"}],
    "accelerators": [],
    "sensors": [],
    "extra": {},
}


@given(
    st.dictionaries(st.sampled_from([*FACTS, "board", "chip", "memory_total_bytes"]), JSON),
    st.dictionaries(st.sampled_from(["usb", "processors", "python_bits", "throttled"]), JSON),
)
@settings(deadline=None)
def test_facts_make_a_profile(changed: dict[str, object], extra: dict[str, object]) -> None:
    answer = {"agent": "a", "facts": {**FACTS, "extra": extra, **changed}}
    with suppress(HarnessError):
        facts = answers.device_facts(Fields("dut", answer), 0.0)
        contact.survey(facts, PROFILES)
        made = contact.new_profile(facts)
        assert re.fullmatch(r"[a-z0-9_]{1,60}", made.name)
        pinning.processors(facts, 2)
        codec.dump(facts)


PROFILES = profiles.load_all()


# --- the farm and its measures --------------------------------------------------------------------


@given(DIGITS, st.text(max_size=20), st.integers(0, 2))
def test_what_cleaning_says(digits: str, noise: str, code: int) -> None:
    said = f"{noise}edge-harness cleaned {digits}\n{noise}".encode()
    with suppress(HarnessError):
        freed = cleaning.clean(Saying(said, exit_code=code), DEVICE, "/w")
        assert 0 <= freed / 1e6 < 1e15


@given(st.binary(max_size=80), st.binary(max_size=80), st.integers(-1, 255))
def test_what_unpacking_says(stdout: bytes, stderr: bytes, code: int) -> None:
    class OfDevice:
        device = DEVICE
        transport = Saying(stdout, stderr, code)

    made = Installation(device="dut", runtime="ai_edge_litert", version="1", folder="/w/r")
    with suppress(HarnessError):
        setup._unpack(OfDevice(), made, ())  # type: ignore[arg-type]
        assert code == 0


@given(st.lists(DIGITS | st.text(max_size=10), max_size=8))
def test_temperatures(lines: list[str]) -> None:
    found = thermal.celsius(Saying("\n".join(lines).encode(errors="replace")))
    assert found is None or 0 < found < 200


@given(st.lists(st.tuples(DIGITS, DIGITS), max_size=4), st.text(max_size=40))
@example([], "x" * 200_000)
@settings(deadline=None)
def test_what_the_pinning_shell_says(speeds: list[tuple[str, str]], noise: str) -> None:
    lines = [f"speed {now} {most}" for now, most in speeds]
    said = "\n".join([noise, *lines, "ready", "restored", ""]).encode(errors="replace")
    with suppress(HarnessError):
        pin = pinning.GovernorPin(Saying(said))
        assert pin.pinned_mhz is None or pin.pinned_mhz < 1e12
        pin.close()


@given(DIGITS, st.text(max_size=30))
def test_what_df_says(digits: str, noise: str) -> None:
    said = f"Filesystem blocks\n{noise} 1 2 {digits} 5".encode(errors="replace")
    assert isinstance(space.free_space(Saying(said).run, "/w"), str)


@given(st.binary(max_size=100), DIGITS)
def test_the_marked_line(noise: bytes, digits: str) -> None:
    found = ssh_channel._MARK.search(noise + b"\nedge-harness-pid " + digits.encode() + b"\nrest")
    assert found is None or 1 < int(found[1]) < 10**10


@given(st.binary(max_size=100), st.sampled_from(["sha256", "sha1", "md5", "size", "x"]), DIGITS)
def test_what_a_device_says_of_a_file(noise: bytes, kind: str, digits: str) -> None:
    said = noise + f"\nedge-harness-digest {kind} {digits}\n".encode(errors="replace") + noise
    with suppress(ValueError):
        command_files._compare(said, io.BytesIO(b"the file"))


# --- logs, records --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "piece", ["=", " ", "=== ", "[", "]", ":", "1\t", "avg=", "Inference (avg): ", "a", "\t", "\n"]
)
@pytest.mark.parametrize("start", ["===", "count=1 ", "01-01 00:00:00.0 "])
def test_a_long_line_takes_no_time(start: str, piece: str) -> None:
    heading = "=== Run Order ===\n[node type]\t[first]\t[avg ms]\t[times called]\t[name]\n"
    began = time.monotonic()
    tool_log.parse(start + piece * 100_000)
    tool_log.parse(heading + start + piece * 100_000)
    assert time.monotonic() - began < 3


@given(st.binary(max_size=200), st.binary(max_size=50), st.integers(0, 2))
@settings(deadline=None)
def test_a_tool_says_anything(stdout: bytes, stderr: bytes, code: int) -> None:
    class OfDevice:
        device = DEVICE
        transport = Saying(stdout, stderr, code)
        dialect = FakeDialect(DEVICE)

        def bring(self, files: object) -> None:
            pass

    class OfBench:
        session = OfDevice()

        class held:  # noqa: N801 - stands for an attribute
            settle = wait = staticmethod(lambda: None)

    class OfModel:
        target = "xnnpack"
        path = Path("/x")
        digest = "a" * 64
        threads = 1

    with suppress(HarnessError):
        found = tool.find(OfDevice())  # type: ignore[arg-type]
        assert found is None or all(word.strip() == word for word in found)
    with suppress(HarnessError):
        tool._launch(OfModel(), OfBench(), ("tool",))  # type: ignore[arg-type]


@given(st.lists(st.binary(max_size=80) | JSON.map(lambda v: json.dumps(v).encode()), max_size=5))
@example([b"[" * 100_000])
@example([b'{"a":' * 500 + b"1" + b"}" * 500])
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_journal_of_anything(tmp_path: Path, lines: list[bytes]) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(b"\n".join(lines) + b"\n")
    for line in journal.read(path).lines:
        with suppress(HarnessError):
            codec.load(Launch, line)


# --- the agent's own ------------------------------------------------------------------------------

PROCESSES = settings(
    deadline=None,
    max_examples=4,
    suppress_health_check=[*HealthCheck],
    # Each example starts a process, and shrinking takes hundreds.
    phases=[Phase.explicit, Phase.generate],
)

FUZZ_WIRE = """
import json, os, sys
sys.path.insert(0, sys.argv[1])
import lease, wire
for line in sys.stdin.buffer:
    data = bytes.fromhex(line.decode().strip())
    try:
        request = wire.parse(data)
        wire.verb(request)
        json.dumps(request["id"] if "id" in request else None, allow_nan=False)
    except wire.AgentFault:
        pass
    path = sys.argv[2]
    with open(path, "wb") as file:
        file.write(data)
    descriptor = os.open(path, os.O_RDONLY)
    entry = lease._read(descriptor)
    os.close(descriptor)
    if entry is not None:
        assert entry.holder.isprintable() or not entry.holder
        assert entry.seconds() <= 3600
        lease._is_agent(entry)
print("all")
"""

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
REQUESTS = st.binary(max_size=100) | JSON.map(lambda value: json.dumps(value).encode())
LEASES = st.lists(
    DIGITS.map(lambda digits: digits[:300]) | st.sampled_from(["1", "-1", BOOT, "x y", "\x1b"]),
    min_size=7,
    max_size=9,
).map(lambda fields: ("1 " + " ".join(fields)).encode(errors="replace"))


def fed(tmp_path: Path, lines: list[bytes]) -> None:
    argv = [sys.executable, "-c", FUZZ_WIRE, str(AGENT), str(tmp_path / "lease")]
    stdin = "".join(line.hex() + "\n" for line in lines)
    done = subprocess.run(argv, input=stdin, capture_output=True, text=True, check=False)
    assert done.stdout == "all\n", done.stderr


@given(st.lists(REQUESTS, min_size=30, max_size=60))
@example(
    [b"[" * 100_000, b'{"id": NaN}', b'{"id": 1e999}', b'{"id": [[]]}', b'{"id": ' + b"9" * 5000]
)
@PROCESSES
def test_a_request_of_any_bytes(tmp_path: Path, lines: list[bytes]) -> None:
    fed(tmp_path, lines)


@given(st.lists(LEASES, min_size=30, max_size=60))
@PROCESSES
def test_a_lease_of_any_bytes(tmp_path: Path, lines: list[bytes]) -> None:
    fed(tmp_path, lines)


VERBS = ("have", "commit", "clean", "clock", "launch", "infer", "lease", "cancel", "x")
KEYS = (
    *("digests", "digest", "part", "codec", "bytes", "out", "older_seconds", "order", "n"),
    *("inputs", "epoch", "action", "token", "holder", "target"),
)
ODD = (
    None,
    True,
    0,
    -1,
    2**31,
    10**30,
    0.5,
    -1e300,
    "",
    "a" * 64,
    "../x",
    "take",
    "\u2028",
    "gzip",
)


def anything(rng: random.Random, depth: int = 3) -> object:
    """Random JSON; hypothesis would take a minute for the same amount."""
    kind = rng.randrange(4) if depth else 0
    if kind == 1:
        return [anything(rng, depth - 1) for _ in range(rng.randrange(4))]
    if kind == 2:
        return {rng.choice(KEYS): anything(rng, depth - 1) for _ in range(rng.randrange(4))}
    return rng.choice(ODD)


@pytest.mark.parametrize("seed", range(4))
def test_requests_of_any_shape(tmp_path: Path, seed: int) -> None:
    """A real agent from the packed sources answers every request, and another one afterwards."""
    from harness.devices.dialects.python_agent.packing import agent_zip

    rng = random.Random(seed)
    requests = [
        {"v": 1, "id": number, "verb": VERBS[number % len(VERBS)]}
        | {key: anything(rng) for key in rng.sample(KEYS, rng.randrange(len(KEYS)))}
        for number in range(48)
    ]
    archive, digest = agent_zip()
    place = tmp_path / "work" / "agents" / f"{digest}.zip"
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(archive.read_bytes())
    last = {"v": 1, "id": "last", "verb": "have", "digests": []}
    bye = {"v": 1, "id": "bye", "verb": "bye"}
    lines = "".join(json.dumps(one) + "\n" for one in (*requests, last, bye))
    environment = {**os.environ, "EDGE_HARNESS_LEASES": str(tmp_path / "leases")}
    agent = subprocess.run(
        [sys.executable, str(place)],
        input=lines.encode(),
        capture_output=True,
        timeout=60,
        check=False,
        env=environment,
    )
    answered = [json.loads(line) for line in agent.stdout.splitlines()]
    assert agent.returncode == 0, agent.stderr[-2000:]
    assert {one["id"] for one in answered} >= set(range(48))
    assert {"id": "last", "event": "result"}.items() <= answered[-2].items()


def test_samples_of_a_launch_are_what_the_columns_say() -> None:
    """The fuzzers would pass a reader that refuses everything; it must read this answer."""
    column = {"series": "latency", "n": 2, "count": 1}
    at, value = array("q", [1, 2]).tobytes(), array("d", [3.0, 4.0]).tobytes()
    import base64

    column["at"], column["value"] = base64.b64encode(at).decode(), base64.b64encode(value).decode()
    (read,) = answers._samples(Fields("dut", {"columns": [column]}), lambda *_: b"")
    assert list(read.value) == [3.0, 4.0]
