"""The accuracy row of a gate on real files: paired counts for right answers, two numbers for errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.analysis.gate import accuracy, stored
from harness.analysis.gate.contest import Contest, Side
from harness.analysis.gate.document import GateRow, Result
from harness.analysis.gate.findings import Accuracy, Exact, Key
from harness.analysis.gate.verdicts import Verdict, judge
from harness.demo import DATA
from harness.errors import ConfigError
from harness.optimize import reference
from harness.tflite import flatbuffer
from harness.types import Cell, DataSource, Variant

MODEL = DATA / "digits.tflite"
KEY = Key(model="digits", recipe="as_is", device="pi")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("data")
    with np.load(DATA / "digits_evaluation.npz") as stored_data:
        x, y = stored_data["x"][:50], stored_data["y"][:50]
    np.savez(made / "classes.npz", x=x, y=y)
    np.savez(made / "arrays.npz", x=x, y=np.eye(10, dtype=np.float32)[y])
    return made


def digits() -> Variant:
    facts = flatbuffer.read(MODEL)
    return Variant(
        model="digits",
        recipe="as_is",
        target="xnnpack",
        path=MODEL,
        digest=facts.digest,
        size_bytes=facts.size_bytes,
        inputs=facts.inputs,
        outputs=facts.outputs,
        operators=facts.operators,
    )


def contest() -> Contest:
    cell = Cell(
        model="digits",
        recipe="as_is",
        target="xnnpack",
        device="pi",
        threads=1,
        variant=digits(),
    )
    return Contest(key=KEY, a=Side(cell=cell), b=Side(cell=cell))


def data(folder: Path, name: str, metric: str) -> DataSource:
    return DataSource(evaluation=str(folder / f"{name}.npz"), metric=metric)


@pytest.mark.parametrize("metric", ["top1", "top5"])
def test_right_answers_are_compared_input_by_input(folder: Path, metric: str) -> None:
    row = accuracy.row(contest(), data(folder, "classes", metric))
    assert isinstance(row, Accuracy)
    assert row.both + row.neither == 50
    assert row.only_a == row.only_b == 0
    assert row.both >= 48


@pytest.mark.parametrize("metric", ["mse", "mae"])
def test_an_error_is_one_number_per_side_and_lower_is_better(folder: Path, metric: str) -> None:
    given = data(folder, "arrays", metric)
    row = accuracy.row(contest(), given)
    with np.load(folder / "arrays.npz") as arrays:
        found = reference.host_outputs(MODEL, {digits().inputs[0].name: arrays["x"]})
        (outputs,) = found.values()
        difference = outputs.reshape(50, -1).astype(float) - arrays["y"]
    by_hand = np.square(difference) if metric == "mse" else np.abs(difference)
    assert isinstance(row, Exact)
    assert row.better == "lower"
    assert row.a == row.b == pytest.approx(by_hand.mean())
    # It has no pairs of right and wrong answers.
    with pytest.raises(ConfigError, match=f"{metric} does not judge single inputs"):
        accuracy.right(digits(), given)


def test_unsuitable_labels_are_an_error_with_their_file(folder: Path) -> None:
    for name, metric in (("arrays", "top1"), ("classes", "mse")):
        with pytest.raises(ConfigError, match=rf"data .*{name}.npz: \"y\""):
            accuracy.row(contest(), data(folder, name, metric))


def test_a_stored_gate_keeps_the_direction() -> None:
    def plain(row: Exact) -> dict[str, Any]:
        (judged,) = judge([row])
        shown = GateRow(row=row, judged=judged, is_judged=True)
        document = Result(baseline="a", candidate="b", shown=(shown,)).plain()
        return dict(json.loads(json.dumps(document)))

    for better in ("lower", "higher"):
        row = Exact(key=KEY, metric="accuracy", a=0.5, b=0.25, better=better)  # type: ignore[arg-type]
        assert stored.accuracies(plain(row)) == {KEY: row}
    # Documents of older versions have such rows of errors only.
    old = plain(Exact(key=KEY, metric="accuracy", a=0.5, b=0.25))
    del old["rows"][0]["better"]
    (again,) = stored.accuracies(old).values()
    assert judge([again])[0].verdict is Verdict.IMPROVED
