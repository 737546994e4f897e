"""Install a runtime on a device without one: real pip, real agent, small wheels."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import time
import tomllib
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness import api
from harness.config import farm as farms
from harness.demo.loopback_sshd import LoopbackSshd
from harness.devices import opening
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.errors import HarnessError, RuntimeMissing, TransferFailed
from harness.farm import setup
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux.survey import System
from harness.farm.probe import Probe
from harness.farm.setup import Installation
from harness.farm.wheels import RuntimeRequirement, Site
from harness.measure.sessions import Session
from harness.types import Device, Dose, LaunchOrder

MODEL = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data" / "digits.tflite"
COMMAND = str(Path(sys.executable).parent / "edge-harness")
WHEEL = "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
INTERPRETER = "import numpy\nclass Interpreter: pass\n"


def runtime_wheel(index: Path, version: str, interpreter: str = INTERPRETER) -> None:
    """Write a wheel of a runtime with this source of its interpreter module."""
    info, data = f"ai_edge_litert-{version}.dist-info", f"ai_edge_litert-{version}.data"
    with zipfile.ZipFile(index / f"ai_edge_litert-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr("ai_edge_litert/", "")
        archive.writestr("ai_edge_litert/__init__.py", f"__version__ = {version!r}\n")
        archive.writestr(f"{data}/purelib/ai_edge_litert/interpreter.py", interpreter)
        archive.writestr(f"{data}/scripts/tflite-tool", "#!python\n")
        archive.writestr("../../evil.py", "evil = True\n")
        metadata = f"Metadata-Version: 2.1\nName: ai-edge-litert\nVersion: {version}\n"
        archive.writestr(f"{info}/METADATA", metadata + "Requires-Dist: numpy\n")
        archive.writestr(f"{info}/WHEEL", WHEEL)


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two versions of a runtime and a NumPy, the only index that pip uses."""
    folder = tmp_path / "index"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    for version in ("9.1", "9.10"):
        runtime_wheel(folder, version)
    with zipfile.ZipFile(folder / "numpy-3.0-py3-none-any.whl", "w") as archive:
        archive.writestr("numpy/__init__.py", "__version__ = '3.0'\n")
        metadata = "Metadata-Version: 2.1\nName: numpy\nVersion: 3.0\n"
        archive.writestr("numpy-3.0.dist-info/METADATA", metadata)
        archive.writestr("numpy-3.0.dist-info/WHEEL", WHEEL)
    return folder


@pytest.fixture
def board(home: Path, tmp_path: Path) -> Device:
    """This machine as a device with an empty venv's Python."""
    venv.create(tmp_path / "board", symlinks=True)
    return Device(
        name="board",
        profile="linux_x86_64",
        address="local:",
        dialect_options={
            "python": str(tmp_path / "board" / "bin" / "python"),
            "workdir": str(tmp_path / "wörk dir"),
        },
    )


@pytest.fixture
def installed(board: Device) -> Iterator[Callable[..., Installation]]:
    """Install on the board in a new session, like the command."""

    def install(wanted: str | None = None, *, dry_run: bool = False) -> Installation:
        session = Session(board)
        try:
            asked = RuntimeRequirement.parse(wanted) if wanted else None
            return setup.install(session, asked, dry_run=dry_run, on_progress=lambda _: None)
        finally:
            session.close()

    yield install
    assert not list(Path(AgentOptions.of(board).workdir).glob("runtimes/.*")), (
        "an unfinished folder was left"
    )
    assert not list(Path(AgentOptions.of(board).workdir).glob("blobs/*")), "a wheel was left"


def runtimes_of(board: Device) -> list[tuple[str, str, str | None]]:
    session = Session(board)
    session.close()
    return [(one.name, one.version, one.numpy) for one in session.facts.runtimes]


def names_in(board: Device) -> set[str]:
    folder = Path(AgentOptions.of(board).workdir) / "runtimes"
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def test_a_dry_run_reports_everything_and_changes_nothing(
    index: Path, board: Device, installed: Callable[..., Installation]
) -> None:
    made = installed(dry_run=True)
    assert (made.runtime, made.version, made.default, made.done) == (
        "ai_edge_litert",
        "9.10",
        True,
        False,
    )
    assert made.folder == f"{AgentOptions.of(board).workdir}/runtimes/ai_edge_litert-9.10"
    assert made.wheels == ("ai_edge_litert-9.10-py3-none-any.whl", "numpy-3.0-py3-none-any.whl")
    assert "would install ai_edge_litert 9.10" in made.text()
    assert names_in(board) == set()


