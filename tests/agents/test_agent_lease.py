"""The lease of a device, with real agents in two users' work folders."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from agent_lab import LONG, ROOT, RawAgent, digest_of, launch_processes, wait_until

from harness.devices import opening, renewal
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect, _wire, open_json_lines
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.dialects.python_agent.packing import agent_zip
from harness.devices.transports.local import LocalTransport, open_local
from harness.errors import LeaseError
from harness.events import Event, LeaseLost, Note, Reconnecting, Waiting
from harness.measure.bench import Bench
from harness.measure.leases import Patience
from harness.measure.sessions import Session
from harness.protocols import Leasing
from harness.types import Device, LaunchOrder

pytest_plugins = ("agent_fixtures",)


@pytest.fixture
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for the leases of this test's agents."""
    folder = tmp_path / "leases"
    folder.mkdir()
    monkeypatch.setenv("EDGE_HARNESS_LEASES", str(folder))
    return folder


Start = Callable[[str], RawAgent]


@pytest.fixture
def start(leases: Path, device: Device, tmp_path: Path) -> Iterator[Start]:
    """Start agents, each with its own work folder."""
    opened = []

    def make(name: str) -> RawAgent:
        workdir = tmp_path / name
        transport = open_local(opening.with_options(device, workdir=str(workdir)))
        archive, digest = agent_zip()
        target = workdir / "agents" / f"{digest}.zip"
        transport.put(archive, str(target))
        channel = transport.talk([AgentOptions.of(device).python, str(target)])
        agent = RawAgent(channel, workdir)
        agent.ask("have", digests=[])
        opened.append((channel, transport))
        return agent

    yield make
    for channel, transport in opened:
        channel.close()
        transport.close()


def lease_file(leases: Path) -> Path:
    (found,) = leases.iterdir()
    return found


def lease_fields(leases: Path) -> list[str]:
    return lease_file(leases).read_text().split(" ", 7)


def rewrite(leases: Path, **changed: str) -> None:
    """Change fields of the lease file, as time or another agent would."""
    names = ("version", "epoch", "boot", "until_ms", "pid", "start", "token", "holder")
    fields = dict(zip(names, lease_fields(leases), strict=True)) | changed
    lease_file(leases).write_text(" ".join(fields[name] for name in names))


def begin_long_launch(agent: RawAgent, order: LaunchOrder, kws: Path) -> int:
    agent.give(kws)
    sent = agent.send("launch", order=_wire(replace(order, dose=LONG)))
    assert agent.read()["event"] == "progress"
    return sent


def test_a_second_user_is_refused_with_the_first_ones_name(start: Start) -> None:
    first, second = start("anna"), start("ben")
    assert first.take("annaanna")["event"] == "result"
    refused = second.take("benbenbe")
    assert refused["kind"] == "busy"
    assert "raw annaanna has this device" in refused["reason"]
    look = second.ask("lease", action="look", token="benbenbe")
    assert (look["holder"], look["yours"]) == ("raw annaanna", False)
    assert 25 < look["seconds"] <= 30


def test_each_grant_raises_the_epoch_and_a_drop_frees_the_device(start: Start) -> None:
    first, second = start("anna"), start("ben")
    before = first.take("annaanna")["epoch"]
    first.ask("lease", action="drop", token="annaanna")
    look = second.ask("lease", action="look", token="benbenbe")
    assert look["holder"] is None
    assert second.take("benbenbe")["epoch"] > before


def test_without_the_lease_or_with_an_older_epoch_nothing_is_done(
    start: Start, order: LaunchOrder, kws: Path
) -> None:
    agent = start("anna")
    assert agent.give(kws)["kind"] == "busy"
    assert agent.ask("launch", order=_wire(order))["kind"] == "busy"
    agent.take("annaanna")
    agent.epoch -= 1
    older = agent.ask("launch", order=_wire(order))
    assert older["kind"] == "busy"
    assert "epoch" in older["reason"]


