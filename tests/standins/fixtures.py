"""Stand-ins for what no machine of ours has, built or written by the tests themselves."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

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
