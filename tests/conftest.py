"""What every test may ask for: a real sshd on loopback, and folders that are not the user's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.demo.loopback_sshd import INSTALL, LoopbackSshd, available, loopback_sshd
from harness.types import Device

pytest_plugins = [
    "pytester",
    "lab.fixtures",
    "lab.qualcomm",
    "lab.swiftshader",
    "standins.fixtures",
]

ROOT = Path(__file__).resolve().parents[1]

_LEASES = tempfile.TemporaryDirectory(prefix="edge-harness-test-leases-")
# Two test runs on one machine are not to wait for each other's devices, nor two workers of one.
if "EDGE_HARNESS_LEASES" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["EDGE_HARNESS_LEASES"] = _LEASES.name

# The commands under test report to the CI system that runs them; here only a test's own one.
for _name in ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY"):
    os.environ.pop(_name, None)


def missing(reason: str) -> None:
    """Skip for a missing tool, or fail where CI=true promises that it is there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Count the skipped tests by reason, so that none is skipped in silence."""
    skipped = terminalreporter.stats.get("skipped", [])
    if not skipped:
        return
    reasons = Counter(str(one.longrepr[-1]).removeprefix("Skipped: ") for one in skipped)
    terminalreporter.section(f"{len(skipped)} skipped")
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"{count:4} {reason}")


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackSshd]:
    """A real OpenSSH server for the whole session; do not end it."""
    if not available():
        missing(INSTALL)
    with loopback_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture
def own_sshd(tmp_path: Path) -> Iterator[LoopbackSshd]:
    """A real OpenSSH server for one test, which may kill it."""
    if not available():
        missing(INSTALL)
    with loopback_sshd(tmp_path / "own sshd") as server:
        yield server


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home: no keys, no agent, no ssh_config, no known hosts, no farm file."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(folder / ".config"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / ".cache"))
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    return folder


@pytest.fixture
def device_on(home: Path, tmp_path: Path) -> Callable[[LoopbackSshd], Device]:
    """Make the farm entry of a loopback server."""

    def make(server: LoopbackSshd) -> Device:
        return Device(
            name="loopback",
            profile="linux_x86_64",
            address=server.uri,
            transport_options={
                "identity": str(server.identity),
                "known_hosts": str(server.known_hosts),
            },
            dialect_options={"workdir": str(tmp_path / "work dir")},
        )

    return make


@pytest.fixture
def ssh_device(sshd: LoopbackSshd, device_on: Callable[[LoopbackSshd], Device]) -> Device:
    """The session's server as a device, with a work folder of this test."""
    return device_on(sshd)


@pytest.fixture(scope="session")
def second_python() -> str:
    """The Python of a venv with tflite-runtime 2.14, which needs numpy 1."""
    folder = ROOT / ".cache" / "tflite-runtime-2.14.0"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.is_file():
        # Its wheels end at 3.11.
        here = sys.executable if sys.version_info < (3, 12) else shutil.which("python3.11")
        if here is None:
            missing("tflite-runtime 2.14 needs Python 3.11 or older; python3.11 is not there")
        subprocess.run([str(here), "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "tflite-runtime==2.14.0", "numpy<2"]
        if subprocess.run(pip, check=False).returncode:
            missing("tflite-runtime 2.14 cannot be installed from the package index")
        ready.touch()
    return str(python)
