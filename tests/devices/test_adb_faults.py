"""A phone over a real adbd and a real adb server, and what goes wrong with it.

The link is a relay that stops passing bytes without ending a connection, as a cable or a Wi-Fi does.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from standins import phones
from standins.phones import WORKDIR, Cable, Phone, Server
from standins.scripted_adbd import OLD_BANNER, answers, run_here, scripted_adbd, wait_for_end

from harness.devices.transports.adb.transport import AdbTransport, open_adb
from harness.errors import AgentSilent, TransferFailed, TransportError, Unreachable, Unsupported
from harness.types import Device

NOTICED_SECONDS = 15.0


@contextmanager
def opened(device: Device) -> Iterator[AdbTransport]:
    transport = open_adb(device)
    try:
        yield transport
    finally:
        transport.close()


@pytest.fixture
def wire(pixel: Phone) -> Iterator[Cable]:
    with phones.cable(pixel.port) as made:
        yield made
        pixel.server.adb("disconnect", f"127.0.0.1:{made.port}")


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take a phone for gone after 3 s, to save the test's time."""
    monkeypatch.setattr("harness.devices.transports.adb.link.SILENCE_SECONDS", 3.0)


def by(pixel: Phone, port: int) -> Device:
    return pixel.device_by(pixel.server, f"adb:127.0.0.1:{port}")


def blob(path: Path, size: int) -> Path:
    path.write_bytes(os.urandom(size))
    return path


def test_a_dead_link_is_noticed_though_adb_lists_the_phone(pixel: Phone, wire: Cable) -> None:
    with opened(by(pixel, wire.port)) as transport:
        channel = transport.talk(["sleep", "60"])
        wire.cut()
        started = time.monotonic()
        with pytest.raises(Unreachable, match="no longer answers"):
            channel.read(time.monotonic() + 60)
        assert time.monotonic() - started < NOTICED_SECONDS
        assert f"127.0.0.1:{wire.port}\tdevice" in pixel.server.adb("devices").stdout
        with pytest.raises(Unreachable, match="no longer answers"):
            transport.run(["true"], 10)
        wire.join()


def test_a_link_that_dies_in_the_middle_of_a_file(
    pixel: Phone, wire: Cable, tmp_path: Path, impatient: None
) -> None:
    """adb itself would wait for ever."""
    source = blob(tmp_path / "model", 40_000_000)
    with opened(by(pixel, wire.port)) as transport:
        wire.cut_after = wire.passed + 3_000_000
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"model: about \d+ of 40000000 bytes were sent"):
            transport.put(source, f"{WORKDIR}/big.part")
        assert time.monotonic() - started < NOTICED_SECONDS
        wire.cut_after = None
    # The next connection is a new one: the server's old one is dead, and says that it is alive.
    wire.pull()
    wire.join()
    with opened(by(pixel, wire.port)) as transport:
        assert transport.run(["echo", "on"], 10).stdout == b"on\n"


def test_unplugged_in_the_middle_of_a_file_and_plugged_in_again(
    own_pixel: Phone, tmp_path: Path
) -> None:
    source = blob(tmp_path / "model", 60_000_000)
    with phones.cable(own_pixel.port) as wire:
        transport = open_adb(by(own_pixel, wire.port))
        wire.cut_after = wire.passed + 2_000_000
        threading.Timer(0.5, wire.pull).start()
        started = time.monotonic()
        with pytest.raises(Unreachable, match=r"about \d+ of 60000000 bytes"):
            transport.put(source, f"{WORKDIR}/model.part")
        assert time.monotonic() - started < 5
        transport.close()
        wire.cut_after = None
        wire.join()
        small = blob(tmp_path / "small", 100_000)
        with opened(by(own_pixel, wire.port)) as again:
            again.put(small, f"{WORKDIR}/model.part")
            digest = again.run(["sha256sum", f"{WORKDIR}/model.part"], 10).stdout[:64].decode()
        assert digest == hashlib.sha256(small.read_bytes()).hexdigest()


def test_adbd_killed_and_started_again(own_pixel: Phone) -> None:
    transport = open_adb(own_pixel.device)
    channel = transport.talk(["sleep", "60"])
    own_pixel.kill()
    with pytest.raises(Unreachable):
        channel.read(time.monotonic() + 20)
    with pytest.raises(Unreachable):
        transport.run(["true"], 10)
    transport.close()
    with pytest.raises(Unreachable, match=r"could not connect|is offline"):
        open_adb(own_pixel.device)
    own_pixel.start()
    with opened(own_pixel.device) as again:
        assert again.run(["true"], 10).exit_code == 0


