"""Models as Keras and TensorFlow write them: code in them does not run, and those without pass."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from edge_command import edge

from harness.errors import Untrusted
from harness.optimize import convert, trust

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every model; a name that starts with `bad_` has code."""
    made = tmp_path_factory.mktemp("untrusted")
    script = Path(__file__).with_name("make_untrusted.py")
    subprocess.run([sys.executable, script, made], check=True, capture_output=True, timeout=240)
    return made


def models(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.suffix != ".txt"]
    assert len(found) >= 24
    return found


def test_a_model_passes_if_and_only_if_it_has_no_code(folder: Path) -> None:
    for path in models(folder):
        form = convert.source_form(path)
        if path.name.startswith("bad_"):
            with pytest.raises(Untrusted, match=path.name):
                trust.check(path, form)
        else:
            trust.check(path, form, trains=True)


@pytest.mark.parametrize("name", ["bad_k2_lambda.h5", "bad_k3_nested.h5", "bad_initialises"])
def test_the_command_refuses_it_and_nothing_runs(folder: Path, tmp_path: Path, name: str) -> None:
    words = ("--recipe", "float32", "--out", "o", "--json")
    (row,) = edge(tmp_path, "optimize", folder / name, *words, code=1)["variants"]
    assert row["status"] == "untrusted"
    assert name in row["reason"]
    assert "--trust-model" in row["reason"]
    assert not (folder / "ran").exists()


def test_a_step_that_trains_and_a_teacher_are_refused_too(folder: Path, tmp_path: Path) -> None:
    data = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data"
    words = ("--training", data / "digits_training.npz", "--out", "o", "--json")
    for model, recipe in (
        ("bad_k2_lambda.h5", "qat"),
        ("k2_plain.h5", f'distill(teacher="{folder / "bad_k3_lambda.h5"}")'),
    ):
        built = edge(tmp_path, "optimize", folder / model, "--recipe", recipe, *words, code=1)
        assert [row["status"] for row in built["variants"]] == ["untrusted"]
        assert not (folder / "ran").exists()


@pytest.mark.parametrize("name", ["bad_k2_lambda.h5", "bad_k3_lambda.keras"])
def test_a_trusted_model_is_built(folder: Path, tmp_path: Path, name: str) -> None:
    model, mark = folder / name, folder / "ran"
    words = ("--recipe", "float32", "--out", "o", "--json")
    (row,) = edge(tmp_path, "optimize", model, *words, "--trust-model")["variants"]
    assert row["status"] == "ok"
    assert mark.exists()
    mark.unlink()
    # What was built with trust is not used without it.
    (row,) = edge(tmp_path, "optimize", model, *words, code=1)["variants"]
    assert row["status"] == "untrusted"
    assert not mark.exists()
