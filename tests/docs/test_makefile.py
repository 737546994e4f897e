"""The packages that `make` installs, as apt-get gets them."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import ROOT


@pytest.mark.parametrize(
    ("goal", "some"),
    [
        ("system", {"gcc", "libc6-dev", "clang", "openssh-client"}),
        ("lab-system", {"g++-aarch64-linux-gnu", "debian-archive-keyring", "qemu-user-static"}),
    ],
)
def test_packages_reach_apt_whole(goal: str, some: set[str], tmp_path: Path) -> None:
    """On a machine without any of the tools; a stub in place of apt-get says what it was given."""
    make = shutil.which("make")
    assert make is not None
    for name in ("tr", "mkdir", "cat"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))
    for name, script in {"id": "echo 0", "apt-get": f'echo "$@" >> {tmp_path}/given'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    argv = [make, "--no-print-directory", goal]
    subprocess.run(argv, cwd=ROOT, env={"PATH": str(tmp_path)}, check=True, capture_output=True)
    update, install = (tmp_path / "given").read_text().splitlines()
    assert update == "update -qq"
    words = install.split()
    packages = set(words[words.index("--no-install-recommends") + 1 :])
    assert some <= packages
    assert not any(set(word) & set(":/,") or word.startswith("-") for word in packages)
