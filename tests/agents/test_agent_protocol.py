"""The agent's end of the protocol, line by line, and its zip."""

from __future__ import annotations

import ast
import json
import os
import resource
import shutil
import subprocess
import time
import zipfile
from pathlib import Path
from typing import Any

import pytest
from agent_lab import LONG, ROOT, SECONDS, SHORT, RawAgent, digest_of, launch_processes, wait_until

from harness.devices.dialects.python_agent import packing
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.local import LocalTransport
from harness.types import Device, Dose

pytest_plugins = ("agent_fixtures",)
pytestmark = pytest.mark.usefixtures("own_cache")

SOURCES = sorted((ROOT / "agents" / "python_tflite").glob("*.py"))


def wire_order(model: Path, dose: Dose = SHORT, **changes: Any) -> dict[str, Any]:
    return {
        "kind": "timed",
        "block": 0,
        "position": 0,
        "digest": digest_of(model),
        "target": "xnnpack",
        "threads": 1,
        "dose": {name: getattr(dose, name) for name in Dose.__dataclass_fields__},
        "inner_loop": 1,
        "seed": 0,
        "runtime": None,
        "delegate": None,
        "timeout_seconds": SECONDS,
        **changes,
    }


def resident_kb(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(text.partition("VmHWM:")[2].split()[0])


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def agent_pid(workdir: Path) -> int:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().rstrip(b"\0").split(b"\0")
            except OSError:
                continue
            if arguments[-1].startswith(os.fsencode(workdir / "agents")):
                return int(entry.name)
    raise AssertionError


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_the_agent_is_python_3_9(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 9))


def test_the_zip_is_small_and_always_the_same(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    first, digest = packing.agent_zip()
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path))
    second, again = packing.agent_zip()
    assert first != second
    assert (first.name, digest) == (second.name, again) == (f"{digest}.zip", digest)
    assert first.read_bytes() == second.read_bytes()
    assert second.stat().st_size < 64_000
    with zipfile.ZipFile(second) as archive:
        assert archive.namelist() == [path.name for path in SOURCES]


def test_it_keeps_what_it_was_sent(raw: RawAgent, tmp_path: Path) -> None:
    source = tmp_path / "file"
    source.write_bytes(b"bytes" * 1000)
    digest = digest_of(source)
    assert raw.ask("have", digests=[digest])["have"] == []
    answer = raw.give(source)
    assert (answer["digest"], answer["bytes"]) == (digest, 5000)
    assert raw.ask("have", digests=[digest])["have"] == [digest]
    blob = raw.workdir / "blobs" / digest
    assert blob.read_bytes() == source.read_bytes()
    assert blob.stat().st_mode & 0o777 == 0o600


def test_a_wrong_digest_deletes_the_part(raw: RawAgent) -> None:
    part = raw.workdir / "incoming" / "cut.part"
    part.write_bytes(b"half of it")
    answer = raw.ask("commit", digest="0" * 64, part="cut.part")
    assert (answer["event"], answer["kind"]) == ("error", "transfer_failed")
    assert "10 bytes" in answer["reason"]
    assert not part.exists()
    assert raw.ask("commit", digest="0" * 64, part="cut.part")["kind"] == "transfer_failed"


@pytest.mark.parametrize(
    ("verb", "fields"),
    [
        ("commit", {"digest": "0" * 64, "part": "../blobs/x"}),
        ("commit", {"digest": "0" * 64, "part": ".."}),
        ("commit", {"digest": "0" * 64, "part": 7}),
        ("commit", {"digest": "../../x", "part": "x.part"}),
        ("have", {"digests": ["../x"]}),
        ("have", {"digests": "no list"}),
        ("clean", {"out": ["../x"]}),
        ("clean", {"older_seconds": "now"}),
        ("launch", {}),
        ("launch", {"order": {"timeout_seconds": 1, "digest": "../x"}}),
        ("launch", {"order": {"timeout_seconds": "soon", "digest": "0" * 64}}),
        ("lease", {}),
        ("no such verb", {}),
        ("hello", {"v": 2}),
    ],
)
def test_a_request_that_does_not_hold_together(
    raw: RawAgent, verb: str, fields: dict[str, Any]
) -> None:
    answer = raw.ask(verb, **fields)
    assert (answer["id"], answer["event"], answer["kind"]) == (raw.last, "error", "protocol")
    assert raw.ask("have", digests=[])["event"] == "result"


@pytest.mark.parametrize(
    "line",
    [
        b"not json",
        b"[1, 2]",
        b"\xff\xfe",
        b'{"v": 1',
        b"[" * 100_000,
        b'{"v": 1, "verb": ["hello"]}',
        b"x" * (1 << 20) + b"yz",
        b"x" * (3 << 20),
    ],
    ids=lambda line: f"{line[:12]!r}-{len(line)}",
)
def test_a_bad_line_costs_that_line(raw: RawAgent, line: bytes) -> None:
    raw.channel.send(line + b"\n")
    answer = raw.read()
    assert (answer["id"], answer["event"], answer["kind"]) == (None, "error", "protocol")
    assert raw.ask("have", digests=[])["event"] == "result"


