"""What the program refuses: one clear line, the right exit code, no traceback."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from shared_data import shared_file

from harness.demo import DATA


def edge(home: Path, *words: object) -> tuple[int, str, str]:
    environment = {
        **os.environ,
        "EDGE_HARNESS_RESULTS": str(home / "results"),
        "XDG_CONFIG_HOME": str(home / "config"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *map(str, words)],
        capture_output=True,
        text=True,
        env=environment,
        cwd=home,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, done.stdout, done.stderr


def write_plan(home: Path, **changes: str) -> Path:
    parts = {
        "path": json.dumps(str(DATA / "digits.tflite")),
        "calibration": json.dumps(str(DATA / "digits_calibration.npz")),
        "recipes": '["int8"]',
        "devices": '["this-machine"]',
        "run": "",
        "end": "",
        **changes,
    }
    plan = home / "plan.toml"
    plan.write_text(
        '[model]\nname = "m"\npath = {path}\n[data]\ncalibration = {calibration}\n'
        "[run]\nrecipes = {recipes}\ndevices = {devices}\n{run}\n{end}\n".format(**parts),
        encoding="utf-8",
    )
    return plan


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"path": '"missing.keras"'}, ["model", "missing.keras"]),
        ({"path": '"nothing-*.tflite"'}, ["nothing-*.tflite"]),
        ({"recipes": '["imt8"]'}, ["imt8", 'did you mean "int8"']),
        ({"recipes": '["int8("]'}, ["int8("]),
        ({"recipes": '["int8(oi=1)"]'}, ["oi"]),
        ({"devices": '["this-machin"]'}, ["this-machin", 'did you mean "this-machine"']),
        ({"devices": '["tag:lab"]'}, ["tag:lab"]),
        ({"run": "thread = [1]"}, ["thread", 'did you mean "threads"']),
        ({"run": 'threads = ["two"]'}, ["threads"]),
        ({"end": "[dos]"}, ["dos", 'did you mean "dose"']),
        ({"end": "[dose]\nlaunches = 0"}, ["launches"]),
        ({"end": "[dose"}, ["plan.toml", "line"]),
    ],
)
def test_a_plan_that_cannot_be_asked(
    tmp_path: Path, changes: dict[str, str], words: list[str]
) -> None:
    code, out, err = edge(tmp_path, "run", write_plan(tmp_path, **changes))
    assert code == 3, (code, err)
    assert out == ""
    assert all(word in err for word in words), err
    assert not (tmp_path / "results").exists() or not any((tmp_path / "results").iterdir())


def one_row(home: Path, plan: Path) -> dict[str, Any]:
    code, out, err = edge(home, "run", plan, "--json")
    assert code == 1, (code, err)
    (row,) = json.loads(out)["rows"]
    assert row["latency_p50_ms"] is None
    return dict(row)


def test_calibration_of_the_wrong_shape_type_or_key_is_a_row_with_the_reason(
    tmp_path: Path,
) -> None:
    bad = {
        "shape": {"x": np.zeros((4, 5, 5, 1), np.float32)},
        "type": {"x": np.array(["a", "b"])},
        "key": {"images": np.zeros((4, 8, 8, 1), np.float32)},
        "nan": {"x": np.full((4, 8, 8, 1), np.nan, np.float32)},
    }
    for name, arrays in bad.items():
        file = tmp_path / f"{name}.npz"
        np.savez(file, **arrays)
        plan = write_plan(tmp_path, calibration=json.dumps(str(file)))
        code, out, err = edge(tmp_path, "run", plan, "--json")
        text = err if code == 3 else json.loads(out)["rows"][0]["reason"]
        assert code in (1, 3)
        assert f"{name}.npz" in text, (name, text)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    whole = (DATA / "digits.tflite").read_bytes()
    for name, content in {
        "truncated": whole[: len(whole) // 2],
        "random": np.random.default_rng(0).bytes(20_000),
        "empty": b"",
    }.items():
        file = tmp_path / f"{name}.tflite"
        file.write_bytes(content)
        plan = write_plan(tmp_path, path=json.dumps(str(file)), recipes='["as_is"]')
        code, out, err = edge(tmp_path, "run", plan, "--json")
        text = err if code == 3 else json.loads(out)["rows"][0]["reason"]
        assert code in (1, 3), (name, code, err)
        assert text
        code, out, err = edge(tmp_path, "inspect", file)
        assert code == 3
        assert f"{name}.tflite" in err


def test_a_model_whose_invoke_fails_is_rejected(tmp_path: Path) -> None:
    file = shared_file("coral/model_invoking_error.tflite")
    plan = write_plan(tmp_path, path=json.dumps(str(file)), recipes='["as_is"]')
    row = one_row(tmp_path, plan)
    assert row["status"] in ("rejected", "not_built")
    assert row["reason"]


def test_an_edge_tpu_file_without_one_is_a_row_and_never_a_number(tmp_path: Path) -> None:
    file = shared_file("coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite")
    plan = write_plan(tmp_path, path=json.dumps(str(file)), recipes='["as_is"]')
    row = one_row(tmp_path, plan)
    assert row["status"] == "unsupported"
    assert row["target"] == "edgetpu"


def test_quantising_a_quantised_file_is_refused(tmp_path: Path) -> None:
    file = shared_file("kws/kws_ref_model.tflite")
    row = one_row(tmp_path, write_plan(tmp_path, path=json.dumps(str(file)), recipes='["int8"]'))
    assert row["status"] == "not_built"
    assert "float" in row["reason"]


def test_a_device_that_is_down_is_a_row(tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text(
        '[device.gone]\nprofile = "raspberry_pi_4"\naddress = "ssh://pi@127.0.0.1:9"\n'
    )
    row = one_row(tmp_path, write_plan(tmp_path, recipes='["float32"]', devices='["gone"]'))
    assert row["status"] == "unreachable"
    assert "127.0.0.1" in row["reason"]


def test_an_unknown_profile_names_the_known(tmp_path: Path) -> None:
    (tmp_path / "farm.toml").write_text(
        '[device.x]\nprofile = "raspbery_pi_4"\naddress = "local:"\n'
    )
    code, _, err = edge(tmp_path, "run", write_plan(tmp_path, devices='["x"]'))
    assert code == 3
    assert 'did you mean "raspberry_pi_4"' in err


def test_a_scheme_without_a_transport_is_refused_before_anything_is_built(tmp_path: Path) -> None:
    code, out, err = edge(tmp_path, "bench", DATA / "digits.tflite", "--on", "qemu:mps2")
    assert (code, out) == (3, "")
    assert "this version has no transport for qemu: yet" in err
    assert "local:, ssh:" in err
    assert not (tmp_path / "results").exists()


def test_results_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "results").write_text("a file where the folder should be")
    code, _, err = edge(tmp_path, "run", write_plan(tmp_path))
    assert code == 3
    assert "--results" in err


def test_unknown_runs_commands_and_options(tmp_path: Path) -> None:
    for words in (("show", "latest"), ("report", "2026"), ("compare", "x", "y")):
        code, out, err = edge(tmp_path, *words)
        assert code == 3
        assert out == ""
        assert err
    assert edge(tmp_path, "frobnicate")[0] == 3
    assert edge(tmp_path, "run", "plan.toml", "--frobnicate")[0] == 3
    code, _, err = edge(tmp_path, "run", "nowhere.toml")
    assert code == 3
    assert "nowhere.toml" in err
    assert edge(tmp_path, "run", write_plan(tmp_path), "--retry-failed")[0] == 3
