"""A few of the mutated files of benchmarks/mutated.py: no hang, no memory past the limit, no traceback."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks import mutated  # noqa: E402 - the folder is no package of ours


@pytest.mark.parametrize("command", mutated.COMMANDS)
def test_a_mutated_file_ends_every_command(tmp_path: Path, command: str) -> None:
    for file in mutated.make(tmp_path, 24)[21:]:
        found = mutated.through(tmp_path, file, command)
        assert found.code in {0, 1, 3}, found
        assert not found.traceback, (tmp_path / f"home-{file.stem}" / "err").read_text()
        assert found.peak_bytes < mutated.HOST_MEMORY_MB * 1e6 + mutated.SPARE_BYTES


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    first, again = tmp_path / "a", tmp_path / "b"
    first.mkdir()
    again.mkdir()
    for one, other in zip(mutated.make(first, 30), mutated.make(again, 30), strict=True):
        assert one.read_bytes() == other.read_bytes()
