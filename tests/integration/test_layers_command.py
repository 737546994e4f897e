"""The command `layers` over a stored run: this machine, real files, a stand-in for the vendor's tool."""

import json
import os
import pty
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.demo import DATA

CLI = [sys.executable, "-m", "harness.cli"]
STANDIN = Path(__file__).with_name("standin_benchmark_model.py")


@pytest.fixture(name="home", scope="module")
def _home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Make one stored run of two variants for all tests here."""
    home = tmp_path_factory.mktemp("layers")
    for file in DATA.glob("digits*.*"):
        shutil.copy(file, home)
    plan = home / "plan.toml"
    plan.write_text(
        '[model]\nname = "digits"\npath = "digits.tflite"\n'
        '[data]\nevaluation = "digits_evaluation.npz"\n'
        '[run]\nrecipes = ["float32", "float16"]\ndevices = ["this-machine"]\n'
        "[dose]\nlaunches = 2\nmemory_launches = 0\nwarmup_seconds = 0.05\nmin_seconds = 0.05\n"
    )
    edge(home, "run", plan, "--json")
    yield home
    shutil.rmtree(home)


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "EDGE_HARNESS_RESULTS": str(home / "results"),
        "XDG_CONFIG_HOME": str(home / "config"),
    }


def edge(home: Path, *arguments: object, code: int = 0, path: Path | None = None) -> Any:
    variables = environment(home)
    if path is not None:
        variables["PATH"] = f"{path}:{variables['PATH']}"
    done = subprocess.run(
        [*CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=variables,
        cwd=home,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr


def test_estimates_two_variants_and_their_difference(home: Path) -> None:
    found = edge(home, "layers", "latest", "--at-most", 3, "--launches", 3, "--json")

    wide, half = found["layers"]
    assert (wide["recipe"], half["recipe"]) == ("float32", "float16")
    for one in found["layers"]:
        assert one["estimate"]
        assert one["launches"] == 3
        assert len(one["operators"]) == 3
        assert one["whole_ns"] > 0
        assert one["sum_ns"] == pytest.approx(sum(row["us"] for row in one["operators"]) * 1e3)
        has_remark = any("off the whole model" in remark for remark in one["remarks"])
        assert has_remark == (abs(one["gap"]) > 0.10)
        assert "an estimate" in " ".join(one["remarks"])
    assert not any("DEQUANTIZE" in row["type"] for row in half["operators"]), (
        "folded, costs nothing"
    )
    (difference,) = found["differences"]
    assert [row["a"] is not None for row in difference["operators"]] == [True] * 3


def test_a_terminal_shows_the_launch_under_way(home: Path) -> None:
    terminal, stderr = pty.openpty()
    arguments = ("layers", "latest", "--recipe", "float32", "--at-most", "1", "--launches", "1")
    try:
        subprocess.run(
            [*CLI, *arguments],
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            stdin=subprocess.DEVNULL,
            env=environment(home),
            cwd=home,
            timeout=240,
            check=True,
        )
        shown = os.read(terminal, 100_000).decode()
    finally:
        os.close(terminal)
        os.close(stderr)

    # A pilot and a launch of the prefix and of the whole file.
    assert "this-machine: launch 1 of 4, digits float32 #0 0-8" in shown
    assert "this-machine: launch 4 of 4, digits float32 #0" in shown


def test_the_table_of_one_recipe_is_marked_as_an_estimate(home: Path) -> None:
    text = edge(home, "layers", "latest", "--recipe", "float32", "--at-most", 2, "--launches", 1)

    assert "estimate from truncated graphs" in text
    assert "sum " in text
    assert "CONV_2D" in text


def test_the_vendors_tool_is_used_if_the_user_has_it(home: Path, tmp_path: Path) -> None:
    """A stand-in replaces the tool: this tests the flags, the transfer and the log's format."""
    found = edge(home, "layers", "latest", "--benchmark-model", STANDIN, "--json")

    assert [one["source"] for one in found["layers"]] == ["benchmark_model"] * 2
    assert not any(one["estimate"] for one in found["layers"])
    assert [row["type"] for row in found["layers"][0]["operators"]] == ["CONV_2D", "SOFTMAX"]
    (difference,) = found["differences"]
    assert all(row["difference_us"] is not None for row in difference["operators"])
    tool = tmp_path / "benchmark_model"
    shutil.copy(STANDIN, tool)
    tool.chmod(0o755)
    found = edge(home, "layers", "latest", "latest", "--json", path=tmp_path)
    assert {one["source"] for one in found["layers"]} == {"benchmark_model"}
    assert len(found["differences"]) == 2, "two runs: each row is compared with itself"


def test_refusals_name_the_cause_and_a_fix(home: Path, tmp_path: Path) -> None:
    other = tmp_path / "benchmark_model"
    other.write_text("#!/bin/sh\necho hello\n")

    text = edge(home, "layers", "latest", "--benchmark-model", other, code=3)
    assert "no times of operators" in text
    text = edge(home, "layers", "latest", "--benchmark-model", tmp_path / "no", code=3)
    assert "no such file" in text
    text = edge(home, "layers", "latest", "--recipe", "int8", code=3)
    assert "its recipes: float32, float16" in text
    text = edge(home, "layers", "latest", "latest", "latest", code=3)
    assert "one run, or two" in text


def test_a_kept_file_that_was_changed_is_refused(home: Path, tmp_path: Path) -> None:
    copied = tmp_path / "results"
    shutil.copytree(home / "results", copied)
    for file in copied.glob("*/variants/*.tflite"):
        file.write_bytes(file.read_bytes() + b"\0")

    text = edge(home, "layers", "latest", "--results", copied, code=3)

    assert "not the file that was measured" in text
