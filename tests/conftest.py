"""What every test may ask for: a real sshd on loopback, and folders that are not the user's."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.demo.loopback_sshd import INSTALL, LoopbackSshd, available, loopback_sshd
from harness.types import Device


def missing(reason: str) -> None:
    """Skip for a missing tool, or fail where CI=true promises that it is there."""
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


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
            identity=str(server.identity),
            known_hosts=str(server.known_hosts),
            workdir=str(tmp_path / "work dir"),
        )

    return make


@pytest.fixture
def ssh_device(sshd: LoopbackSshd, device_on: Callable[[LoopbackSshd], Device]) -> Device:
    """The session's server as a device, with a work folder of this test."""
    return device_on(sshd)