def test_unauthorised_then_authorised(tmp_path: Path) -> None:
    with (
        phones.adb_server(tmp_path / "adb") as server,
        phones.phone(tmp_path / "phone", server, secure=True) as phone,
    ):
        with pytest.raises(Unreachable, match=r"unauthorized.*tap `Allow`"):
            open_adb(phone.device)
        phone.authorise(server)
        server.adb("disconnect", phone.address.removeprefix("adb:"))
        with opened(phone.device) as transport:
            assert transport.run(["id", "-u"], 10).exit_code == 0


def test_the_servers_end_is_noticed_and_the_next_one_is_started(
    tmp_path: Path, pixel: Phone, home: Path
) -> None:
    with phones.adb_server(tmp_path / "adb") as server:
        device = pixel.device_by(server)
        transport = open_adb(device)
        channel = transport.talk(["sleep", "60"])
        server.stop()
        with pytest.raises(Unreachable):
            channel.read(time.monotonic() + 20)
        transport.close()
        with opened(device) as again:
            assert again.run(["true"], 10).exit_code == 0


def test_two_servers_use_one_phone(tmp_path: Path, pixel: Phone) -> None:
    with (
        phones.adb_server(tmp_path / "adb") as second,
        opened(pixel.device) as ours,
        opened(pixel.device_by(second)) as theirs,
    ):
        ours.run(["sh", "-c", f"mkdir -p {WORKDIR}; echo ours > {WORKDIR}/who"], 10)
        assert theirs.run(["cat", f"{WORKDIR}/who"], 10).stdout == b"ours\n"


def test_the_server_that_adbutils_brings_is_used_too(tmp_path: Path, pixel: Phone) -> None:
    """It is years newer than the phone's adbd and than Debian's client."""
    adbutils = pytest.importorskip("adbutils")
    program = Path(adbutils.__file__).parent / "binaries" / "adb"
    if not program.exists():
        pytest.skip("adbutils brings no adb for this system")
    source = blob(tmp_path / "file", 3_000_000)
    with phones.adb_server(tmp_path / "adb", str(program)) as server:
        server.adb("start-server")
        with opened(pixel.device_by(server)) as transport:
            transport.put(source, f"{WORKDIR}/by36.part")
            transport.get(f"{WORKDIR}/by36.part", tmp_path / "back")
            assert transport.run(["cat"], 10, stdin=b"x" * 300_000).stdout == b"x" * 300_000
    assert (tmp_path / "back").read_bytes() == source.read_bytes()


def test_a_folder_a_pipe_and_a_missing_file_are_not_copied(pixel: Phone, tmp_path: Path) -> None:
    with opened(pixel.device) as transport:
        transport.run(["sh", "-c", f"mkdir -p {WORKDIR}; mkfifo {WORKDIR}/pipe"], 10)
        for name, reason in ((f"{WORKDIR}/pipe", "not a regular"), ("/data", "not a regular")):
            with pytest.raises(TransferFailed, match=reason):
                transport.get(name, tmp_path / "back")
        source = blob(tmp_path / "file", 10)
        with pytest.raises(TransferFailed, match="director"):
            transport.put(source, "/data")
        transport.put(source, f"{WORKDIR}/ten")
        with pytest.raises(TransferFailed, match="more than 5 bytes"):
            transport.get(f"{WORKDIR}/ten", tmp_path / "back", 5)
        assert list(tmp_path.iterdir()) == [source]


def test_a_command_that_is_too_long_is_refused(pixel: Phone) -> None:
    with opened(pixel.device) as transport:
        with pytest.raises(TransportError, match="over 60000"):
            transport.run(["echo", "x" * 70_000], 10)
        with pytest.raises(TransportError, match="NUL"):
            transport.run(["echo", "a\0b"], 10)
        assert transport.run(["echo", "x" * 50_000], 10).stdout == b"x" * 50_000 + b"\n"


# --- what a real adbd does not do on demand --------------------------------------------------------

PING = {b"sync:": wait_for_end}