def test_requests_may_arrive_in_pieces_and_in_heaps(raw: RawAgent) -> None:
    request = json.dumps({"v": 1, "id": "a", "verb": "have", "digests": []}).encode()
    raw.channel.send(request[:9])
    raw.channel.send(request[9:] + b"\n\n" + request + b"\n")
    assert [raw.read()["id"] for _ in range(2)] == ["a", "a"]


def test_cancel_ends_the_launch_at_once(raw: RawAgent, kws: Path) -> None:
    raw.give(kws)
    launch = raw.send("launch", order=wire_order(kws, LONG))
    started = raw.read()
    assert (started["event"], started["stage"]) == ("progress", "started")
    wait_until(lambda: launch_processes(raw.workdir) == [started["pid"]])
    waiting = raw.send("have", digests=[])
    begin = time.monotonic()
    cancel = raw.send("cancel", target=launch)
    answers = {answer["id"]: answer for answer in (raw.read() for _ in range(3))}
    assert time.monotonic() - begin < 5
    assert answers[cancel]["cancelled"] is True
    assert (answers[launch]["event"], answers[launch]["kind"]) == ("error", "cancelled")
    assert answers[waiting]["event"] == "result"
    assert not launch_processes(raw.workdir)
    assert raw.ask("cancel", target=launch)["cancelled"] is False
    assert raw.ask("launch", order=wire_order(kws))["event"] == "result"


def test_the_end_of_stdin_ends_the_agent_and_its_launch(
    raw: RawAgent, kws: Path, transport: LocalTransport
) -> None:
    raw.give(kws)
    raw.send("launch", order=wire_order(kws, LONG))
    raw.read()
    pid = agent_pid(raw.workdir)
    raw.channel.close()
    wait_until(lambda: not launch_processes(raw.workdir))
    wait_until(lambda: not is_alive(pid))


def test_bye(raw: RawAgent) -> None:
    pid = agent_pid(raw.workdir)
    assert raw.ask("bye")["event"] == "result"
    assert raw.channel.read(time.monotonic() + SECONDS) == b""
    wait_until(lambda: not is_alive(pid))


def agent_of(raw: RawAgent) -> Path:
    return next((raw.workdir / "agents").glob("*.zip"))


def test_clean_removes_what_is_named_or_old(raw: RawAgent) -> None:
    old, new = raw.workdir / "incoming" / "old.part", raw.workdir / "incoming" / "new.part"
    named = raw.workdir / "out" / ("a" * 64)
    part = raw.workdir / "agents" / "old.zip.1234abcd.part"
    for path in (old, new, named, part):
        path.write_bytes(b"x")
    for path in (old, part, agent_of(raw)):
        os.utime(path, (0, 0))
    answer = raw.ask("clean", out=["a" * 64], older_seconds=3600)
    assert answer["removed"] == 3
    assert [path.exists() for path in (old, new, named, part)] == [False, True, False, False]
    assert agent_of(raw).exists()


def test_the_parent_stays_small(raw: RawAgent, kws: Path) -> None:
    raw.ask("hello")
    raw.give(kws)
    raw.ask("launch", order=wire_order(kws))
    assert resident_kb(agent_pid(raw.workdir)) < 25_000


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(device: Device, workdir: Path) -> None:
    archive, digest = packing.agent_zip()
    (workdir / "agents").mkdir(parents=True)
    target = shutil.copyfile(archive, workdir / "agents" / f"{digest}.zip")
    os.chown(workdir, 12345, 12345)
    reply = subprocess.run(
        [AgentOptions.of(device).python, str(target)],
        input=b"",
        capture_output=True,
        check=False,
        timeout=SECONDS,
    )
    answer = json.loads(reply.stdout)
    assert (reply.returncode, answer["kind"]) == (1, "workdir")
    assert "12345" in answer["reason"]


def test_samples_that_find_no_room_on_the_device_are_said_so(raw: RawAgent, kws: Path) -> None:
    """A limit on the size of files stands in for a full card: the same call fails."""
    raw.give(kws)
    resource.prlimit(agent_pid(raw.workdir), resource.RLIMIT_FSIZE, (100_000, 100_000))
    many = Dose(min_inferences=40_000, min_seconds=0.0, max_seconds=60.0, warmup_seconds=0.01)
    answer = raw.ask("launch", order=wire_order(kws, many))
    assert (answer["event"], answer["kind"]) == ("error", "agent")
    assert "File too large" in answer["reason"]
    assert "Traceback" not in answer["reason"]
