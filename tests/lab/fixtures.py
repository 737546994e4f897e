"""Devices of the lab for tests: each kind is started once per session and recovered after each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from conftest import missing

from . import arm, machine, x86
from .device import Hosted
from .lab import Lab
from .tools import why_not

X86_NAMES = ("x86-1", "x86-2", "x86-3")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Skip tests marked `lab` unless -m selects them."""
    if "lab" in config.option.markexpr.split():
        return
    left_out = [item for item in items if item.get_closest_marker("lab")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not item.get_closest_marker("lab")]


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """The session's lab; its devices end with the session."""
    reason = why_not(x86.TOOLS)
    if reason:
        missing(reason)
    with Lab(tmp_path_factory.mktemp("lab") / "devices") as made:
        yield made


@pytest.fixture(scope="session")
def _x86_hosts(lab: Lab) -> list[Hosted]:
    return lab.x86_hosts(X86_NAMES)


@pytest.fixture
def x86_hosts(_x86_hosts: list[Hosted]) -> Iterator[list[Hosted]]:
    """Three x86 hosts that are up and healthy."""
    yield _x86_hosts
    for host in _x86_hosts:
        host.recover()


def _board(lab: Lab, name: str, kind: arm.Kind, *, runtime: bool = True) -> Hosted:
    reason = why_not(arm.tools(kind))
    if reason:
        missing(reason)
    return lab.board(name, kind, runtime=runtime)


@pytest.fixture(scope="session")
def _arm64_board(lab: Lab) -> Hosted:
    return _board(lab, "pi4", arm.PI_4)


@pytest.fixture
def arm64_board(_arm64_board: Hosted) -> Iterator[Hosted]:
    """An aarch64 board with ai-edge-litert."""
    yield _arm64_board
    _arm64_board.recover()


@pytest.fixture
def fresh_arm64_board(lab: Lab) -> Iterator[Hosted]:
    """A new aarch64 board for one test: no TFLite runtime, none of our files."""
    board = _board(lab, "fresh-pi4", arm.PI_4, runtime=False)
    yield board
    lab.remove(board)


@pytest.fixture(scope="session")
def _armv7_board(lab: Lab) -> Hosted:
    return _board(lab, "pi3", arm.PI_3_32_BIT)


@pytest.fixture
def armv7_board(_armv7_board: Hosted) -> Iterator[Hosted]:
    """A 32-bit ARM board with tflite-runtime 2.14 and Debian's numpy 1."""
    yield _armv7_board
    _armv7_board.recover()


@pytest.fixture(scope="session")
def _vm(lab: Lab) -> machine.Machine:
    reason = why_not(machine.TOOLS)
    if reason:
        missing(reason)
    return lab.machine("vm")


@pytest.fixture
def vm(_vm: machine.Machine) -> Iterator[machine.Machine]:
    """A whole aarch64 machine with its own kernel."""
    yield _vm
    _vm.recover()
