"""The lease and the files of a device without Python, kept by a phone's own shell and tools."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from standins import phones
from standins.phones import WORKDIR, Phone

from harness.devices.by_shell import files, lease
from harness.devices.by_shell.files import ShellFolder
from harness.devices.by_shell.lease import LOST_EXIT, ShellLease
from harness.devices.transports.adb.transport import AdbTransport, open_adb
from harness.errors import AgentError, LeaseError, TransferFailed
from harness.protocols import Leasing, Reply

FOLDER = f"{WORKDIR}/leases"


@pytest.fixture
def transport(pixel: Phone) -> Iterator[AdbTransport]:
    opened = open_adb(pixel.device)
    opened.run(["rm", "-rf", WORKDIR], 10)
    yield opened
    opened.close()


@pytest.fixture
def other(pixel: Phone, tmp_path: Path) -> Iterator[AdbTransport]:
    """Another host: a connection through an adb server of its own."""
    with phones.adb_server(tmp_path / "other") as server:
        opened = open_adb(pixel.device_by(server))
        yield opened
        opened.close()


def of(transport: AdbTransport, name: str) -> ShellLease:
    return ShellLease(transport, "pixel", FOLDER, token=name * 8, name=f"{name}@host (process 1)")


def shell(transport: AdbTransport, script: str) -> str:
    return transport.run(["sh", "-c", script], 10).stdout.decode()


def test_one_host_holds_it_and_the_other_waits(
    transport: AdbTransport, other: AdbTransport
) -> None:
    ours, theirs = of(transport, "anna"), of(other, "bert")
    assert isinstance(ours, Leasing)
    assert ours.holder() is None
    ours.hold()
    ours.hold()
    seen = theirs.holder()
    assert seen is not None
    assert (seen.name, seen.is_this) == ("anna@host (process 1)", False)
    assert 0 < seen.seconds <= 30
    with pytest.raises(LeaseError, match="anna@host") as refused:
        theirs.hold()
    assert refused.value.holder == "anna@host (process 1)"
    ours.release()
    assert theirs.holder() is None
    theirs.hold()
    assert theirs.epoch > ours.epoch
    theirs.release()


def test_of_many_that_want_it_at_once_one_gets_it(
    transport: AdbTransport, other: AdbTransport
) -> None:
    leases = [of(one, name) for one in (transport, other) for name in ("a", "b", "c", "d")]
    granted: list[ShellLease] = []
    ready = threading.Barrier(len(leases))

    def take(one: ShellLease) -> None:
        ready.wait()
        try:
            one.hold()
            granted.append(one)
        except LeaseError:
            pass

    # The same token from both hosts is another connection of the same process.
    for number, one in enumerate(leases):
        one._token = f"{number}" * 8
    threads = [threading.Thread(target=take, args=(one,)) for one in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == 1
    granted[0].release()


def test_an_expired_lease_is_taken_over_and_its_holder_starts_nothing(
    transport: AdbTransport, other: AdbTransport, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "LIFE_SECONDS", 1)
    ours, theirs = of(transport, "anna"), of(other, "bert")
    ours.hold()
    ours.close()
    ours.epoch = 1
    assert transport.run(ours.guarded(["echo", "one launch"]), 10).stdout == b"one launch\n"
    deadline = time.monotonic() + 10
    while theirs.holder() is not None:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    monkeypatch.setattr(lease, "LIFE_SECONDS", 30)
    theirs.hold()
    reply = transport.run(ours.guarded(["echo", "another launch"]), 10)
    assert (reply.exit_code, reply.stdout) == (LOST_EXIT, b"")
    with pytest.raises(LeaseError, match="bert@host"):
        ours.check(reply)
    ours.epoch = 1
    with pytest.raises(LeaseError, match="bert@host"):
        ours.renew()
    theirs.renew()
    assert shell(transport, f"ls {FOLDER}").split() == ["2"]
    theirs.release()


def test_a_command_that_itself_ends_with_75_is_no_lost_lease(transport: AdbTransport) -> None:
    ours = of(transport, "anna")
    ours.hold()
    reply = transport.run(ours.guarded(["sh", "-c", "exit 75"]), 10)
    ours.check(reply)
    ours.release()


@pytest.mark.parametrize(
    "entry",
    [
        "1 another-boot 999999999 tokentok someone",
        "1 BOOT 0 tokentok someone",
        "2 BOOT 999999999 tokentok someone",
        "garbage",
        "",
        "1 BOOT 99999999999999999999 tokentok someone",
    ],
)
def test_a_lease_of_another_boot_or_of_nonsense_is_free(
    transport: AdbTransport, entry: str
) -> None:
    boot = shell(transport, "cat /proc/sys/kernel/random/boot_id").strip()
    text = entry.replace("BOOT", boot)
    shell(transport, f"mkdir -p {FOLDER}/7; echo '{text}' > {FOLDER}/7/entry")
    ours = of(transport, "anna")
    assert ours.holder() is None
    ours.hold()
    assert ours.epoch == 8
    ours.release()


def test_a_host_that_ended_between_folder_and_entry_blocks_nobody(transport: AdbTransport) -> None:
    shell(transport, f"mkdir -p {FOLDER}/3")
    ours = of(transport, "anna")
    ours.hold()
    assert ours.epoch == 4
    ours.release()


def test_a_folder_that_cannot_be_made_is_said(transport: AdbTransport) -> None:
    shell(transport, f"mkdir -p {WORKDIR}; echo x > {FOLDER}")
    with pytest.raises(AgentError, match="cannot be made"):
        of(transport, "anna").hold()


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_any_bytes_are_a_lease_or_our_error(data: bytes) -> None:
    for sent in (data, b"edge-harness-lease held 5 9 no " + data + b"\n"):
        reply = Reply(argv=("sh",), exit_code=0, stdout=sent, stderr=b"", seconds=0.1)
        try:
            found = lease.read(reply, "pixel")
        except AgentError:
            continue
        assert found.holder.isprintable()
        assert 0 <= found.epoch < 1_000_000_000


# --- files -------------------------------------------------------------------------------------------


def named(path: Path, data: bytes) -> tuple[str, Path]:
    path.write_bytes(data)
    return hashlib.sha256(data).hexdigest(), path


def test_a_file_travels_once(transport: AdbTransport, tmp_path: Path) -> None:
    digest, path = named(tmp_path / "runner", b"#!/system/bin/sh\necho ran\n")
    blobs = ShellFolder(transport, transport, "pixel", WORKDIR)
    (sent,) = blobs.deploy({digest: path})
    assert (sent.digest, sent.travelled_bytes) == (digest, path.stat().st_size)
    assert blobs.deploy({digest: path}) == ()
    again = ShellFolder(transport, transport, "pixel", WORKDIR)
    assert again.deploy({digest: path}) == ()
    assert transport.run([again.path_of(digest)], 10).stdout == b"ran\n"
    assert shell(transport, f"ls {WORKDIR}/incoming") == ""


def test_a_file_of_that_name_with_other_content_is_not_taken(
    transport: AdbTransport, tmp_path: Path
) -> None:
    digest, path = named(tmp_path / "model", os.urandom(50_000))
    blobs = ShellFolder(transport, transport, "pixel", WORKDIR)
    shell(transport, f"mkdir -p {WORKDIR}/blobs; echo other > {blobs.path_of(digest)}")
    assert len(blobs.deploy({digest: path})) == 1
    shell(transport, f"rm {blobs.path_of(digest)}; ln -s /system/bin/sh {blobs.path_of(digest)}")
    assert len(ShellFolder(transport, transport, "pixel", WORKDIR).deploy({digest: path})) == 1
    found = shell(transport, f"sha256sum {blobs.path_of(digest)}")
    assert found.startswith(digest)


def test_a_file_that_is_not_what_it_is_called_is_refused(
    transport: AdbTransport, tmp_path: Path
) -> None:
    _, path = named(tmp_path / "model", b"something")
    blobs = ShellFolder(transport, transport, "pixel", WORKDIR)
    with pytest.raises(TransferFailed, match="its sha256 is"):
        blobs.deploy({"0" * 64: path})
    with pytest.raises(TransferFailed, match="not a sha256"):
        blobs.deploy({"../../x": path})
    assert ".part" not in shell(transport, f"ls -R {WORKDIR}")


@given(st.binary(max_size=300))
@settings(max_examples=200)
def test_any_listing_names_only_digests_that_were_asked_for(data: bytes) -> None:
    asked = "ab" * 32
    line = f"{asked}  {asked}\n".encode()
    assert set(files.listed(data, [asked])) <= {asked}
    assert files.listed(data + b"\n" + line, [asked]) == {asked: asked}
    assert files.listed(f"{'cd' * 32}  {asked}\n".encode(), [asked]) == {asked: "cd" * 32}
    assert files.listed(line, ["other"]) == {}
