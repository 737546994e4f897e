"""Wrong data is found from a file's headers and values before anything is built."""

import re
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.demo import DATA
from harness.errors import ConfigError
from harness.optimize import build, check, data_check
from harness.optimize.data_check import check_data
from harness.types import DataSource, ModelSource, Recipe, StepCall, Tensor

INPUT = Tensor(name="image", shape=(1, 4, 4, 1), dtype="float32")
OUTPUT = Tensor(name="scores", shape=(1, 10), dtype="float32")
X = np.zeros((9, 4, 4, 1), np.float32)
Y = np.arange(9)


def npz(folder: Path, **arrays: Any) -> str:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return str(path)


WRONG: dict[str, tuple[dict[str, Any], str, str]] = {
    "no x": ({"images": X, "y": Y}, "top1", 'the key "x" is missing (it has: images, y)'),
    "no arrays": ({}, "top1", 'the key "x" is missing (it has: none)'),
    "no labels": ({"x": X}, "top1", 'the key "y" is missing; evaluation needs labels'),
    "labels of another name": ({"x": X, "labels": Y}, "top1", 'the key "y" is missing'),
    "fewer labels": ({"x": X, "y": Y[:5]}, "top1", '"y" has 5 entries for 9 samples'),
    "more labels": ({"x": X, "y": np.arange(12)}, "top1", '"y" has 12 entries for 9 samples'),
    "shape": ({"x": X.reshape(9, 16), "y": Y}, "top1", "has the shape (9, 16)"),
    "dtype": ({"x": X.astype(np.uint8), "y": Y}, "top1", "is uint8"),
    "empty": ({"x": X[:0], "y": Y[:0]}, "top1", "is empty"),
    "NaN": ({"x": X * np.nan, "y": Y}, "top1", "has NaN or infinity"),
    "one infinity": (
        {"x": np.where(np.arange(144).reshape(X.shape) == 77, np.inf, X), "y": Y},
        "top1",
        "has NaN",
    ),
    "label out of range": ({"x": X, "y": Y + 5}, "top1", '"y" holds the class 10; the model has'),
    "negative label": ({"x": X, "y": Y - 1}, "top5", '"y" holds the class -1'),
    "one-hot labels": ({"x": X, "y": np.eye(9, 10)}, "top1", "need integer classes"),
    "float labels": ({"x": X, "y": Y.astype(np.float32)}, "top1", "need integer classes"),
    "classes for an error": (
        {"x": X, "y": Y},
        "mse",
        '"y" has 1 numbers a sample; the model gives',
    ),
    "NaN in labels": ({"x": X, "y": np.full((9, 10), np.nan)}, "mae", '"y" has NaN or infinity'),
    "objects": ({"x": np.array([{}, {}]), "y": Y}, "top1", "holds Python objects"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_data_is_one_line_with_file_and_key(tmp_path: Path, name: str) -> None:
    arrays, metric, message = WRONG[name]
    source = npz(tmp_path, **arrays)
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        check_data(source, inputs=[INPUT], outputs=[OUTPUT], metric=metric)
    assert source in str(caught.value)
    assert "\n" not in str(caught.value)


UNKNOWN_MODEL = [
    *("no x", "no arrays", "no labels", "fewer labels", "more labels", "empty", "NaN"),
    *("one infinity", "one-hot labels", "float labels", "negative label", "objects"),
]


@pytest.mark.parametrize("name", UNKNOWN_MODEL)
def test_most_of_it_is_found_before_the_model_is_converted(tmp_path: Path, name: str) -> None:
    arrays, metric, _ = WRONG[name]
    with pytest.raises(ConfigError):
        check_data(npz(tmp_path, **arrays), metric=metric)


def test_right_data(tmp_path: Path) -> None:
    check_data("random")
    check_data("nowhere.py:batches")
    for arrays, metric in (
        ({"x": X, "y": Y}, "top1"),
        ({"x": X, "y": np.zeros((9, 10))}, "mse"),
        ({"x": X}, None),
        ({"x.image": X, "y": Y}, "top5"),
        ({"x": X.astype(np.float64), "y": Y.astype(np.int8)}, "top1"),
    ):
        source = npz(tmp_path, **arrays)
        check_data(source, inputs=[INPUT], outputs=[OUTPUT], metric=metric)
        check_data(source, metric=metric)
    folder = tmp_path / "folder"
    folder.mkdir()
    for i in range(3):  # single samples, without a batch
        np.savez(folder / f"{i}.npz", x=X[i], y=Y[i])
    check_data(str(folder), inputs=[INPUT], outputs=[OUTPUT], metric="top1")
    check_data(str(folder), metric="top1")


def test_several_inputs_are_checked_once_their_names_are_known(tmp_path: Path) -> None:
    two = [INPUT, Tensor(name="size", shape=(1, 2), dtype="float32")]
    source = npz(tmp_path, **{"x.image": X, "x.other": X, "y": Y})
    check_data(source, inputs=two, outputs=[OUTPUT], metric="top1")
    with pytest.raises(ConfigError, match=re.escape('the key "x.size" is missing')):
        check_data(source, inputs=two, outputs=[OUTPUT], metric="top1", whole=True)


def test_a_damaged_an_encrypted_and_a_claiming_archive(tmp_path: Path) -> None:
    whole = Path(npz(tmp_path, x=X, y=Y)).read_bytes()
    for at in range(0, len(whole), 7):
        path = tmp_path / "flipped.npz"
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0xFF]) + whole[at + 1 :])
        try:
            check_data(str(path), inputs=[INPUT], outputs=[OUTPUT], metric="top1")
        except ConfigError as error:
            assert "flipped.npz" in str(error)
    (tmp_path / "text.npz").write_text("x = 1")
    (tmp_path / "empty.npz").touch()
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w") as archive:
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }\n"
        archive.writestr("x.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    with (tmp_path / "huge.npz").open("wb") as file:
        file.truncate(10**12)
    for name in ("text", "empty", "bomb", "huge"):
        started = time.process_time()
        with pytest.raises(ConfigError, match=rf"{name}\.npz: cannot be read as .npy or .npz"):
            check_data(str(tmp_path / f"{name}.npz"))
        assert time.process_time() - started < 2
    (tmp_path / "none").mkdir()
    with pytest.raises(ConfigError, match="it has no samples"):
        check_data(str(tmp_path / "none"))


@given(st.binary(max_size=120))
def test_any_file_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("any") / "any.npy"
    path.write_bytes(b"\x93NUMPY\x01\x00" * (len(data) % 2) + data)
    try:
        check_data(str(path), inputs=[INPUT], metric=None)
    except ConfigError as error:
        assert "any.npy" in str(error)


def test_large_data_is_checked_by_its_headers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data_check, "SMALL_BYTES", 100)
    source = npz(tmp_path, x=X * np.float32("nan"), y=Y)
    check_data(source, inputs=[INPUT], outputs=[OUTPUT], metric="top1")
    with pytest.raises(ConfigError, match="NaN"):
        check_data(source, inputs=[INPUT], outputs=[OUTPUT], metric="top1", whole=True)
    with pytest.raises(ConfigError, match="has the shape"):
        check_data(npz(tmp_path, x=X[0:1, 0], y=Y[:1]), inputs=[INPUT], metric="top1")


