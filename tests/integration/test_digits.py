"""The embedded model is what its record says, and its script makes it again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "harness" / "demo" / "data"

LEAST_ACCURACY = 0.98
TOLERANCE = 0.01
"""Other kernels round differently: seeds and kernels tried moved it by 0.4 points at most."""


def accuracy(folder: Path) -> float:
    with np.load(folder / "digits_evaluation.npz") as data:
        x, y = data["x"], data["y"]
    interpreter = Interpreter(str(folder / "digits.tflite"), num_threads=1)
    run = interpreter.get_signature_runner("serving_default")
    answers = [int(np.argmax(run(image=image[None])["scores"])) for image in x]
    return float(np.mean(np.asarray(answers) == y))


def test_shipped_file_has_the_accuracy_its_record_says() -> None:
    record = json.loads((DATA / "digits.json").read_text())
    measured = accuracy(DATA)
    assert measured >= LEAST_ACCURACY
    assert measured == pytest.approx(record["accuracy"], abs=1 / record["evaluation_images"])
    assert (DATA / "digits.tflite").stat().st_size == record["size_bytes"]


def test_shipped_model_has_one_signature_and_a_fixed_batch_of_one() -> None:
    interpreter = Interpreter(str(DATA / "digits.tflite"))
    assert interpreter.get_signature_list() == {
        "serving_default": {"inputs": ["image"], "outputs": ["scores"]}
    }
    (image,) = interpreter.get_input_details()
    assert image["shape_signature"].tolist() == [1, 8, 8, 1]
    assert image["dtype"] is np.float32


def test_shipped_data_is_whole_and_its_parts_are_disjoint() -> None:
    with (
        np.load(DATA / "digits_training.npz") as training,
        np.load(DATA / "digits_calibration.npz") as calibration,
        np.load(DATA / "digits_evaluation.npz") as evaluation,
    ):
        train, test = training["x"], evaluation["x"]
        assert train.dtype == test.dtype == calibration["x"].dtype == np.float32
        assert train.shape[1:] == (8, 8, 1)
        assert len(train) + len(test) == 1797
        assert train.min() == 0.0
        assert train.max() == 1.0
        assert set(evaluation["y"].tolist()) == set(range(10))
        assert np.array_equal(calibration["x"], train[:100])
        seen = {image.tobytes() for image in train}
        assert not [image for image in test if image.tobytes() in seen]


@pytest.mark.tensorflow
@pytest.mark.slow
def test_script_trains_the_same_accuracy_again(tmp_path: Path) -> None:
    for needed in ("tensorflow", "sklearn"):
        if find_spec(needed) is None and not os.environ.get("CI"):
            pytest.skip(f"training needs {needed}")
    done = subprocess.run(
        [sys.executable, "-m", "harness.demo.train_digits", "--out", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    shipped = json.loads((DATA / "digits.json").read_text())
    trained = json.loads((tmp_path / "digits.json").read_text())
    assert trained["parameters"] == shipped["parameters"]
    assert trained["accuracy"] >= LEAST_ACCURACY
    assert trained["accuracy"] == pytest.approx(shipped["accuracy"], abs=TOLERANCE)
    assert accuracy(tmp_path) == pytest.approx(trained["accuracy"], abs=1e-4)
    for name in ("digits_training.npz", "digits_calibration.npz", "digits_evaluation.npz"):
        with np.load(tmp_path / name) as ours, np.load(DATA / name) as theirs:
            assert all(np.array_equal(ours[key], theirs[key]) for key in theirs.files)
