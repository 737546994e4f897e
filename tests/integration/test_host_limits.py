"""A stranger's file neither hangs this host nor takes its memory: every command ends and says why."""

from __future__ import annotations

import os
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from edge_command import edge
from numpy.lib import format as npy
from standins import graphs

from harness.config import plans
from harness.errors import ConfigError, RecipeError
from harness.optimize import data as datasets
from harness.optimize import processes, reference, workers
from harness.types import HostLimits, Variant

DATA = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data"
DIGITS = DATA / "digits.tflite"
SHORT = ("--host-seconds", "4")


@pytest.mark.parametrize("command", ["bench", "optimize"])
def test_a_file_that_never_ends_is_a_failed_row(tmp_path: Path, command: str) -> None:
    model = graphs.endless(tmp_path / "loop.tflite")
    more = ("--recipe", "as_is", "--out", "built") if command == "optimize" else ()
    started = time.monotonic()
    found = edge(tmp_path, command, model, *more, *SHORT, "--json", code=1)
    (row,) = found["variants" if command == "optimize" else "rows"]
    assert row["status"] == "not_built"
    assert str(model) in row["reason"]
    assert "--host-seconds" in row["reason"]
    assert time.monotonic() - started < 200


@pytest.mark.parametrize("command", ["bench", "optimize", "inspect"])
def test_a_file_that_asks_for_all_memory_is_refused(tmp_path: Path, command: str) -> None:
    model = graphs.greedy(tmp_path / "greedy.tflite", 500_000_000)
    more = ("--recipe", "as_is", "--out", "built") if command == "optimize" else ()
    code = 0 if command == "inspect" else 1
    found = edge(tmp_path, command, model, *more, "--host-memory-mb", "600", "--json", code=code)
    row = found if command == "inspect" else found["variants" if more else "rows"][0]
    assert str(model) in row["reason"]
    assert "--host-memory-mb" in row["reason"]


def test_a_plan_has_the_limits(tmp_path: Path) -> None:
    graphs.endless(tmp_path / "loop.tflite")
    (tmp_path / "plan.toml").write_text(
        '[model]\npath = "loop.tflite"\n[run]\nrecipes = ["as_is"]\n[host]\nseconds = 4\n'
    )
    (row,) = edge(tmp_path, "run", "plan.toml", "--json", code=1)["rows"]
    assert "had not ended" in row["reason"]


def test_the_reference_outputs_have_the_limits(tmp_path: Path) -> None:
    model = graphs.endless(tmp_path / "loop.tflite")
    how = reference.HostRun(limits=HostLimits(seconds=3), file="mine.tflite")
    with pytest.raises(RecipeError, match=r"mine\.tflite: the reference outputs had not ended"):
        reference.host_outputs(model, {"x": np.ones((1, 1, 4), np.float32)}, how=how)


def test_memory_is_that_of_all_processes_of_a_worker(tmp_path: Path) -> None:
    """Each child is under the limit; together they are over it, and all of them end."""
    (tmp_path / "data.py").write_text(
        "import subprocess, sys, time\n"
        "def rows():\n"
        "    hold = 'x = bytearray(250_000_000); import time; print(1, flush=True); time.sleep(600)'\n"
        f"    for place in range(3):\n"
        "        child = subprocess.Popen([sys.executable, '-c', hold], stdout=subprocess.PIPE)\n"
        f"        open({str(tmp_path)!r} + '/pids', 'a').write(f'{{child.pid}}\\n')\n"
        "        child.stdout.readline()\n"
        "    time.sleep(600)\n"
        "    yield 1\n"
    )
    started = time.monotonic()
    with pytest.raises(RecipeError, match=r"needed more than 500 MB.*--host-memory-mb"):
        workers.once(
            "stream_digest",
            {"source": f"{tmp_path / 'data.py'}:rows"},
            limits=HostLimits(memory_mb=500),
        )
    assert time.monotonic() - started < 60
    children = [int(line) for line in (tmp_path / "pids").read_text().split()]
    assert children
    deadline = time.monotonic() + 10
    while any(processes.resident_bytes([pid]) for pid in children):
        assert time.monotonic() < deadline, "a child outlived its worker"
        time.sleep(0.05)