def test_a_large_file_holds_the_device_only_while_it_is_checked(start: Start, kws: Path) -> None:
    agent = start("anna")
    agent.take("annaanna")
    part = agent.workdir / "incoming" / "part.gz"
    part.write_bytes(gzip.compress(kws.read_bytes()))
    order = {"digest": digest_of(kws), "part": part.name, "codec": "gzip", "bytes": 10**12}
    assert agent.ask("commit", **order)["event"] == "result"
    assert agent.ask("lease", action="look", token="annaanna")["seconds"] <= 30


def test_losing_the_lease_kills_the_launch(
    start: Start, leases: Path, order: LaunchOrder, kws: Path
) -> None:
    agent = start("anna")
    agent.take("annaanna")
    begin_long_launch(agent, order, kws)
    rewrite(leases, epoch=str(agent.epoch + 1), token="benbenbe", holder="ben@far\n")
    answer = agent.read()
    assert answer["kind"] == "busy"
    assert "ben@far has this device" in answer["reason"]
    assert launch_processes(agent.workdir) == []


def test_a_lease_that_is_not_renewed_kills_the_launch_and_is_taken_over(
    start: Start, leases: Path, order: LaunchOrder, kws: Path
) -> None:
    first, second = start("anna"), start("ben")
    first.take("annaanna")
    begin_long_launch(first, order, kws)
    rewrite(leases, until_ms="1")
    assert second.take("benbenbe")["event"] == "result"
    # Granted only after the previous holder's launch has ended.
    assert launch_processes(first.workdir) == []
    assert first.read()["kind"] == "busy"


def test_a_result_of_a_lost_lease_is_refused(
    start: Start, leases: Path, order: LaunchOrder, kws: Path
) -> None:
    agent = start("anna")
    agent.take("annaanna")
    sent = begin_long_launch(agent, replace(order, timeout_seconds=600.0), kws)
    (pid,) = wait_until(lambda: launch_processes(agent.workdir))
    os.kill(pid, signal.SIGSTOP)
    rewrite(leases, until_ms="1")
    answer = agent.read()
    assert (answer["id"], answer["kind"]) == (sent, "busy")


def test_a_lease_of_another_boot_and_one_that_cannot_be_read_are_nobodys(
    start: Start, leases: Path
) -> None:
    first, second = start("anna"), start("ben")
    before = first.take("annaanna")["epoch"]
    rewrite(leases, boot="00000000-0000-0000-0000-000000000000", pid="1")
    taken = second.take("benbenbe")
    assert taken["epoch"] > before
    for text in (
        "",
        "\n",
        "nonsense",
        "1 2 3",
        "2 9 b 9 9 9 t h\n",
        "1 x y z w v u t\n",
        "\0" * 700,
    ):
        lease_file(leases).write_text(text)
        assert second.take("benbenbe")["epoch"] > before


def test_a_killed_agents_lease_is_nobodys_but_not_that_of_another_container(
    start: Start, leases: Path
) -> None:
    first, second = start("anna"), start("ben")
    first.take("annaanna")
    os.kill(int(lease_fields(leases)[4]), signal.SIGKILL)
    assert first.channel.read(time.monotonic() + 10) == b""
    first.channel.close()
    look = second.ask("lease", action="look", token="benbenbe")
    assert look["holder"] is None
    rewrite(leases, start="1@1")
    assert second.take("benbenbe")["kind"] == "busy"
    rewrite(leases, start=lease_fields(leases)[5], until_ms="1")
    assert second.take("benbenbe")["event"] == "result"


def test_nobody_holds_a_device_for_ever(start: Start, leases: Path) -> None:
    agent = start("anna")
    agent.take("annaanna")
    rewrite(leases, until_ms=str(1 << 52), token="benbenbe")
    look = agent.ask("lease", action="look", token="annaanna")
    assert look["seconds"] <= 3600


def test_the_same_controller_takes_its_own_lease_at_once_and_ends_its_old_agent(
    start: Start, order: LaunchOrder, kws: Path
) -> None:
    old, new = start("anna"), start("anna again")
    old.take("annaanna")
    begin_long_launch(old, order, kws)
    began = time.monotonic()
    assert new.take("annaanna")["event"] == "result"
    assert time.monotonic() - began < 3
    wait_until(lambda: not launch_processes(old.workdir))


