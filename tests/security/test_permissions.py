"""On a device that others use too: whose folder it is, who can read in it, what is verified there."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import missing
from hostile import everything_under

from harness import api
from harness.config import farm as farms
from harness.config.farm import Farm
from harness.demo import DATA
from harness.demo.loopback_sshd import LoopbackSshd, available, loopback_sshd
from harness.devices import opening
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.dialects.python_agent.packing import agent_zip
from harness.devices.transports.local import LocalTransport
from harness.devices.transports.ssh.transport import open_ssh
from harness.errors import AgentError, HarnessError, TransferFailed
from harness.farm import setup
from harness.measure.sessions import Session
from harness.types import Device, Dose, LaunchOrder

MODEL = DATA / "digits.tflite"
DIGEST = hashlib.sha256(MODEL.read_bytes()).hexdigest()
SFTP_SERVERS = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")

ORDER = LaunchOrder(
    cell_id="c",
    kind="timed",
    block=0,
    position=0,
    variant_digest=DIGEST,
    target="xnnpack",
    threads=1,
    dose=Dose(launches=1, min_inferences=5, min_seconds=0.01, warmup_seconds=0.0),
)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def careless(tmp_path: Path, device_on: Callable[[LoopbackSshd], Device]) -> Iterator[Device]:
    """An account whose every file is for everybody: umask 000 in its shell and in its SFTP server."""
    sftp = next((place for place in SFTP_SERVERS if Path(place).exists()), None)
    if sftp is None or not available():
        missing("no sshd or no sftp-server: `sudo apt-get install openssh-sftp-server`")
    extra = f'Subsystem sftp {sftp} -u 0000\nForceCommand umask 000; eval "$SSH_ORIGINAL_COMMAND"'
    with loopback_sshd(tmp_path / "server", extra=extra) as server:
        yield opening.with_options(device_on(server), python=sys.executable)


def readable_by_others(folder: Path) -> dict[str, str]:
    return {name: oct(mode) for name, mode in everything_under(folder).items() if mode & 0o077}


def test_nothing_is_readable_by_others_whatever_the_umask(careless: Device, tmp_path: Path) -> None:
    check = tmp_path / "umask"
    transport = open_ssh(careless)
    transport.run(["sh", "-c", 'echo > "$1"', "sh", str(check)], 10.0)
    assert stat.S_IMODE(check.stat().st_mode) == 0o666, "the account is as careless as it should be"
    transport.put(MODEL, f"{AgentOptions.of(careless).workdir}/incoming/some.part")
    transport.close()
    work = Path(AgentOptions.of(careless).workdir)
    assert stat.S_IMODE((work / "incoming" / "some.part").stat().st_mode) == 0o600
    assert not readable_by_others(work)

    session = Session(careless)
    session.bring({DIGEST: MODEL})
    session.dialect.launch(ORDER)
    order = dataclasses.replace(ORDER, kind="accuracy")
    session.dialect.infer(order, {"x": np.zeros((2, *input_shape()), np.float32)})
    assert {path.name for path in work.iterdir()} >= {"agents", "blobs", "incoming", "out"}
    assert not readable_by_others(work)
    session.close()
    assert not readable_by_others(work)


def input_shape() -> tuple[int, ...]:
    from ai_edge_litert.interpreter import Interpreter

    shape = Interpreter(model_path=str(MODEL)).get_input_details()[0]["shape"]
    return tuple(int(size) for size in shape[1:])


def test_a_folder_that_was_open_to_all_is_closed(careless: Device) -> None:
    work = Path(AgentOptions.of(careless).workdir)
    for name in ("", "agents", "out"):
        (work / name).mkdir(parents=True, exist_ok=True)
        (work / name).chmod(0o777)
    Session(careless).close()
    assert not readable_by_others(work)


# --- whose folder ---------------------------------------------------------------------------------


@pytest.fixture(params=["local", "ssh"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Device:
    device: Device
    if request.param == "local":
        device = farms.this_machine()
    else:
        device = opening.with_options(request.getfixturevalue("ssh_device"), python=sys.executable)
    return opening.with_options(device, workdir=str(tmp_path / "shared" / "work"))


def refused(device: Device, words: str) -> None:
    with pytest.raises(AgentError, match=words) as caught:
        Session(device)
    assert caught.value.kind == "workdir"
    assert "set another `workdir`" in str(caught.value)


def needs_root() -> None:
    if os.geteuid() != 0:
        missing("files of another user need root")


OTHER = 65534


@pytest.mark.parametrize("which", ["", "agents", "blobs", "runtimes"])
def test_a_folder_that_another_user_made_is_refused(which: str, anywhere: Device) -> None:
    needs_root()
    made = Path(AgentOptions.of(anywhere).workdir) / which
    made.mkdir(parents=True, mode=0o777)
    os.chown(made, OTHER, OTHER)
    before = sorted(Path(AgentOptions.of(anywhere).workdir).rglob("*.zip"))
    refused(anywhere, f"belongs to another user \\(uid {OTHER}\\)")
    assert sorted(Path(AgentOptions.of(anywhere).workdir).rglob("*.zip")) == before


def test_a_folder_inside_another_users_is_refused(anywhere: Device) -> None:
    needs_root()
    above = Path(AgentOptions.of(anywhere).workdir).parent
    above.mkdir()
    os.chown(above, OTHER, OTHER)
    refused(anywhere, "belongs to another user")


def test_a_folder_that_everybody_may_replace_is_refused(anywhere: Device) -> None:
    above = Path(AgentOptions.of(anywhere).workdir).parent
    above.mkdir()
    above.chmod(0o777)
    refused(anywhere, "every user may replace")
    # As /tmp and /var/tmp are: only its owner can take a folder away there.
    above.chmod(0o1777)
    Session(anywhere).close()


@pytest.mark.parametrize("which", ["", "agents", "blobs", "runtimes"])
def test_a_symbolic_link_is_refused(which: str, anywhere: Device, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    (victim / "out").mkdir(parents=True)
    (victim / "out" / "precious").write_text("mine")
    place = Path(AgentOptions.of(anywhere).workdir) / which
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(victim)
    refused(anywhere, "is a symbolic link")
    assert sorted(path.name for path in victim.rglob("*")) == ["out", "precious"]
    if which == "":
        farm = Farm(devices={anywhere.name: anywhere})
        assert "link" in api.clean(farm=farm)[0]["reason"]
    assert (victim / "out" / "precious").read_text() == "mine"


# --- what is verified -----------------------------------------------------------------------------


def test_an_agent_that_was_changed_there_is_not_run(anywhere: Device, tmp_path: Path) -> None:
    archive, digest = agent_zip()
    there = Path(AgentOptions.of(anywhere).workdir) / "agents" / f"{digest}.zip"
    there.parent.mkdir(parents=True, mode=0o700)
    mark = tmp_path / "it ran"
    with zipfile.ZipFile(there, "w") as evil:
        evil.writestr("__main__.py", f"open({str(mark)!r}, 'w').close()")
    Session(anywhere).close()
    assert not mark.exists()
    assert there.read_bytes() == archive.read_bytes()
    assert stat.S_IMODE(there.stat().st_mode) == 0o600


def test_a_file_that_was_changed_after_its_commit_is_not_loaded(anywhere: Device) -> None:
    session = Session(anywhere)
    session.bring({DIGEST: MODEL})
    session.dialect.launch(ORDER)
    blob = Path(AgentOptions.of(anywhere).workdir) / "blobs" / DIGEST
    data = bytearray(blob.read_bytes())
    data[len(data) // 2] ^= 1
    blob.write_bytes(data)
    try:
        with pytest.raises(TransferFailed, match="damaged on the device"):
            session.dialect.launch(ORDER)
    finally:
        session.close()


def test_a_link_in_the_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("mine")
    (tmp_path / "x.part").symlink_to(target)
    with pytest.raises(TransferFailed):
        LocalTransport().put(MODEL, str(tmp_path / "x.part"))
    assert target.read_text() == "mine"


def wheel_of(path: Path, **files: str) -> str:
    with zipfile.ZipFile(path, "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name.replace("__", "/"), text)
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unpack(work: Path, digest: str) -> subprocess.CompletedProcess[bytes]:
    """Run the script of `setup` as a device does."""
    order = {
        "workdir": str(work),
        "name": "ai_edge_litert-1.0",
        "module": "little",
        "digests": [digest],
        "default": True,
        "token": "0",
    }
    argv = ["sh", "-c", 'umask 000; exec "$@"', "sh", sys.executable, "-c", setup._UNPACK]
    return subprocess.run(argv, input=json.dumps(order).encode(), capture_output=True, check=False)


def test_a_wheel_that_was_changed_is_not_unpacked(tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    digest = wheel_of(tmp_path / "wheel", **{"little.py": "x = 1"})
    wheel_of(tmp_path / "blobs" / digest, **{"little.py": "raise SystemExit('owned')"})
    done = unpack(tmp_path, digest)
    assert done.returncode != 0
    assert b"a wheel was changed" in done.stderr
    assert b"owned" not in done.stderr
    assert list((tmp_path / "runtimes").iterdir()) == []


def test_a_wheel_stays_in_its_folder_and_is_nobody_elses(tmp_path: Path) -> None:
    work = tmp_path / "work"
    (work / "blobs").mkdir(parents=True, mode=0o700)
    work.chmod(0o700)
    digest = wheel_of(
        tmp_path / "wheel",
        **{
            "little.py": "x = 1",
            "../../up.py": "x = 1",
            "/abs.py": "x = 1",
            "p-1.data/purelib/../../../data.py": "x = 1",
            "p-1.data/scripts/run": "x",
        },
    )
    (tmp_path / "wheel").rename(work / "blobs" / digest)
    done = unpack(work, digest)
    assert done.returncode == 0, done.stderr
    outside = [p for p in tmp_path.rglob("*.py") if work / "runtimes" not in p.parents]
    assert outside == []
    assert not Path("/abs.py").exists()
    assert not readable_by_others(work / "runtimes")


def test_the_hosts_own_files_are_the_users_own(
    sshd: LoopbackSshd, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`add` under umask 000: the store of host keys and the folder of the configuration."""
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(home / "cache"))
    old = os.umask(0)
    try:
        api.add(
            sshd.uri,
            name="board",
            identity=str(sshd.identity),
            python=sys.executable,
            trust=lambda *_: True,
        )
    except HarnessError as error:
        pytest.fail(str(error))
    finally:
        os.umask(old)
    config = home / ".config" / "edge-harness"
    assert stat.S_IMODE(config.stat().st_mode) == 0o700
    assert stat.S_IMODE((config / "known_hosts").stat().st_mode) == 0o600
    assert stat.S_IMODE((config / "farm.toml").stat().st_mode) & 0o022 == 0
