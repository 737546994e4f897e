"""Stand-ins for what no machine of ours has, built or written by the tests themselves."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from . import phones

HERE = Path(__file__).resolve().parent


def build_delegate(folder: Path) -> Path:
    """Compile the delegate library of delegate.c with the system's C compiler."""
    library = folder / "libstandin_delegate.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o", str(library)]
    subprocess.run([*command, str(HERE / "delegate.c")], check=True, timeout=60)
    return library


@pytest.fixture(scope="session")
def standin_delegate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A delegate library that works on the processor and fails when it is told to."""
    from conftest import missing

    if shutil.which("gcc") is None:
        missing("gcc builds the delegate of these tests: apt-get install gcc libc6-dev")
    return build_delegate(tmp_path_factory.mktemp("standin"))


@pytest.fixture(scope="session")
def adb_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[phones.Server]:
    """A real adb server with keys of its own, for the whole session."""
    with phones.adb_server(tmp_path_factory.mktemp("adb")) as server:
        yield server


@pytest.fixture(scope="session")
def pixel(
    tmp_path_factory: pytest.TempPathFactory, adb_server: phones.Server
) -> Iterator[phones.Phone]:
    """A phone on a real adbd for the whole session; do not end it."""
    with phones.phone(tmp_path_factory.mktemp("pixel"), adb_server) as made:
        yield made


@pytest.fixture
def own_pixel(tmp_path: Path, adb_server: phones.Server) -> Iterator[phones.Phone]:
    """A phone on a real adbd for one test, which may kill it."""
    with phones.phone(tmp_path / "own pixel", adb_server) as made:
        yield made
