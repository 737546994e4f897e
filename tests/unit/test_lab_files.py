"""What the lab installs and leaves behind, without starting it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from lab import subnets

ROOT = Path(__file__).parents[2]


@pytest.fixture
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "lock" / "edge-harness-lab"
    monkeypatch.setattr(subnets, "_LOCKS", folder)
    return folder


def test_the_locks_of_a_lab_end_with_it(locks: Path) -> None:
    first, second = subnets.take(), subnets.take()
    assert [first.number, second.number] == [0, 1]
    first.give_back()
    assert [path.name for path in locks.iterdir()] == ["1"]
    third = subnets.take()
    assert third.number == 0, "a number that was given back is free"
    third.give_back()
    second.give_back()
    assert not locks.exists()


def test_the_locks_of_a_killed_lab_are_removed_by_the_next(locks: Path) -> None:
    locks.mkdir(parents=True)
    (locks / "7").touch()
    subnets.take().give_back()
    assert not locks.exists()


def test_a_lock_that_was_removed_meanwhile_keeps_nobody_away(locks: Path) -> None:
    held = subnets.take()
    late = os.open(locks / "0", os.O_RDWR)
    held.give_back()
    again = subnets.take()
    assert again.number == 0
    assert os.fstat(late).st_ino != os.fstat(again.lock).st_ino
    os.close(late)
    again.give_back()


def test_make_lab_needs_neither_tensorflow_nor_the_development_tools() -> None:
    made = subprocess.run(
        ["make", "--dry-run", "--always-make", "lab"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert ".[light,report]" in made.stdout
    assert ".[all]" not in made.stdout
    assert "--group dev" not in made.stdout


def test_the_lab_starts_without_development_tools() -> None:
    absent = ["pytest", "tensorflow", "scipy", "mypy"]
    code = f"import sys; sys.modules.update(dict.fromkeys({absent}));import tests.lab.__main__"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)
