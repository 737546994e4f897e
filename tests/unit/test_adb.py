"""adb without a phone: addresses, options, what the server lists, and streams of any bytes."""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.config import farm as farms
from harness.devices import opening
from harness.devices.transports.adb import listing
from harness.devices.transports.adb.files import AdbFiles, SyncFailed
from harness.devices.transports.adb.link import Wire
from harness.devices.transports.adb.options import AdbAddress, AdbOptions
from harness.devices.transports.adb.server import INSTALL, Refused, Server
from harness.devices.transports.adb.shell import AdbShell, command
from harness.devices.transports.adb.transport import AdbTransport, open_adb
from harness.errors import ConfigError, HarnessError, TransferFailed, TransportError, Unreachable
from harness.protocols import Reply
from harness.types import Device


def device(address: str, **options: str) -> Device:
    return Device(name="pixel", profile="p", address=address, transport_options=options)


# --- addresses and options -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "serial", "is_network", "name"),
    [
        ("adb:R58M12ABCDE", "R58M12ABCDE", False, "R58M12ABCDE"),
        ("adb:emulator-5554", "emulator-5554", False, "emulator-5554"),
        ("adb:10.0.0.7:5555", "10.0.0.7:5555", True, "10.0.0.7-5555"),
        ("adb:[fe80::1%wlan0]:5555", "[fe80::1%wlan0]:5555", True, "fe80-1-wlan0-5555"),
        ("adb:usb:1-4.2", "usb:1-4.2", False, "usb-1-4.2"),
        (
            "adb:adb-R58M-x1Yz._adb-tls-connect._tcp",
            "adb-R58M-x1Yz._adb-tls-connect._tcp",
            False,
            "",
        ),
        ("adb:", "", False, "phone"),
    ],
)
def test_addresses(address: str, serial: str, is_network: bool, name: str) -> None:
    made = AdbAddress.of(device(address))
    assert (made.serial, made.is_network) == (serial, is_network)
    entry = farms.from_uri(address)
    assert entry.address == address
    assert not name or entry.name == name
    assert entry.dialect_options["workdir"] == "/data/local/tmp/edge-harness"
    opening.check(entry)


@pytest.mark.parametrize(
    "address", ["adb:two words", "adb:-s", "adb:10.0.0.7:99999", "adb:\x1b[0m"]
)
def test_addresses_that_mean_nothing(address: str) -> None:
    with pytest.raises(ConfigError, match="pixel: address"):
        AdbAddress.of(device(address))


@pytest.mark.parametrize(
    "text", ["", "x:y", "127.0.0.1:0", "127.0.0.1:70000", "host:", "a b:1", ":5037"]
)
def test_a_server_that_is_no_place(text: str) -> None:
    with pytest.raises(ConfigError, match="adb_server"):
        AdbOptions.of(device("adb:x", adb_server=text))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("5038", ("127.0.0.1", 5038)),
        ("127.0.0.1:5037", ("127.0.0.1", 5037)),
        ("[::1]:5037", ("::1", 5037)),
        ("lab.example:5037", ("lab.example", 5037)),
    ],
)
def test_the_place_of_a_server(text: str, place: tuple[str, int]) -> None:
    assert AdbOptions.of(device("adb:x", adb_server=text)).server == place


def test_without_the_option_the_server_is_the_one_of_adb(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANDROID_ADB_SERVER_PORT", raising=False)
    assert AdbOptions.of(device("adb:x")).server == ("127.0.0.1", 5037)
    monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", "5099")
    assert AdbOptions.of(device("adb:x")).server == ("127.0.0.1", 5099)


# --- the server ------------------------------------------------------------------------------------


def test_without_adb_the_command_that_installs_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("harness.devices.transports.adb.server.adb_program", lambda: None)
    with pytest.raises(Unreachable, match=INSTALL):
        open_adb(device("adb:x", adb_server=str(unused_port())))


def test_a_server_elsewhere_is_not_started_here() -> None:
    with pytest.raises(Unreachable, match=r"start one on that host with `adb -a -P"):
        open_adb(device("adb:x", adb_server=f"127.0.0.2:{unused_port()}"))


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"OKAY0004zzzz", b"OKAYffff", b""]
)
def test_another_program_on_the_port_is_said_and_left_alone(answer: bytes) -> None:
    with (
        answering({b"host:version": answer}) as port,
        pytest.raises(Unreachable, match="it is no adb server"),
    ):
        open_adb(device("adb:x", adb_server=str(port)))


