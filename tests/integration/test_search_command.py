"""`edge-harness search` on the embedded digits model: real builds, real launches, this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from harness.demo import DATA

CLI = [sys.executable, "-m", "harness.cli"]
PLAN = """
[model]
name = "digits"
path = "digits.tflite"
[data]
calibration = "digits_calibration.npz"
evaluation = "digits_evaluation.npz"
[dose]
launches = 1
memory_launches = 0
warmup_seconds = 0.05
min_seconds = 0.02
[search]
space = ["int8", "float16", "weight_only(bits=4|8)"]
"""


@pytest.fixture(name="plan")
def _plan(tmp_path: Path) -> Path:
    for file in DATA.glob("digits*.*"):
        shutil.copy(file, tmp_path)
    path = tmp_path / "plan.toml"
    path.write_text(PLAN + "constraints = { max_accuracy_drop = 0.02, max_size_kb = 100 }\n")
    return path


def start(plan: Path, *arguments: object) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "EDGE_HARNESS_RESULTS": str(plan.parent / "results"),
        "XDG_CONFIG_HOME": str(plan.parent / "config"),
    }
    return subprocess.Popen(
        [*CLI, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        env=environment,
        cwd=plan.parent,
    )


def edge(plan: Path, *arguments: object, code: int = 0) -> Any:
    process = start(plan, *arguments)
    out, err = process.communicate(timeout=240)
    assert "Traceback" not in err, err
    assert process.returncode == code, (process.returncode, out, err)
    return json.loads(out) if "--json" in arguments else out + err


def test_the_front_of_the_digits_model_and_the_plan_of_each_point(plan: Path) -> None:
    found = edge(plan, "search", plan, "--json")
    status = {trial["recipe"]: trial["status"] for trial in found["trials"]}
    # float16 has 126 KB: it is over the limit before anything is measured.
    assert status == {
        "int8": "ok",
        "float16": "pruned",
        "weight_only(bits=4)": "ok",
        "weight_only(bits=8)": "ok",
    }
    front = {point["recipe"]: point for point in found["front"]}
    # The smallest and the fastest are on any front. Which one is the fastest depends on the machine.
    measured = {
        trial["recipe"]: trial["values"]["latency_p50_ms"]
        for trial in found["trials"]
        if trial["status"] == "ok"
    }
    fastest = min(measured, key=lambda recipe: measured[recipe])
    assert {fastest, "weight_only(bits=4)"} <= set(front)
    runs = edge(plan, "runs", "--json")["runs"]
    assert {run["id"] for run in runs} == {t["run"] for t in found["trials"] if t["run"]}

    point = front[fastest]
    assert tomllib.loads(Path(point["plan"]).read_text())["run"]["recipes"] == [fastest]
    again = edge(plan, "run", point["plan"], "--json")
    assert [row["variant"] for row in again["rows"]] == [point["digest"]]
    records = {
        name: json.loads((plan.parent / "results" / name / "run.json").read_text())
        for name in (again["run"], point["run"])
    }
    assert len({record["plan_digest"] for record in records.values()}) == 1

    resumed = edge(plan, "search", plan, "--resume", "latest", "--json")
    assert resumed["trials"] == found["trials"]
    assert len(edge(plan, "runs", "--json")["runs"]) == len(runs) + 1


def test_constraints_that_no_recipe_holds_are_exit_1_with_the_closest(plan: Path) -> None:
    plan.write_text(PLAN + "constraints = { max_size_kb = 40 }\nobjectives = ['size_bytes']\n")
    text = edge(plan, "search", plan, code=1)
    assert "none of 4 recipes holds every constraint" in text
    assert "closest is weight_only(bits=4): max_size_kb = 40: it is 45." in text
    assert edge(plan, "runs", "--json")["runs"] == []


def test_a_misspelt_parameter_is_exit_3_before_anything_is_built(plan: Path) -> None:
    plan.write_text(PLAN.replace("bits=4|8", "bit=4|8"))
    text = edge(plan, "search", plan, code=3)
    assert 'unknown parameter of weight_only "bit"; did you mean "bits"?' in text
    assert not (plan.parent / "results").exists()


def test_ctrl_c_prints_the_command_that_resumes_and_it_works(plan: Path) -> None:
    process = start(plan, "search", plan)
    assert process.stderr is not None
    seen = ""
    while "[1/4]" not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "--resume" in err
    (folder,) = (plan.parent / "results" / "searches").iterdir()
    assert folder.name in err
    kept = {path.name for path in (folder / "trials").iterdir()}
    found = edge(plan, "search", plan, "--resume", folder.name, "--json")
    assert len(found["trials"]) == 4
    assert kept <= {path.name for path in (folder / "trials").iterdir()}