def test_an_agent_that_ends_lets_go(start: Start) -> None:
    first, second = start("anna"), start("ben")
    first.take("annaanna")
    first.channel.close()
    assert wait_until(lambda: second.take("benbenbe")["event"] == "result")


def test_the_file_may_be_a_strangers_but_neither_a_link_nor_a_pipe(
    start: Start, leases: Path, tmp_path: Path
) -> None:
    agent = start("anna")
    agent.take("annaanna")
    agent.ask("lease", action="drop", token="annaanna")
    path = lease_file(leases)
    assert path.stat().st_mode & 0o777 == 0o666
    precious = tmp_path / "precious"
    precious.write_text("mine")
    path.unlink()
    path.symlink_to(precious)
    other = start("ben")
    assert other.take("benbenbe")["kind"] == "lease_file"
    path.unlink()
    os.link(precious, path)
    assert other.take("benbenbe")["kind"] == "lease_file"
    path.unlink()
    os.mkfifo(path)
    refused = other.take("benbenbe")
    assert refused["kind"] == "lease_file"
    assert f"remove {path} there" in refused["reason"]
    assert precious.read_text() == "mine"


_AS_USER = """
import os, sys
os.umask(0o077)
os.setgid(int(sys.argv[1]))
os.setuid(int(sys.argv[1]))
sys.path.insert(0, "AGENT")
import lease
lease._SHARED = sys.argv[2]
one = lease.Lease("device")
one.take("user" + sys.argv[1], "user " + sys.argv[1])
print(lease.Lease("device").look("")["holder"])
one.drop()
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to be two users")
def delete(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_text("")


def garble(path: Path) -> None:
    path.write_text("nonsense\n")


@pytest.mark.parametrize(
    ("spoil", "what"), [(delete, "deleted"), (empty, "emptied"), (garble, "damaged")]
)
def test_a_lease_file_that_was_deleted_or_damaged_is_written_again_and_named(  # noqa: PLR0917 - fixtures
    spoil: Callable[[Path], None],
    what: str,
    start: Start,
    leases: Path,
    order: LaunchOrder,
    kws: Path,
) -> None:
    agent, other = start("anna"), start("ben")
    agent.take("annaanna")
    agent.give(kws)
    path = lease_file(leases)
    before = lease_fields(leases)
    spoil(path)
    answer = agent.ask("launch", order=_wire(order))
    assert answer["event"] == "result"
    assert answer["lease_note"] == (
        f"the lease file {path} was {what} on the device; the lease was taken again"
    )
    assert lease_fields(leases)[:3] == before[:3]
    assert other.take("benbenbe")["kind"] == "busy"
    assert "lease_note" not in agent.ask("launch", order=_wire(order))


def test_a_user_who_took_the_device_after_the_file_was_deleted_has_it(
    start: Start, leases: Path, order: LaunchOrder, kws: Path
) -> None:
    agent, other = start("anna"), start("ben")
    agent.take("annaanna")
    begin_long_launch(agent, order, kws)
    lease_file(leases).unlink()
    other.take("benbenbe")
    answer = agent.read()
    assert answer["kind"] == "busy"
    assert "raw benbenbe has this device" in answer["reason"]


def test_a_folder_in_the_files_place_is_named_and_no_user(
    start: Start, leases: Path, order: LaunchOrder, kws: Path
) -> None:
    agent = start("anna")
    agent.take("annaanna")
    begin_long_launch(agent, order, kws)
    path = lease_file(leases)
    path.unlink()
    path.mkdir()
    answer = agent.read()
    assert answer["kind"] == "lease_file"
    assert str(path) in answer["reason"]
    assert "the lease was lost: no lease can be kept on this device" in answer["reason"]
    assert launch_processes(agent.workdir) == []
    assert agent.take("annaanna")["kind"] == "lease_file"
    path.rmdir()
    assert agent.take("annaanna")["event"] == "result"


def test_a_place_that_cannot_be_written_is_named(start: Start, leases: Path) -> None:
    agent = start("anna")
    leases.rmdir()
    leases.write_text("a file, so nobody can write into it, not even root")
    refused = agent.take("annaanna")
    assert refused["kind"] == "lease_file"
    assert f"make {leases} a folder that every user may write to" in refused["reason"]


def test_a_run_notes_a_lease_file_that_was_deleted_and_goes_on(
    leases: Path, device: Device, order: LaunchOrder, kws: Path
) -> None:
    events: list[Event] = []
    session = Session(device)
    try:
        with Bench(session=session, emit=events.append) as bench:
            bench.bring({digest_of(kws): kws})
            lease_file(leases).unlink()
            bench.recovering(lambda: bench.trial(order), "a launch")
            bench.recovering(lambda: bench.trial(order), "a launch")
        (note,) = [one.reason for one in events if isinstance(one, Note)]
        assert note.startswith(f"the lease file {lease_file(leases)} was deleted on the device")
        assert not any(isinstance(one, LeaseLost | Reconnecting) for one in events)
    finally:
        session.close()


def test_two_users_share_one_file_in_a_sticky_folder() -> None:
    """The kernel refuses O_CREAT on another user's file there (fs.protected_regular)."""
    with tempfile.TemporaryDirectory(prefix="edge-harness-", dir="/tmp") as root:
        Path(root).chmod(0o1777)
        sources = Path(root) / "agent"
        shutil.copytree(ROOT / "agents" / "python_tflite", sources)
        script = _AS_USER.replace("AGENT", str(sources))
        python = next(p for p in ("/usr/bin/python3", sys.executable) if Path(p).exists())
        environment = {k: v for k, v in os.environ.items() if k != "EDGE_HARNESS_LEASES"}
        for user in ("12345", "12346", "0", "12345"):
            said = subprocess.run(
                [python, "-c", script, user, f"{root}/leases"],
                check=False,
                capture_output=True,
                text=True,
                env=environment,
            )
            assert said.stdout == f"user {user}\n", said.stderr


