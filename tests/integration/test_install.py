"""The wheel as strangers install it: bare reads and prints, light also builds and measures."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from harness import api
from harness.config import plans
from harness.demo import DATA


def call(*argv: object, cwd: Path, code: int = 0, **environment: str) -> str:
    done = subprocess.run(
        [str(word) for word in argv],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **environment},
        timeout=280,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert done.returncode == code, (
        argv,
        done.returncode,
        done.stdout[-2000:],
        done.stderr[-2000:],
    )
    return done.stdout + (done.stderr if code else "")


@pytest.fixture(scope="module", name="wheel")
def _wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", folder, ROOT, cwd=folder)
    return next(folder.glob("edge_harness-*.whl"))


@pytest.fixture(scope="module", name="python")
def _python(tmp_path_factory: pytest.TempPathFactory, wheel: Path) -> Path:
    venv = tmp_path_factory.mktemp("bare") / "venv"
    call(sys.executable, "-m", "venv", venv, cwd=venv.parent)
    python = venv / "bin" / "python"
    call(python, "-m", "pip", "install", "-q", wheel, cwd=venv.parent)
    return python


@pytest.mark.slow
def test_bare_reads_results_and_prints_tables(python: Path, tmp_path: Path) -> None:
    plan = plans.quick([DATA / "digits.tflite"], devices=["this-machine"], recipes=["as_is"])
    with api.run(plan, results=tmp_path / "runs") as going:
        list(going)
    edge = python.parent / "edge-harness"
    shown = json.loads(
        call(edge, "show", "latest", "--results", tmp_path / "runs", "--json", cwd=tmp_path)
    )
    assert shown["rows"] == going.rows()
    assert "as_is" in call(edge, "show", "latest", "--results", tmp_path / "runs", cwd=tmp_path)
    assert "raspberry_pi_5" in call(edge, "profiles", cwd=tmp_path)
    assert "int8" in call(edge, "recipes", cwd=tmp_path)
    call(edge, "init", tmp_path / "new", cwd=tmp_path)
    heavy = "tensorflow, ai_edge_litert, fabric, jinja2"
    missing = call(
        python,
        "-c",
        f"import importlib.util as u; print([n for n in '{heavy}'.split(', ') if u.find_spec(n)])",
        cwd=tmp_path,
    )
    assert missing.strip() == "[]"
    refused = call(edge, "report", "latest", "--results", tmp_path / "runs", cwd=tmp_path, code=3)
    assert "edge-harness[" in refused


@pytest.mark.slow
def test_light_builds_and_measures_without_tensorflow(
    python: Path, wheel: Path, tmp_path: Path
) -> None:
    call(python, "-m", "pip", "install", "-q", f"{wheel}[light]", cwd=tmp_path)
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'[model]\nname = "digits"\npath = {json.dumps(str(DATA / "digits.tflite"))}\n'
        f"[data]\ncalibration = {json.dumps(str(DATA / 'digits_calibration.npz'))}\n"
        f"evaluation = {json.dumps(str(DATA / 'digits_evaluation.npz'))}\n"
        '[run]\nrecipes = ["int8"]\ndevices = ["this-machine"]\n'
        "[dose]\nlaunches = 1\nwarmup_seconds = 0.05\n",
        encoding="utf-8",
    )
    own = {"EDGE_HARNESS_CACHE": str(tmp_path / "cache"), "XDG_CONFIG_HOME": str(tmp_path)}
    edge = python.parent / "edge-harness"
    document = json.loads(call(edge, "run", plan, "--json", cwd=tmp_path, **own))
    assert [row["status"] for row in document["rows"]] == ["ok"]
    assert document["rows"][0]["accuracy"] > 0.95
    found = call(
        python, "-c", "import importlib.util as u; print(u.find_spec('tensorflow'))", cwd=tmp_path
    )
    assert found.strip() == "None"
