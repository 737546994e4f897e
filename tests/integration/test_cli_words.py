"""What a user reads when an argument is wrong: one line that names it, and no library's words."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from harness.demo import DATA

MODEL = str(DATA / "digits.tflite")


def edge(home: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(os.fsencode, map(str, words))],
        capture_output=True,
        env={
            **os.environ,
            "EDGE_HARNESS_RESULTS": str(home / "results"),
            "EDGE_HARNESS_CACHE": str(home / "cache"),
            "XDG_CONFIG_HOME": str(home / "config"),
            **environment,
        },
        cwd=home,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def refused(home: Path, *words: object, **environment: str) -> str:
    done = edge(home, *words, **environment)
    shown = done.stderr.decode()
    assert done.returncode == 3, (done.returncode, shown)
    assert done.stdout == b""
    for word in ("Traceback", "internal error", "Input should", "Invalid JSON", "pydantic", "None"):
        assert word not in shown
    return shown.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--threads", "x"], "Invalid value for '--threads': must be a whole number, not \"x\""),
        (["--threads", "0"], "Invalid value for '--threads': must be at least 1, not 0"),
        (["--launches", "1.5"], "'--launches': must be a whole number, not \"1.5\""),
        (["--launches", "9" * 6000], "'--launches': must be a whole number of fewer digits"),
        (["--launches", "1000000000"], "--launches: must be at most 10000, not 1000000000"),
        (["--period-ms", "soon"], "'--period-ms': must be a number, not \"soon\""),
        (["--scenario", "none"], "'none' is not one of 'single', 'stream', 'offline', 'sustained'"),
        (["--calibration", "none.npz"], "edge-harness: --calibration: there is no file"),
        (["--farm", "/dev/zero"], "/dev/zero: is a device, not a file"),
        (["n" * 5000], "File name too long"),
    ],
)
def test_bench_names_the_option(tmp_path: Path, words: list[str], shown: str) -> None:
    assert shown in refused(tmp_path, "bench", MODEL, *words)


def test_a_file_that_bench_does_not_find(tmp_path: Path) -> None:
    assert refused(tmp_path, "bench", "none.tflite").startswith("edge-harness: none.tflite: ")


NOT_UTF_8 = os.fsdecode(b"caf\xe9.tflite")


@pytest.mark.parametrize(
    "words",
    [
        ["bench", NOT_UTF_8],
        ["bench", NOT_UTF_8, "--json"],
        ["inspect", NOT_UTF_8, "--json"],
        ["bench", MODEL, "--evaluation", NOT_UTF_8],
        ["bench", MODEL, "--results", NOT_UTF_8],
        ["run", NOT_UTF_8],
        ["optimize", MODEL, "--recipe", "float32", "--out", NOT_UTF_8],
    ],
)
def test_a_name_that_is_not_utf_8_is_refused_by_name(tmp_path: Path, words: list[str]) -> None:
    (tmp_path / NOT_UTF_8).write_bytes((DATA / "digits.tflite").read_bytes())
    assert 'caf\\xe9.tflite" is not UTF-8; rename the file' in refused(tmp_path, *words)


def test_a_folder_of_results_that_is_not_utf_8(tmp_path: Path) -> None:
    shown = refused(tmp_path, "bench", MODEL, EDGE_HARNESS_RESULTS=os.fsdecode(b"r\xe9"))
    assert 'EDGE_HARNESS_RESULTS: "r\\xe9" is not UTF-8' in shown


def test_a_model_in_a_glob_and_data_in_a_folder_that_are_not_utf_8(tmp_path: Path) -> None:
    (tmp_path / NOT_UTF_8).touch()
    plan = tmp_path / "plan.toml"
    plan.write_text('[model]\npath = "*.tflite"\n[run]\nrecipes = ["as_is"]\n', encoding="utf-8")
    assert 'caf\\xe9.tflite" is not UTF-8' in refused(tmp_path, "run", plan)
    data = tmp_path / "evaluation"
    data.mkdir()
    x, y = np.zeros((8, 8, 1), np.float32), np.int64(3)
    np.savez(str(data / os.fsdecode(b"\xe9.npz")), x=x, y=y)
    done = edge(tmp_path, "optimize", MODEL, "--recipe", "as_is", "--out", "out", "--json",
                "--evaluation", data)  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["variants"]
    assert row["accuracy"] is not None


def test_a_plan_from_a_stranger_is_refused_at_once(tmp_path: Path) -> None:
    tables = "".join(f'[recipe.r{i}]\nsteps = "r{i + 1} > r{i + 1}"\n' for i in range(25))
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'[model]\npath = "/proc/**/*.tflite"\n[run]\nrecipes = ["r0"]\n{tables}'
        '[recipe.r25]\nsteps = "as_is"\n',
        encoding="utf-8",
    )
    before = os.times().children_user
    assert "expands to more than 64 steps" in refused(tmp_path, "run", plan, "--dry-run")
    assert os.times().children_user - before < 5
    os.mkfifo(tmp_path / "pipe.toml")
    assert "is a pipe, not a file" in refused(tmp_path, "run", tmp_path / "pipe.toml")
    assert "cannot be read: Is a directory" in refused(tmp_path, "run", tmp_path)


def test_a_dry_run_exits_as_the_run_would(tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    text = f'[model]\npath = "{MODEL}"\n[run]\nrecipes = [{{}}]\n'
    plan.write_text(text.format('"float32@gpuu"'), encoding="utf-8")
    assert 'unknown target "gpuu"' in refused(tmp_path, "run", plan, "--dry-run")
    plan.write_text(text.format('"as_is", "int8"'), encoding="utf-8")
    done = edge(tmp_path, "run", plan, "--dry-run")
    assert done.returncode == 1
    assert b"digits int8 on this-machine: not_built: int8 needs calibration data" in done.stdout
    plan.write_text(text.format('"as_is@edgetpu"'), encoding="utf-8")
    done = edge(tmp_path, "run", plan, "--dry-run", "--json")
    (cell,) = json.loads(done.stdout)["cells"]
    assert (done.returncode, cell["status"]) == (1, "unsupported")
    assert "has no target edgetpu" in cell["reason"]
    plan.write_text(text.format('"as_is"'), encoding="utf-8")
    done = edge(tmp_path, "run", plan, "--dry-run")
    assert (done.returncode, done.stderr) == (0, b"")
    assert not (tmp_path / "results").exists()


# --- optimize ------------------------------------------------------------------------------------


def test_optimize_takes_the_keys_of_a_plan(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(8, 8, 8, 1)).astype(np.float32)
    np.savez(tmp_path / "arrays.npz", x=x, y=np.zeros((8, 10), np.float32))
    done = edge(
        *(tmp_path, "optimize", MODEL, "--recipe", "as_is", "--out", "built", "--json"),
        *("--metric", "mse", "--evaluation", "arrays.npz", "--shape", "1,8,8,1"),
        *("--allow-flex", "--signature", "serving_default"),
    )
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)["variants"]
    assert 0 < row["accuracy"] < 1
    assert Path(tmp_path / row["file"]).is_file()


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["--evaluation", "unlabelled.npz"], 'the key "y" is missing; evaluation needs labels'),
        (["--evaluation", "flat.npz"], "has the shape (9, 64)"),
        (["--evaluation", "far.npz"], '"y" holds the class 90; the model has 10'),
        (["--evaluation", "far.npz", "--metric", "mse"], '"y" has 1 numbers a sample'),
        (["--calibration", "far.npz", "--metric", "top9"], "--metric: unknown metric"),
        (["--calibration", "unlabelled.npz", "--shape", "a,b"], "--shape: "),
        (["--recipe", "int8@gpuu", "--calibration", "random"], 'unknown target "gpuu"'),
        (["--out", "far.npz"], "far.npz: cannot be written"),
    ],
)
def test_optimize_refuses_before_it_builds(tmp_path: Path, words: list[str], shown: str) -> None:
    x = np.zeros((9, 8, 8, 1), np.float32)
    np.savez(tmp_path / "unlabelled.npz", x=x)
    np.savez(tmp_path / "flat.npz", x=x.reshape(9, 64), y=np.arange(9))
    np.savez(tmp_path / "far.npz", x=x, y=np.full(9, 90))
    command = ["optimize", MODEL, "--recipe", "float16", "--out", "built"]
    assert shown in refused(tmp_path, *command, *words)
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "built").exists()


def test_a_finished_file_is_kept_if_another_fails(tmp_path: Path) -> None:
    done = edge(tmp_path, "optimize", MODEL, "--recipe", "as_is", "--recipe", "edgetpu",
                "--out", "built", "--json")  # fmt: skip
    rows = {row["recipe"]: row for row in json.loads(done.stdout)["variants"]}
    assert done.returncode == 1
    assert rows["as_is"]["status"] == "ok"
    assert rows["edgetpu"]["status"] != "ok"
    assert [path.name for path in (tmp_path / "built").iterdir()] == ["digits-as_is.tflite"]


def test_long_and_equal_file_names(tmp_path: Path) -> None:
    texts = ["weight_only(bits=8)", "weight_only(bits = 8 )@gpu"]
    words = [word for text in texts for word in ("--recipe", text)]
    done = edge(tmp_path, "optimize", MODEL, *words, "--out", "built", "--json")
    assert done.returncode == 0, done.stderr
    files = [row["file"] for row in json.loads(done.stdout)["variants"]]
    assert len(set(files)) == 2
    assert all((tmp_path / file).is_file() for file in files)
