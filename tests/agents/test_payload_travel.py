"""Packed files on their way: fewer bytes travel, the device checks what comes out, or refuses."""

from __future__ import annotations

import gzip
import lzma
import os
import random
import re
import signal
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import zstandard
from agent_lab import RawAgent, digest_of, wait_until
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.devices.dialects.python_agent import transfer
from harness.devices.dialects.python_agent.dialect import open_json_lines
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.local import LocalTransport
from harness.errors import TransferFailed
from harness.events import Event
from harness.measure.bench import Bench
from harness.measure.sessions import Session
from harness.tflite import payload
from harness.types import Device

pytest_plugins = ("agent_fixtures",)
pytestmark = pytest.mark.usefixtures("own_cache")

PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lzma.compress,
    "zstd": zstandard.ZstdCompressor().compress,
}
PLAIN = bytes(random.Random(0).choices(range(16), k=20_000))
FUZZ = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@pytest.fixture(params=sorted(PACK))
def codec(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(name="plain")
def _plain(tmp_path: Path) -> Path:
    path = tmp_path / "plain"
    path.write_bytes(PLAIN)
    return path


def send(raw: RawAgent, packed: bytes, digest: str, **fields: Any) -> dict[str, Any]:
    (raw.workdir / "incoming" / "packed.part").write_bytes(packed)
    return raw.ask("commit", digest=digest, part="packed.part", **fields)


def nothing_is_left(raw: RawAgent) -> bool:
    return not [*(raw.workdir / "incoming").iterdir(), *(raw.workdir / "blobs").iterdir()]


# --- the device's end ----------------------------------------------------------------------------


def test_the_device_says_what_it_unpacks(raw: RawAgent) -> None:
    known = raw.ask("have", digests=[])["unpacks"]
    # zstandard is in the venv that these tests run in; a board's Python has at least gzip.
    assert known == ["zstd", "xz", "gzip"]
    assert raw.ask("hello")["facts"]["extra"]["unpacks"] == known


def test_a_packed_part_becomes_the_file(raw: RawAgent, codec: str, plain: Path) -> None:
    packed = PACK[codec](PLAIN)
    digest = digest_of(plain)
    answer = send(raw, packed, digest, codec=codec, bytes=len(PLAIN))
    assert (answer["event"], answer["bytes"], answer["arrived"]) == (
        "result",
        len(PLAIN),
        len(packed),
    )
    blob = raw.workdir / "blobs" / digest
    assert blob.read_bytes() == PLAIN
    assert blob.stat().st_mode & 0o777 == 0o600
    assert not list((raw.workdir / "incoming").iterdir())


def test_more_than_was_promised_is_refused(raw: RawAgent, codec: str, plain: Path) -> None:
    answer = send(raw, PACK[codec](PLAIN), digest_of(plain), codec=codec, bytes=len(PLAIN) - 1)
    assert (answer["kind"], nothing_is_left(raw)) == ("transfer_failed", True)
    assert "more than the 19999 bytes promised" in answer["reason"]


def test_a_bomb_is_refused_and_the_agent_lives_on(raw: RawAgent, codec: str) -> None:
    bomb = PACK[codec](bytes(60_000_000))
    assert len(bomb) < 100_000
    answer = send(raw, bomb, "0" * 64, codec=codec, bytes=1_000_000)
    assert (answer["kind"], nothing_is_left(raw)) == ("transfer_failed", True)
    assert "promised" in answer["reason"]
    assert raw.ask("have", digests=[])["event"] == "result"


def test_less_than_was_promised_is_refused_by_its_digest(raw: RawAgent, codec: str) -> None:
    answer = send(raw, PACK[codec](b"short"), "0" * 64, codec=codec, bytes=100)
    assert (answer["kind"], nothing_is_left(raw)) == ("transfer_failed", True)
    assert "5 bytes with sha256" in answer["reason"]


@given(harm=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6), st.integers(0, 255)))
@FUZZ
def test_a_damaged_part_is_refused(
    raw: RawAgent, codec: str, plain: Path, harm: tuple[int, int, int]
) -> None:
    cut, place, change = harm
    packed = bytearray(PACK[codec](PLAIN))
    packed[place % len(packed)] ^= change
    packed = packed[: max(cut % (2 * len(packed)), 1)]
    digest = digest_of(plain)
    answer = send(raw, bytes(packed), digest, codec=codec, bytes=len(PLAIN))
    if answer["event"] == "error":
        assert answer["kind"] == "transfer_failed"
        assert "deleted" in answer["reason"]
        assert nothing_is_left(raw)
    else:
        # Bytes that mean nothing to the codec: the time in gzip's header, ...
        blob = raw.workdir / "blobs" / digest
        assert blob.read_bytes() == PLAIN
        blob.unlink()