def test_versions_are_installed_side_by_side_and_the_first_is_the_default(
    index: Path, board: Device, installed: Callable[..., Installation], tmp_path: Path
) -> None:
    assert installed("ai_edge_litert==9.1").default
    assert not installed("ai_edge_litert==9.10").default
    assert names_in(board) == {"ai_edge_litert-9.1", "ai_edge_litert-9.10", "default"}
    assert runtimes_of(board) == [
        ("ai_edge_litert", "9.1", "3.0"),
        ("ai_edge_litert", "9.10", None),
    ]
    folder = Path(AgentOptions.of(board).workdir) / "runtimes" / "ai_edge_litert-9.1"
    assert (folder / "ai_edge_litert" / "interpreter.py").is_file()
    assert not list(folder.rglob("tflite-tool"))
    # A path that leads out of the folder is extracted inside of it.
    places = {path.parent for path in tmp_path.rglob("evil.py")}
    assert places == {folder, folder.with_name("ai_edge_litert-9.10")}
    modes = {path.stat().st_mode & 0o077 for path in folder.rglob("*")}
    assert modes == {0}


def test_an_installed_runtime_is_not_replaced_and_needs_no_index(
    index: Path,
    board: Device,
    installed: Callable[..., Installation],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    installed("ai_edge_litert==9.1")
    folder = Path(AgentOptions.of(board).workdir) / "runtimes" / "ai_edge_litert-9.1"
    before = folder.stat().st_ino, folder.stat().st_mtime_ns
    monkeypatch.setenv("PIP_FIND_LINKS", str(index / "nowhere"))
    for wanted in (None, "ai_edge_litert", "ai_edge_litert==9.1"):
        made = installed(wanted)
        assert (made.version, made.done, made.wheels) == ("9.1", False, ())
        assert made.text() == "board: ai_edge_litert 9.1 is already installed"
    assert (folder.stat().st_ino, folder.stat().st_mtime_ns) == before
    with pytest.raises(RuntimeMissing, match="ai-edge-litert==9.2"):
        installed("ai_edge_litert==9.2")


def test_a_runtime_that_does_not_import_is_not_installed(
    index: Path, board: Device, installed: Callable[..., Installation]
) -> None:
    runtime_wheel(index, "9.11", "import os\nos.abort()\n")
    with pytest.raises(RuntimeMissing, match=r"9.11 was not installed: it does not import.*-6"):
        installed()
    assert names_in(board) == set()
    # The wheels of a failed setup stay: they are complete, and the next setup does not send them again.
    for left in Path(AgentOptions.of(board).workdir).glob("blobs/*"):
        left.unlink()
    installed("ai_edge_litert==9.10")
    assert names_in(board) == {"ai_edge_litert-9.10", "default"}


def test_a_damaged_runtime_is_installed_again(
    index: Path, board: Device, installed: Callable[..., Installation]
) -> None:
    installed()
    interpreter = (
        Path(AgentOptions.of(board).workdir) / "runtimes/default/ai_edge_litert/interpreter.py"
    )
    interpreter.write_text("raise ImportError('damaged by the card')\n")
    assert runtimes_of(board) == []
    assert installed().done
    assert runtimes_of(board) == [("ai_edge_litert", "9.10", "3.0")]


def test_files_of_an_interrupted_setup_are_removed_by_the_next(
    index: Path, board: Device, installed: Callable[..., Installation]
) -> None:
    folder = Path(AgentOptions.of(board).workdir) / "runtimes"
    old, new = folder / ".ai_edge_litert-9.1.aa", folder / ".ai_edge_litert-9.1.bb"
    for part in (old, new):
        part.mkdir(parents=True)
        (part / "half").write_text("")
    long_ago = time.time() - 7200
    os.utime(old, (long_ago, long_ago))
    assert runtimes_of(board) == []
    installed()
    assert not old.exists()
    # Another controller may be writing it at the moment.
    assert new.exists()
    (new / "half").unlink()
    new.rmdir()


def test_a_killed_setup_leaves_no_installed_runtime(
    index: Path, board: Device, installed: Callable[..., Installation]
) -> None:
    runtime_wheel(index, "9.11", "import os\nos.kill(os.getppid(), 9)\n")
    with pytest.raises(RuntimeMissing, match="exit code 137"):
        installed()
    (half,) = names_in(board)
    assert half.startswith(".ai_edge_litert-9.11.")
    assert runtimes_of(board) == []
    long_ago = time.time() - 7200
    os.utime(Path(AgentOptions.of(board).workdir) / "runtimes" / half, (long_ago, long_ago))
    for left in Path(AgentOptions.of(board).workdir).glob("blobs/*"):
        left.unlink()
    installed("ai_edge_litert==9.1")
    assert names_in(board) == {"ai_edge_litert-9.1", "default"}


def test_too_little_space_and_noexec_are_reported_before_a_transfer(board: Device) -> None:
    made = Installation(
        device="board", runtime="r", version="1", folder="f", wheel_bytes=4, unpacked_bytes=10**8
    )
    probe = Probe(
        version=(3, 11, 2),
        bits=64,
        free_bytes=10**8,
        noexec=False,
    )
    with pytest.raises(TransferFailed, match=r"takes 150 MB .* 100 MB are free.*board --clean"):
        setup._check_space(board, probe, made)
    with pytest.raises(RuntimeMissing, match="noexec"):
        setup._check_space(board, dataclasses.replace(probe, noexec=True), made)
    setup._check_space(board, dataclasses.replace(probe, free_bytes=2 * 10**8), made)


def test_numpy_of_32_bit_arm_comes_from_the_system(index: Path, tmp_path: Path) -> None:
    (index / "ai_edge_litert-9.1-py3-none-any.whl").rename(
        index / "ai_edge_litert-9.1-cp311-cp311-manylinux_2_34_armv7l.whl"
    )
    (index / "numpy-3.0-py3-none-any.whl").unlink()
    device = Device(name="zero", profile="p", address="ssh://pi@10.0.0.9")
    site = Site(python=(3, 11), arch="armv7l", glibc=(2, 36), numpy=None)
    wanted = RuntimeRequirement.parse("ai_edge_litert==9.1")
    system = System(
        kernel="Linux", os_ids=("raspbian",), tools=frozenset({"apt-get", "sudo"}), uid=1000
    )
    with pytest.raises(RuntimeMissing, match=r"zero: .*`ssh -t pi@10.0.0.9 'sudo apt-get"):
        setup._fetch(wanted, site, DeviceUnderTest(device=device, system=system), tmp_path)


def _farm(folder: Path, device: Device) -> farms.Farm:
    return farms.with_device(farms.Farm(devices={}), device)


def test_clean_removes_our_files_and_no_others(
    index: Path, board: Device, installed: Callable[..., Installation], tmp_path: Path
) -> None:
    installed()
    work = Path(AgentOptions.of(board).workdir)
    (work / "blobs" / ("0" * 64)).write_bytes(bytes(300_000))
    (work / "notes.txt").write_text("mine")
    (row,) = api.clean(["board"], farm=_farm(tmp_path, board))
    assert (row["name"], row["status"], row["reason"]) == ("board", "cleaned", None)
    assert row["freed_bytes"] >= 300_000
    assert [path.name for path in work.iterdir()] == ["notes.txt"]
    (work / "notes.txt").unlink()
    (row,) = api.clean(farm=_farm(tmp_path, board))
    assert row["freed_bytes"] == 0
    assert not work.exists()
    assert api.clean(["board"], farm=_farm(tmp_path, board))[0]["freed_bytes"] == 0


def test_clean_reports_a_device_that_it_cannot_clean(board: Device, tmp_path: Path) -> None:
    away = dataclasses.replace(board, address="ssh://127.0.0.1:1", name="away")
    (row,) = api.clean(farm=_farm(tmp_path, away))
    assert row["status"] in {"unreachable", "host_key"}
    assert row["freed_bytes"] is None


def test_setup_reports_missing_python(board: Device, tmp_path: Path) -> None:
    device = opening.with_options(board, python="no-such-python")
    with pytest.raises(HarnessError, match="no Python on the device"):
        api.setup("board", farm=_farm(tmp_path, device))


def test_a_launch_uses_the_runtime_version_that_it_names_or_fails(board: Device) -> None:
    here = opening.with_options(board, python=sys.executable)
    session = Session(here)
    try:
        (runtime, *_) = session.facts.runtimes
        digest = hashlib.sha256(MODEL.read_bytes()).hexdigest()
        session.bring({digest: MODEL})
        order = LaunchOrder(
            cell_id="c",
            kind="timed",
            block=0,
            position=0,
            variant_digest=digest,
            target="xnnpack",
            threads=1,
            dose=Dose(min_inferences=5, min_seconds=0.0, warmup_seconds=0.0),
        )
        for named in (runtime.name, f"{runtime.name}={runtime.version}"):
            launch = session.dialect.launch(dataclasses.replace(order, runtime=named))
            assert launch.runtime == f"{runtime.name} {runtime.version}"
        with pytest.raises(RuntimeMissing, match=f"{runtime.name} is {runtime.version} here"):
            session.dialect.launch(dataclasses.replace(order, runtime=f"{runtime.name}=0.1"))
    finally:
        session.close()


def _edge_harness(*arguments: str, expected: int = 0) -> str:
    reply = subprocess.run([COMMAND, *arguments], capture_output=True, text=True, check=False)
    assert reply.returncode == expected, reply.stdout + reply.stderr
    return reply.stdout


def _rows(text: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(text)["rows"]
    return rows


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("this-machine", "--runtime", "tensorflow==2.21"), "ai_edge_litert, tflite_runtime"),
        (("unknown",), "unknown"),
        (("profile:linux_x86_64",), "one device at a time"),
    ],
)
def test_setup_refuses_invalid_arguments(
    home: Path, tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    farm = tmp_path / "farm.toml"
    entry = 'profile = "linux_x86_64"\naddress = "local:"\n'
    farm.write_text(f"[device.one]\n{entry}[device.two]\n{entry}")
    reply = subprocess.run(
        [COMMAND, "setup", *arguments, "--farm", str(farm)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert reply.returncode == 3
    assert message in reply.stderr
    assert reply.stdout == ""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_add_setup_bench_gate_and_clean_with_two_runtimes(
    own_sshd: LoopbackSshd, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Use the real wheels and only the command line: add, setup, bench, gate and clean."""
    monkeypatch.setenv("EDGE_HARNESS_RESULTS", str(tmp_path / "results"))
    venv.create(tmp_path / "board", symlinks=True)
    shown = subprocess.run(
        ["ssh-keygen", "-lf", str(own_sshd.folder / "host_key.pub")],
        capture_output=True,
        text=True,
        check=True,
    )
    python = str(tmp_path / "board" / "bin" / "python")
    options = ("--name", "board", "--yes-key", shown.stdout.split()[1], "--python", python)
    # Exit code 1: doctor reports the missing runtime.
    output = _edge_harness(
        "add", own_sshd.uri, *options, "--identity", str(own_sshd.identity), expected=1
    )
    assert "edge-harness setup board" in output
    farm = home / ".config" / "edge-harness" / "farm.toml"
    workdir = tmp_path / "work"
    farm.write_text(farm.read_text() + f"workdir = {json.dumps(str(workdir))}\n")
    assert tomllib.loads(farm.read_text())["device"]["board"]["python"] == python

    made = json.loads(_edge_harness("setup", "board", "--json"))
    assert (made["runtime"], made["default"], made["done"]) == ("ai_edge_litert", True, True)
    (row,) = _rows(_edge_harness("bench", str(MODEL), "--on", "board", "--json"))
    assert row["status"] == "ok"
    assert row["runtime"] == f"ai_edge_litert {made['version']}"
    assert row["delegated_ops"] > 0
    assert row["latency_p50_ms"] > 0

    _edge_harness("setup", "board", "--runtime", "ai_edge_litert==2.2.0")
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f"[model]\nname = 'digits'\npath = {json.dumps(str(MODEL))}\n"
        "[run]\nrecipes = ['as_is']\ndevices = ['board']\n"
        "[dose]\nwarmup_seconds = 0.05\nmin_seconds = 0.02\n[gate]\nmetrics = ['latency']\nmax_pairs = 6\n"
    )
    sides = ("--baseline", "runtime:ai_edge_litert=2.2.0")
    sides += ("--candidate", f"runtime:ai_edge_litert={made['version']}")
    reply = subprocess.run(
        [COMMAND, "gate", str(plan), "--json", *sides],
        capture_output=True,
        text=True,
        check=False,
    )
    # The verdict depends on the machine; the test is that each side ran with its runtime.
    assert reply.returncode in {0, 1, 2}, reply.stderr
    rows = _rows(_edge_harness("show", "latest", "--format", "json"))
    assert {row["recipe"].partition(":")[0]: row["runtime"] for row in rows} == {
        "baseline": "ai_edge_litert 2.2.0",
        "candidate": f"ai_edge_litert {made['version']}",
    }

    assert "MB removed" in _edge_harness("devices", "board", "--clean")
    assert not workdir.exists()