def test_a_score_that_is_not_a_number_is_refused() -> None:
    """The data has no NaN, but the file's outputs have: that is no accuracy of a row."""
    evaluation = check.Evaluation("eval.npz", "mse")
    evaluation.add({"scores": np.full(10, np.nan)}, {"y": np.zeros(10)})
    with pytest.raises(
        ConfigError, match=r"data eval\.npz: the metric is nan, not a finite number"
    ):
        evaluation.result()


# --- before a build ------------------------------------------------------------------------------


def request(*steps: str, path: Path = DATA / "digits.tflite", **data: str) -> build.BuildRequest:
    calls = tuple(StepCall(name=name) for name in steps)
    model = ModelSource(name="m", path=path, data=DataSource(**data))
    recipe = Recipe(name=" > ".join(steps), steps=calls)
    return build.BuildRequest(model=model, recipe=recipe, target="xnnpack")


def cannot(wanted: build.BuildRequest) -> str:
    error = build.foreseen(wanted)
    build.check_requests([wanted])  # refuses only data that is wrong
    return str(error)


@pytest.mark.parametrize(
    ("step", "file", "message"),
    [
        ("int8", "m.tflite", "int8 needs calibration data: give the key calibration in [data] of"),
        ("int16x8", "m.tflite", '--calibration of bench and optimize (or "random"'),
        ("mixed", "m.tflite", "mixed needs calibration data"),
        (
            "qat",
            "m.keras",
            "qat needs training data: give the key training in [data] of the plan, or --training",
        ),
        ("prune", "m.h5", "prune needs training data"),
        ("prune_filters", "m.keras", "there is no training data for 10 epochs"),
        ("decompose", "m.keras", "or --training of bench and optimize, or epochs=0"),
        ("as_is", "m.keras", "as_is takes a finished .tflite"),
    ],
)
def test_what_a_step_lacks_is_foreseen(tmp_path: Path, step: str, file: str, message: str) -> None:
    (tmp_path / file).touch()
    assert message in cannot(request(step, path=tmp_path / file))


def test_a_step_that_need_not_train_needs_no_data(tmp_path: Path) -> None:
    (tmp_path / "m.keras").touch()
    call = StepCall(name="prune_filters", parameters={"epochs": 0})
    model = ModelSource(name="m", path=tmp_path / "m.keras")
    cut = Recipe(name="cut", steps=(call,))
    assert build.foreseen(build.BuildRequest(model=model, recipe=cut, target="xnnpack")) is None


def test_a_file_of_a_parameter_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "m.keras").touch()
    call = StepCall(name="distill", parameters={"teacher": "none.keras"})
    data = DataSource(training=str(DATA / "digits_training.npz"))
    model = ModelSource(name="m", path=tmp_path / "m.keras", data=data)
    recipe = Recipe(name="d", steps=(call,))
    wanted = build.BuildRequest(model=model, recipe=recipe, target="xnnpack")
    assert "distill(teacher=...): no such file none.keras" in cannot(wanted)


def test_the_demo_s_data_is_right() -> None:
    roles = {
        role: str(DATA / f"digits_{role}.npz") for role in ("training", "calibration", "evaluation")
    }
    build.check_requests([request("int8", **roles), request("as_is", **roles)])


def test_data_that_nothing_uses_is_not_checked(tmp_path: Path) -> None:
    np.savez(tmp_path / "flat.npz", x=np.zeros((9, 64), np.float32))
    flat = str(tmp_path / "flat.npz")
    build.check_requests([request("as_is", calibration=flat, training=flat)])
    with pytest.raises(ConfigError, match=r"model m: calibration data .*has the shape \(9, 64\)"):
        build.check_requests([request("int8", calibration=flat)])