def test_a_server_that_is_too_old_is_said_and_left_alone() -> None:
    with (
        answering({b"host:version": okay("0020")}) as port,
        pytest.raises(Unreachable, match=rf"too old \(version 32.*`adb -P {port} kill-server`"),
    ):
        open_adb(device("adb:x", adb_server=str(port)))


def test_a_server_of_another_version_is_used_as_it_is() -> None:
    """Running `adb` would restart it, and cut every connection of other programs."""
    listed = "R58 device product:a model:Phone device:b transport_id:3\n"
    answers = {
        b"host:version": okay("002a"),
        b"host:devices-l": okay(listed),
        b"host:transport-id:3": b"OKAYOKAY",
        b"host-transport-id:3:features": okay("shell_v2"),
    }
    with answering(answers) as port:
        transport = open_adb(device("adb:", adb_server=str(port)))
        assert transport.has_shell_2
        transport.close()


# --- what it lists -----------------------------------------------------------------------------------

LISTED = """\
R58 device usb:1-4 product:o1s model:SM_G991B device:o1s transport_id:1
????????????           no permissions (user in plugdev group; are your udev rules wrong?); see [http://x] usb:1-2 transport_id:2
10.0.0.7:5555          offline transport_id:3
emulator-5554          unauthorized transport_id:14
FA6A70 recovery usb:2-1 product:x model:y device:z transport_id:5

nonsense
other strange transport_id:6
"""


def test_the_list_of_devices() -> None:
    found = listing.read(LISTED)
    assert [(one.serial, one.state, one.transport, one.path) for one in found] == [
        ("R58", "device", 1, "usb:1-4"),
        ("????????????", "no permissions", 2, "usb:1-2"),
        ("10.0.0.7:5555", "offline", 3, ""),
        ("emulator-5554", "unauthorized", 14, ""),
        ("FA6A70", "recovery", 5, "usb:2-1"),
    ]


class Lists(Server):
    """A server with a fixed list."""

    def __init__(self, *lines: str, answers: Mapping[str, str | Exception] | None = None) -> None:
        super().__init__("127.0.0.1", 5037)
        self.answers = {"host:devices-l": "\n".join(lines), **(answers or {})}
        self.asked: list[str] = []

    def ask(self, service: str, seconds: float = 1.0) -> str:
        self.asked.append(service)
        answer = self.answers.get(service, Refused(f"unknown {service}"))
        if isinstance(answer, Exception):
            raise answer
        return answer


def why(address: str, *lines: str, **more: Any) -> str:
    with pytest.raises(Unreachable) as raised:
        listing.find(Lists(*lines, **more), AdbAddress.of(device(address)))
    return str(raised.value)


A = "A device usb:1-1 model:Pixel_6 transport_id:1"
B = "B device usb:1-2 model:SM_G991B transport_id:2"


