"""Nothing in the user's current folder runs because of its name: no json.py, no numpy.py, no harness/."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.devices.dialects.python_agent.bootstrap import install
from harness.devices.dialects.python_agent.packing import agent_zip
from harness.devices.transports.local import LocalTransport
from harness.errors import HarnessError
from harness.farm import probe, vulkan, wheels
from harness.optimize import workers
from harness.optimize.targets import aot
from harness.types import Device

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "harness" / "demo" / "data" / "digits.tflite"
NAMES = [
    "json",
    "numpy",
    "harness",
    "agents",
    "agent",
    "child",
    "wire",
    "hashlib",
    "subprocess",
    "zipfile",
    "threading",
    "queue",
    "resource",
    "pip",
    "ai_edge_litert",
    "tflite_runtime",
    "traceback",
    "stat",
    "shutil",
    "platform",
    "glob",
    "ctypes",
    "sitecustomize",
    "importlib",
    "multiprocessing",
    "encodings",
    "select",
    "signal",
    "struct",
    "selectors",
    "tempfile",
]


@pytest.fixture
def trap(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with a file of every name that somebody might import; each leaves a mark."""
    folder, mark = tmp_path / "trap", tmp_path / "ran"
    folder.mkdir()
    for name in NAMES:
        (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write('{name} ')\n")
    for package in ("harness", "pip"):
        (folder / package).mkdir()
        (folder / package / "__init__.py").write_text(f"open({str(mark)!r}, 'a').write('P')\n")
    monkeypatch.chdir(folder)
    yield folder
    assert not mark.exists(), mark.read_text()


@pytest.fixture(params=["", ".", ":", "sub:."])
def path_variable(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PYTHONPATH", request.param)
    return str(request.param)


def device(workdir: Path) -> Device:
    options = {"python": sys.executable, "workdir": str(workdir)}
    return Device(name="here", profile="linux_x86_64", address="local:", dialect_options=options)


@pytest.mark.usefixtures("trap", "path_variable")
def test_a_build_worker_imports_nothing_from_there() -> None:
    found = workers.once("delegation", {"path": str(DIGITS)})
    assert found["nodes"]


@pytest.mark.usefixtures("trap", "path_variable")
def test_the_start_of_the_agent_imports_nothing_from_there(tmp_path: Path) -> None:
    transport, here = LocalTransport(), device(tmp_path / "work")
    path = install(transport, here, *agent_zip())
    reply = transport.run([sys.executable, path], 60, stdin=b'{"id": 1, "verb": "hello"}\n')
    assert b'"agent"' in reply.stdout or b'"id"' in reply.stdout, reply
    assert probe.probe_python(transport, here).version[0] == 3
    vulkan.list_drivers(transport, here)


def test_a_file_in_the_work_folder_is_not_imported(tmp_path: Path) -> None:
    transport, here = LocalTransport(), device(tmp_path / "work")
    path = Path(install(transport, here, *agent_zip()))
    mark = tmp_path / "ran"
    for folder in (path.parent, path.parent.parent):
        for name in NAMES:
            (folder / f"{name}.py").write_text(f"open({str(mark)!r}, 'a').write('{name} ')\n")
    transport.run([sys.executable, str(path)], 60, stdin=b'{"id": 1, "verb": "hello"}\n')
    assert not mark.exists(), mark.read_text()


@pytest.mark.usefixtures("trap")
def test_pip_and_the_compilers_start_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    site = wheels.Site(python=(3, 11), arch="x86_64", glibc=(2, 36), numpy=None)
    with pytest.raises(HarnessError, match="no wheels"):
        wheels.fetch(wheels.RuntimeRequirement(name=wheels.LITERT), site, tmp_path)
    settings = aot.AotSettings(vendor="qualcomm", soc="none", timeout_seconds=60)
    with pytest.raises(HarnessError):
        aot._call(DIGITS, tmp_path, settings, "digits")


def test_the_command_measures_in_such_a_folder(trap: Path, tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("edge-harness")
    argv = [script] if script.exists() else [sys.executable, "-P", "-m", "harness.cli"]
    environment = {**os.environ, "EDGE_HARNESS_RESULTS": str(tmp_path / "results")}
    done = subprocess.run(
        [*map(str, argv), "bench", str(DIGITS), "--launches", "1", "--json"],
        cwd=trap,
        env=environment,
        capture_output=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()


def test_processes_of_a_search_import_nothing_from_there(trap: Path) -> None:
    script = (
        "import sys; sys.path[:] = [p for p in sys.path if p]\n"
        "from harness.analysis.search import processes\n"
        "class Job: pass\n"
        "if __name__ == '__main__':\n"
        "    print(processes._run_in_processes(None, 1, lambda event: None))\n"
    )
    file = trap.parent / "main.py"
    file.write_text(script)
    done = subprocess.run(
        [sys.executable, "-P", str(file)],
        cwd=trap,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert b"of the search ended with" in done.stdout, done.stderr.decode()