# --- the controller's side ---------------------------------------------------------------------


def test_a_dialect_takes_the_device_for_a_launch_and_lets_go_when_closed(
    start: Start, dialect: JsonLinesDialect, order: LaunchOrder, kws: Path
) -> None:
    other = start("ben")
    assert isinstance(dialect, Leasing)
    dialect.deploy({digest_of(kws): kws})
    assert other.take("benbenbe")["kind"] == "busy"
    dialect.launch(order)
    dialect.release()
    assert other.take("benbenbe")["event"] == "result"
    with pytest.raises(LeaseError, match="raw benbenbe has this device"):
        dialect.launch(order)
    other.ask("lease", action="drop", token="benbenbe")
    dialect.launch(order)


def test_the_lease_is_renewed_while_a_launch_runs_and_between_launches(
    leases: Path, dialect: JsonLinesDialect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(renewal, "RENEW_SECONDS", 0.05)
    dialect.hold()
    first = int(lease_fields(leases)[3])
    assert wait_until(lambda: int(lease_fields(leases)[3]) > first + 200)
    rewrite(leases, until_ms="1")
    assert wait_until(lambda: int(lease_fields(leases)[3]) > first)


def test_a_session_says_who_has_the_device_or_waits(
    start: Start, device: Device, transport: LocalTransport
) -> None:
    other = start("ben")
    other.take("benbenbe")
    with pytest.raises(LeaseError, match="raw benbenbe has this device") as caught:
        Session(device)
    assert caught.value.holder == "raw benbenbe"
    reported = []

    def record(event: Event) -> None:
        assert isinstance(event, Waiting)
        reported.append((event.device, event.reason))
        other.ask("lease", action="drop", token="benbenbe")

    session = Session(device, patience=Patience(60.0, record))
    try:
        session.hold()
        assert other.take("benbenbe")["kind"] == "busy"
    finally:
        session.close()
    assert reported == [(device.name, "raw benbenbe has this device")]
    assert other.take("benbenbe")["event"] == "result"


def test_a_second_connection_of_this_process_does_not_wait(
    leases: Path, device: Device, dialect: JsonLinesDialect
) -> None:
    dialect.hold()
    with_other = open_json_lines(open_local(device), device)
    try:
        found = with_other.holder()
        assert found is not None
        assert found.is_this
        assert renewal.holder() == found.name
        with_other.hold()
    finally:
        with_other.close()