@pytest.mark.parametrize(
    ("address", "lines", "parts"),
    [
        ("adb:", (), ("lists no phone (listed: none)", "USB debugging")),
        ("adb:", (A, B), ("lists 2", "adb:A (Pixel_6); adb:B (SM_G991B)")),
        ("adb:C", (A,), ("no phone C (listed: adb:A (device))",)),
        ("adb:10.0.0.7", (), ("write its port too: adb:10.0.0.7:5555",)),
        ("adb:A", (A, A.replace("1-1", "1-7").replace("id:1", "id:9")),
         ("the serial A exists twice: usb:1-1 and usb:1-7", "adb:usb:1-1")),
        ("adb:", ("S unauthorized usb:1-1 transport_id:1",), ("unlock it and tap `Allow`",)),
        ("adb:S", ("S bootloader usb:1-1 transport_id:1",), ("`fastboot reboot`",)),
        ("adb:S", ("S sideload usb:1-1 transport_id:1",), ("mode sideload", "adb -s S reboot")),
        ("adb:S", ("S recovery usb:1-1 transport_id:1",), ("mode recovery", "adb -s S reboot")),
        ("adb:S", ("S no permissions (x); see [y] usb:1-1 transport_id:1",), ("udev rules", "plugdev")),
    ],
)  # fmt: skip
def test_a_phone_that_cannot_be_used_says_why(
    address: str, lines: tuple[str, ...], parts: tuple[str, ...]
) -> None:
    found = why(address, *lines)
    for part in parts:
        assert part in found


@pytest.mark.parametrize("state", ["offline", "authorizing", "connecting"])
def test_a_state_that_passes_is_waited_for(state: str, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Lists(f"S {state} usb:1-1 transport_id:1")
    seen = []

    def sleep(_: float) -> None:
        seen.append(server)
        server.answers["host:devices-l"] = "S device usb:1-1 transport_id:4"

    monkeypatch.setattr(listing.time, "sleep", sleep)
    assert listing.find(server, AdbAddress.of(device("adb:S"))).transport == 4
    assert len(seen) == 1


def test_a_state_that_does_not_pass_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_SETTLE_SECONDS", 0.05)
    assert "reconnect offline" in why("adb:S", "S offline usb:1-1 transport_id:1")


def test_a_place_on_the_usb_is_an_address() -> None:
    assert listing.find(Lists(A, B), AdbAddress.of(device("adb:usb:1-2"))).serial == "B"


def test_a_phone_in_the_network_is_connected_first() -> None:
    refused = "failed to connect to '10.0.0.7:5555': Connection refused"
    found = why("adb:10.0.0.7:5555", answers={"host:connect:10.0.0.7:5555": refused})
    assert "Connection refused" in found
    assert "adb pair HOST:PORT CODE" in found


def test_an_offline_phone_in_the_network_is_connected_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "_SETTLE_SECONDS", 0.3)
    place = "10.0.0.7:5555"
    answers = {f"host:connect:{place}": "connected to it", f"host:disconnect:{place}": "x"}
    server = Lists(f"{place} offline transport_id:1", answers=answers)
    with pytest.raises(Unreachable, match="is offline"):
        listing.find(server, AdbAddress.of(device(f"adb:{place}")))
    order = [one for one in server.asked if "connect:" in one]
    assert order[:2] == [f"host:disconnect:{place}", f"host:connect:{place}"]


@given(st.text(max_size=400))
@settings(max_examples=300)
def test_any_list_is_phones_or_nothing(text: str) -> None:
    for one in listing.read(f"{text}\n{text} device {text} transport_id:7"):
        assert one.transport >= 0
        assert "\x1b" not in one.serial + one.model


# --- streams of any bytes ----------------------------------------------------------------------------


class FakeLink:
    """A link whose services send fixed bytes."""

    where = "pixel (S)"

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._ends: list[socket.socket] = []

    def open(self, service: bytes, seconds: float = 1.0) -> Wire:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.sendall(self._data)
        far.shutdown(socket.SHUT_WR)
        self._ends.append(far)
        return Wire(near, self)  # type: ignore[arg-type]

    def check(self) -> None: ...
    def alive(self) -> None: ...
    def drop(self, wire: Wire) -> None: ...
    def reason(self) -> str | None:
        return None

    def close(self) -> None:
        for one in self._ends:
            one.close()


LEAD = b"\x01\x17\0\0\0edge-harness-pid 12345\n"


