"""The agent's zip: the modules as they are, the same bytes from the same sources."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from harness.devices.dialects.python_agent import packing

SOURCES = sorted((Path(__file__).parents[2] / "agents" / "python_tflite").glob("*.py"))


def test_the_zip_holds_the_sources_as_they_are() -> None:
    path, _ = packing.agent_zip()

    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == [source.name for source in SOURCES]
        for source in SOURCES:
            assert archive.read(source.name) == source.read_bytes(), source.name


def test_many_threads_pack_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path))
    with ThreadPoolExecutor(4) as pool:
        made = [future.result() for future in [pool.submit(packing.agent_zip) for _ in range(8)]]
    assert len(set(made)) == 1


def test_other_sources_are_another_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "python_tflite"
    folder.mkdir()
    (folder / "__main__.py").write_text("print(1)\n")
    monkeypatch.setattr(packing.assets, "agents", lambda: tmp_path)
    first, _ = packing.agent_zip()
    (folder / "__main__.py").write_text("print(2)\n")
    second, _ = packing.agent_zip()

    assert first != second
    done = subprocess.run([sys.executable, str(second)], capture_output=True, check=True)
    assert done.stdout == b"2\n"


def test_the_zip_is_under_its_limit() -> None:
    path, _ = packing.agent_zip()

    assert path.stat().st_size < 64_000