@given(data=st.binary(max_size=200))
@FUZZ
def test_any_bytes_are_refused(raw: RawAgent, codec: str, data: bytes) -> None:
    answer = send(raw, data, "0" * 64, codec=codec, bytes=1000)
    assert (answer["kind"], nothing_is_left(raw)) == ("transfer_failed", True)


def test_the_agent_stays_small_while_it_unpacks(raw: RawAgent, codec: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(random.Random(3).randbytes(transfer.QUICK_OVER_BYTES // 8) * 8)
    pid = next(int(one.name) for one in Path("/proc").iterdir() if _is_agent(one.name, raw))
    packed = payload.get(codec).pack(path.read_bytes())
    answer = send(raw, packed, digest_of(path), codec=codec, bytes=path.stat().st_size)
    assert answer["event"] == "result"
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert peak
    assert int(peak[1]) < 25_000


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"codec": "rar", "bytes": 1}, "unknown codec 'rar'"),
        ({"codec": ["gzip"], "bytes": 1}, "unknown codec"),
        ({"codec": "gzip", "bytes": -1}, "whole number"),
        ({"codec": "gzip", "bytes": "5"}, "whole number"),
        ({"codec": "gzip", "bytes": True}, "whole number"),
    ],
)
def test_a_packing_that_does_not_hold_together(
    raw: RawAgent, fields: dict[str, Any], reason: str
) -> None:
    answer = send(raw, PACK["gzip"](PLAIN), "0" * 64, **fields)
    assert answer["kind"] == "protocol"
    assert reason in answer["reason"]


def test_a_packed_part_that_is_not_there(raw: RawAgent) -> None:
    answer = raw.ask("commit", digest="0" * 64, part="none.part", codec="gzip", bytes=5)
    assert answer["kind"] == "transfer_failed"
    assert "none.part" in answer["reason"]


def test_an_agent_that_is_killed_leaves_no_half_file(raw: RawAgent) -> None:
    part = raw.workdir / "incoming" / "big.part"
    part.write_bytes(gzip.compress(bytes(500_000_000), 1))
    pid = next(int(one.name) for one in Path("/proc").iterdir() if _is_agent(one.name, raw))
    raw.send("commit", digest="0" * 64, part="big.part", codec="gzip", bytes=500_000_000)
    unpacked = raw.workdir / "incoming" / "big.part.unpacked"
    wait_until(lambda: unpacked.exists() and unpacked.stat().st_size)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not _is_agent(str(pid), raw))
    assert unpacked.stat().st_size < 500_000_000
    assert not list((raw.workdir / "blobs").iterdir())


def _is_agent(pid: str, raw: RawAgent) -> bool:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
    except OSError:
        return False
    return arguments[-1].startswith(os.fsencode(raw.workdir / "agents"))


# --- the host's end ------------------------------------------------------------------------------


class Counting(LocalTransport):
    """This machine over a link that counts, and that may damage what it carries."""

    def __init__(self, damage: Callable[[bytes], bytes] = bytes) -> None:
        super().__init__()
        self.sent: list[int] = []
        self._damage = damage

    def put(self, source: Path, destination: str) -> None:
        super().put(source, destination)
        if "/incoming/" in destination:
            self.sent.append(source.stat().st_size)
            target = Path(destination)
            target.write_bytes(self._damage(target.read_bytes()))


@pytest.fixture
def far(device: Device) -> Device:
    """This machine, under an address that is not this machine's."""
    return replace(device, address="ssh://far")


def test_fewer_bytes_travel_and_none_the_second_time(far: Device, plain: Path) -> None:
    transport = Counting()
    dialect = open_json_lines(transport, far)
    digest = digest_of(plain)
    (push,) = dialect.deploy({digest: plain})
    assert transport.sent == [push.travelled_bytes]
    assert push.travelled_bytes < 0.6 * push.file_bytes == 0.6 * len(PLAIN)
    assert (push.digest, push.codec) == (digest, "zstd")
    assert push.seconds > 0
    assert dialect.deploy({digest: plain}) == ()
    assert len(transport.sent) == 1
    assert (Path(AgentOptions.of(far).workdir) / "blobs" / digest).read_bytes() == PLAIN
    dialect.close()