@given(
    data=st.binary(max_size=60),
    packets=st.lists(st.tuples(st.integers(0, 6), st.binary(max_size=20)), max_size=4),
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_from_the_shell_are_output_or_our_error(
    data: bytes, packets: list[tuple[int, bytes]]
) -> None:
    body = b"".join(struct.pack("<BI", kind, len(part)) + part for kind, part in packets)
    for sent in (data, LEAD + body + data):
        link: Any = FakeLink(sent)
        shell: AdbShell | None = None
        try:
            shell = AdbShell(link, ["true"], reads=False)
            deadline = time.monotonic() + 5
            while shell.read(deadline):
                pass
            assert 0 <= shell.wait(deadline) <= 255
        except HarnessError:
            pass
        finally:
            if shell is not None:
                shell.close(0.0)
            link.close()


@given(
    data=st.binary(max_size=120), kind=st.sampled_from([b"", b"DATA", b"FAIL", b"DONE", b"OKAY"])
)
@settings(max_examples=200, deadline=None)
def test_any_bytes_from_the_file_service_are_a_file_or_our_error(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: bytes
) -> None:
    folder = tmp_path_factory.mktemp("any")
    found = b"STAT" + struct.pack("<III", 0o100600, 5, 0)
    for sent in (data, found + kind + data):
        link: Any = FakeLink(sent)
        nothing: Callable[..., Any] = lambda *_: ""  # noqa: E731
        files = AdbFiles(
            link, has_stat_2=False, prepare=nothing, finish=nothing, free_space=nothing
        )
        (folder / "source").write_bytes(b"x" * 10)
        with suppress(TransferFailed, Unreachable):
            files.get("/x", folder / "out")
        with suppress(TransferFailed, Unreachable):
            files.put(folder / "source", "/x")
        link.close()
    assert {one.name for one in folder.iterdir()} <= {"source", "out"}


@given(st.binary(max_size=40), st.integers(0, 255))
def test_whatever_a_command_on_a_file_prints_is_our_error(data: bytes, code: int) -> None:
    transport: Any = AdbTransport.__new__(AdbTransport)
    transport.run = lambda argv, _: Reply(
        argv=tuple(argv), exit_code=code, stdout=data, stderr=data, seconds=0.1
    )
    with suppress(SyncFailed):
        transport._own("/x")
        assert code == 0


def test_quotes_reach_the_phones_shell() -> None:
    assert (
        command(["a b", "$x", "it's"])
        == b"""echo "edge-harness-pid $$"; exec 'a b' '$x' 'it'"'"'s'"""
    )
    with pytest.raises(TransportError, match="over 60000"):
        command(["x" * 70_000])


# --- a server of our own -----------------------------------------------------------------------------


def unused_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def okay(text: str) -> bytes:
    return b"OKAY%04x" % len(text) + text.encode()


class answering:  # noqa: N801 - reads as a verb
    """A server that answers each request with fixed bytes; the connection then ends."""

    def __init__(self, answers: Mapping[bytes, bytes]) -> None:
        self._answers = answers
        self._server = socket.create_server(("127.0.0.1", 0))

    def __enter__(self) -> int:
        import threading

        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        port: int = self._server.getsockname()[1]
        return port

    def __exit__(self, *_: object) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self._thread.join(5)

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._server.accept()
                with sock, suppress(OSError, ValueError):
                    sock.settimeout(5)
                    request = sock.recv(4096)
                    sock.sendall(self._answers.get(request[4:], b"FAIL0002no"))
                    sock.shutdown(socket.SHUT_WR)
                    sock.recv(4096)


def test_a_file_is_not_opened_twice(tmp_path: Path) -> None:
    """A missing file of this host is named before the phone is asked."""
    link: Any = FakeLink(b"")
    nothing: Callable[..., Any] = lambda *_: ""  # noqa: E731
    files = AdbFiles(link, has_stat_2=True, prepare=nothing, finish=nothing, free_space=nothing)
    with pytest.raises(TransferFailed, match="nowhere"):
        files.put(tmp_path / "nowhere", "/x")
    link.close()