@pytest.fixture
def scripted(adb_server: Server) -> Iterator[Callable[[int], Device]]:
    ports: list[int] = []

    def device(port: int) -> Device:
        ports.append(port)
        return Device(
            name="scripted",
            profile="generic_phone",
            address=f"adb:127.0.0.1:{port}",
            transport_options={"adb_server": f"127.0.0.1:{adb_server.port}"},
        )

    yield device
    for port in ports:
        adb_server.adb("disconnect", f"127.0.0.1:{port}")


def test_a_phone_before_android_7_runs_commands(scripted: Callable[[int], Device]) -> None:
    services = {**PING, b"exec:": run_here}
    script = "cat; echo out; echo err >&2; exit 7"
    with scripted_adbd(services, OLD_BANNER) as port, opened(scripted(port)) as transport:
        reply = transport.run(["sh", "-c", script], 10, stdin=b"some\n")
        assert (reply.exit_code, reply.stdout, reply.stderr) == (7, b"some\nout\n", b"err\n")
        assert transport.run(["printf", "%s", "a b'c"], 10).stdout == b"a b'c"
        with pytest.raises(Unsupported, match="Android 6 or older"):
            transport.talk(["cat"])


def test_a_phone_that_connects_and_then_hangs(
    scripted: Callable[[int], Device], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.devices.transports.adb.link.SILENCE_SECONDS", 0.5)
    with (
        scripted_adbd({b"sync:": None}) as port,
        pytest.raises(Unreachable, match="lists it, but it does not answer"),
    ):
        open_adb(scripted(port))


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"\x01\x04\0\0\0oops", "ended|broke"),
        (b"\x09\x04\0\0\0oops", "kind 9"),
        (b"\x01" + (200_000).to_bytes(4, "little") + b"x" * 200_000, "did not run true"),
        (b"\x01\xff\xff\xff\xffedge-harness-pid 1\n", "ended|broke"),
        (b"", "ended|broke"),
    ],
)
def test_nonsense_on_the_shell_is_an_error(
    scripted: Callable[[int], Device], sent: bytes, reason: str
) -> None:
    services = {**PING, b"shell,v2": answers(sent)}
    with (
        scripted_adbd(services) as port,
        opened(scripted(port)) as transport,
        pytest.raises(TransportError, match=reason),
    ):
        transport.run(["true"], 5)


def test_a_flood_from_the_shell_is_ended(scripted: Callable[[int], Device]) -> None:
    packet = b"\x01" + (1 << 20).to_bytes(4, "little")
    lead = b"\x01\x17\0\0\0edge-harness-pid 12345\n"
    services = {**PING, b"shell,v2": answers(lead + (packet + b"x" * (1 << 20)) * 10)}
    with (
        scripted_adbd(services) as port,
        opened(scripted(port)) as transport,
        pytest.raises(TransportError, match="more than 8388608 bytes"),
    ):
        transport.run(["true"], 20)


STAT_OK = b"STA2" + bytes(20) + (0o100600).to_bytes(4, "little") + bytes(12) + bytes(32)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (b"DATA\xff\xff\xff\x7f", "not adb's file protocol"),
        (b"FAIL\xff\xff\xff\xff" + b"\x1b[31mno\n" * 600, r"\[31mno"),
        (b"WHAT\0\0\0\0", "not adb's file protocol"),
    ],
)
def test_nonsense_on_the_file_service_is_an_error(
    scripted: Callable[[int], Device], tmp_path: Path, sent: bytes, reason: str
) -> None:
    def service(_: bytes, stream: object) -> None:
        stream.read(11)  # type: ignore[attr-defined]
        stream.write(STAT_OK + sent)  # type: ignore[attr-defined]
        stream.read(1 << 30)  # type: ignore[attr-defined]

    with (
        scripted_adbd({b"sync:": service}) as port,
        opened(scripted(port)) as transport,
        pytest.raises(TransferFailed, match=reason) as failed,
    ):
        transport.get("/xy", tmp_path / "out")
    assert "\x1b" not in str(failed.value)
    assert not list(tmp_path.iterdir())


def test_a_deadline_passes_while_the_shell_says_nothing(
    scripted: Callable[[int], Device], pixel: Phone
) -> None:
    with (
        scripted_adbd({**PING, b"shell,v2": wait_for_end}) as port,
        opened(scripted(port)) as transport,
        pytest.raises(AgentSilent),
    ):
        transport.run(["true"], 0.5)