def test_to_this_machine_files_go_as_they_are(device: Device, plain: Path) -> None:
    transport = Counting()
    dialect = open_json_lines(transport, device)
    (push,) = dialect.deploy({digest_of(plain): plain})
    assert transport.sent == [push.travelled_bytes] == [len(PLAIN)]
    assert push.codec is None
    dialect.close()


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:100] + bytes([data[100] ^ 1]) + data[101:],
        lambda _: zstandard.ZstdCompressor().compress(bytes(10**8)),
    ],
    ids=["cut", "flipped", "bomb"],
)
def test_a_link_that_damages_is_found_out(
    far: Device, plain: Path, damage: Callable[[bytes], bytes]
) -> None:
    dialect = open_json_lines(Counting(damage), far)
    with pytest.raises(TransferFailed, match="bench-one"):
        dialect.deploy({digest_of(plain): plain})
    for folder in ("incoming", "blobs"):
        assert not list((Path(AgentOptions.of(far).workdir) / folder).iterdir())
    # Damaged once is not damaged for ever: the next attempt is a whole one.
    dialect.close()
    dialect = open_json_lines(Counting(), far)
    assert dialect.deploy({digest_of(plain): plain})
    dialect.close()


def test_over_a_real_sshd_a_run_tells_what_travelled(
    ssh_device: Device, plain: Path, own_cache: None
) -> None:
    events: list[Event] = []
    session = Session(ssh_device)
    bench = Bench(session=session, emit=events.append)
    try:
        for _ in range(2):
            bench.bring({digest_of(plain): plain})
    finally:
        session.close()
    (pushed,) = events
    event = pushed.plain()
    assert (event["event"], event["device"]) == ("pushed", "loopback")
    assert event["file_bytes"] == len(PLAIN)
    assert event["travelled_bytes"] < 0.6 * len(PLAIN)
    assert event["codec"] in {"zstd", "xz", "gzip"}
    blob = Path(AgentOptions.of(ssh_device).workdir) / "blobs" / digest_of(plain)
    assert blob.read_bytes() == PLAIN


# --- which form ----------------------------------------------------------------------------------


def form(path: Path, device: Device, unpacks: Collection[str], folder: Path) -> str | None:
    found = transfer.encode(path, device, unpacks, folder)
    assert found.file_bytes == path.stat().st_size
    assert (found.path == path) == (found.codec is None)
    return found.codec


@pytest.mark.parametrize(
    ("unpacks", "codec"),
    [
        ((), None),
        (("lz9",), None),
        (("gzip",), "gzip"),
        (("gzip", "xz"), "xz"),
        (("gzip", "xz", "zstd"), "zstd"),
    ],
)
def test_the_best_that_both_know(
    far: Device, plain: Path, tmp_path: Path, unpacks: tuple[str, ...], codec: str | None
) -> None:
    assert form(plain, far, unpacks, tmp_path) == codec


def test_what_does_not_shrink_goes_as_it_is(far: Device, tmp_path: Path) -> None:
    noise, small, empty = tmp_path / "noise", tmp_path / "small", tmp_path / "empty"
    noise.write_bytes(random.Random(1).randbytes(3_000_000))
    small.write_bytes(bytes(1000))
    empty.touch()
    for path in (noise, small, empty):
        assert form(path, far, ("xz", "gzip"), tmp_path) is None


def test_a_look_that_was_wrong_is_made_good(far: Device, tmp_path: Path) -> None:
    # Zeros at each of the four places that are looked at, noise between them.
    hole = bytes(1 << 18)
    noise = random.Random(2).randbytes(4_000_000)
    path = tmp_path / "file"
    path.write_bytes(hole + noise + hole + noise + hole + noise + hole)
    assert form(path, far, ("gzip",), tmp_path) is None


def test_a_large_file_is_packed_quickly(
    far: Device, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "QUICK_OVER_BYTES", len(PLAIN) - 1)
    assert form(plain, far, ("xz", "gzip"), tmp_path) == "gzip"
    assert form(plain, far, ("xz",), tmp_path) is None


def test_a_file_that_is_gone_is_named(far: Device, tmp_path: Path) -> None:
    with pytest.raises(TransferFailed, match=r"gone.*bench-one"):
        transfer.encode(tmp_path / "gone", far, ("gzip",), tmp_path)