def test_the_users_own_data_may_take_its_time(tmp_path: Path) -> None:
    """The deadline is for each sample of the user's data, not for all of them."""
    (tmp_path / "data.py").write_text(
        "import time, numpy\n"
        "def rows():\n"
        "    for place in range(7):\n"
        "        time.sleep(1.3)\n"
        "        yield numpy.zeros((8, 8, 1), 'float32'), 1\n"
    )
    taken = reference.load_samples(
        f"{tmp_path / 'data.py'}:rows", digits(), 100, limits=HostLimits(seconds=8)
    )
    assert len(next(iter(taken.inputs.values()))) == 7
    assert len(taken.labels["y"]) == 7


def test_data_that_claims_too_much_memory_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "bomb.npz"
    header = {"descr": "<f4", "fortran_order": False, "shape": (20_000_000, 8, 8, 1)}
    with zipfile.ZipFile(path, "w") as archive, archive.open("x.npy", "w") as file:
        npy.write_array_header_1_0(file, header)
    with pytest.raises((ConfigError, RecipeError), match=r"bomb\.npz"):
        reference.load_samples(str(path), digits(), 64, limits=HostLimits(memory_mb=256))


def test_pickled_data_is_not_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return open, (str(mark), "w")

    for name in ("data.npz", "data.npy"):
        path = tmp_path / name
        array = np.array([Evil()], object)
        if name.endswith("z"):
            np.savez(path, x=array)
        else:
            np.save(path, array)
        with pytest.raises(ConfigError, match=rf"{name}: cannot be read"):
            reference.load_samples(str(path), digits(), 64)
    assert not mark.exists()


@pytest.mark.parametrize(
    ("key", "value"), [("seconds", 0), ("memory_mb", 1), ("seconds", float("nan")), ("minutes", 1)]
)
def test_a_limit_outside_its_bounds_is_refused(key: str, value: float) -> None:
    with pytest.raises(ConfigError, match=rf"command line: host.*{key}"):
        plans.host_limits({key: value})


def test_a_pipe_is_no_model_and_no_data(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "m.tflite")
    os.mkfifo(tmp_path / "x.npz")
    with pytest.raises(ConfigError, match="is a pipe, not a file"):
        plans.quick([tmp_path / "m.tflite"], ["this-machine"])
    with pytest.raises(ConfigError, match="is a pipe, not a file"):
        datasets.digest(str(tmp_path / "x.npz"))


def test_the_limits_and_the_trust_are_not_part_of_a_plans_digest(tmp_path: Path) -> None:
    table = {"path": str(DIGITS)}
    run = {"recipes": ["as_is"]}
    plain = plans.from_mapping({"model": table, "run": run}, tmp_path, "plan")
    other = plans.from_mapping(
        {"model": {**table, "trust": True}, "run": run, "host": {"seconds": 5}}, tmp_path, "plan"
    )
    assert plain.digest == other.digest
    assert other.models[0].source.trust
    assert other.host == HostLimits(seconds=5)


def digits() -> Variant:
    from harness.tflite import flatbuffer

    facts = flatbuffer.read(DIGITS)
    return Variant(
        model="digits",
        recipe="as_is",
        target="xnnpack",
        path=DIGITS,
        digest=facts.digest,
        size_bytes=facts.size_bytes,
        inputs=facts.inputs,
        outputs=facts.outputs,
        operators=facts.operators,
    )


def test_a_process_tree_is_found_and_ended() -> None:
    import subprocess

    script = (
        "import subprocess, sys, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'],"
        " start_new_session=True)\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(600)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        child = int(process.stdout.readline())
        assert processes.tree(process.pid) == [process.pid, child]
        assert processes.resident_bytes([process.pid, child]) > 1_000_000
        processes.end(process.pid)
        process.wait(20)
    deadline = time.monotonic() + 20
    while processes.resident_bytes([child]):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize(
    "command", ["bench", "optimize", "inspect", "run", "gate", "search", "bisect"]
)
def test_every_command_that_takes_a_model_has_the_options(command: str, tmp_path: Path) -> None:
    text = edge(tmp_path, command, "--help")
    assert "--trust-model" in text
    if command in {"bench", "optimize", "inspect"}:
        assert "--host-seconds" in text
        assert "--host-memory-mb" in text
