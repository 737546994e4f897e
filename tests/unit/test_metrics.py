"""Metrics through their seam: streamed by batch, with an interval, and the direction all compare by."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import synthetic_runs as synthetic
from scipy import stats as scipy_stats
from sklearn import metrics as sklearn_metrics

from harness import metrics, stats
from harness.demo import DATA
from harness.errors import ConfigError
from harness.optimize import check
from harness.optimize import data as datasets
from harness.protocols import JudgesSamples, Score
from harness.records.store.codec import dump, load
from harness.tflite import flatbuffer
from harness.types import Tensor, Variant

RNG = np.random.default_rng(5)
SCORES = RNG.normal(size=(300, 7)).astype(np.float32)
CLASSES = np.where(RNG.random(300) < 0.7, SCORES.argmax(1), RNG.integers(0, 7, 300))
ARRAYS = (SCORES + RNG.normal(0, 0.3, SCORES.shape)).astype(np.float32)


def scored(name: str, outputs: np.ndarray[Any, Any], y: np.ndarray[Any, Any], batch: int) -> Score:
    metric = metrics.load(name)()
    for start in range(0, len(y), batch):
        metric.update({"out": outputs[start : start + batch]}, {"y": y[start : start + batch]})
    return metric.result()


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_the_values_are_those_of_other_libraries(batch: int) -> None:
    assert scored("top1", SCORES, CLASSES, batch).value == pytest.approx(
        sklearn_metrics.accuracy_score(CLASSES, SCORES.argmax(1))
    )
    assert scored("top5", SCORES, CLASSES, batch).value == pytest.approx(
        sklearn_metrics.top_k_accuracy_score(CLASSES, SCORES, k=5)
    )
    assert scored("mse", SCORES, ARRAYS, batch).value == pytest.approx(
        sklearn_metrics.mean_squared_error(ARRAYS, SCORES)
    )
    assert scored("mae", SCORES, ARRAYS, batch).value == pytest.approx(
        sklearn_metrics.mean_absolute_error(ARRAYS, SCORES)
    )


@pytest.mark.parametrize("batch", [1, 7, 300])
def test_the_intervals_are_scipys(batch: int) -> None:
    top1 = scored("top1", SCORES, CLASSES, batch)
    hits = int((SCORES.argmax(1) == CLASSES).sum())
    wilson = scipy_stats.binomtest(hits, 300).proportion_ci(0.95, method="wilson")
    assert (top1.low, top1.high) == pytest.approx((wilson.low, wilson.high))
    assert top1.samples == 300
    mse = scored("mse", SCORES, ARRAYS, batch)
    errors = np.square(SCORES.astype(float) - ARRAYS).mean(axis=1)
    half = scipy_stats.t.ppf(0.975, 299) * scipy_stats.sem(errors)
    assert (mse.low, mse.high) == pytest.approx((errors.mean() - half, errors.mean() + half))


@pytest.mark.parametrize(("hits", "count"), [(0, 1), (1, 1), (0, 40), (40, 40), (13, 40)])
def test_a_share_is_inside_its_interval(hits: int, count: int) -> None:
    found = stats.share_interval(hits, count)
    assert 0 <= found.low <= found.estimate <= found.high <= 1
    assert found.low < found.high
    with pytest.raises(ValueError, match="a share needs"):
        stats.share_interval(2, 1)


def test_one_sample_has_an_error_and_no_interval() -> None:
    found = scored("mae", SCORES[:1], ARRAYS[:1], 1)
    assert (found.low, found.high, found.samples) == (None, None, 1)


def test_every_shipped_metric_says_what_it_is() -> None:
    assert metrics.names() == ["mae", "mse", "top1", "top5"]
    judging = set()
    for name in metrics.names():
        metric = metrics.load(name)()
        assert metric.name == name
        assert metric.summary
        if isinstance(metric, JudgesSamples):
            judging.add(name)
    # Only a share of right answers may be compared input by input; an error has no pairs.
    assert judging == {"top1", "top5"}
    assert [metrics.direction(name) for name in metrics.names()] == [
        "lower",
        "lower",
        "higher",
        "higher",
    ]
    with pytest.raises(ConfigError, match='unknown metric "tpo1"; did you mean "top1"'):
        metrics.load("tpo1")


@pytest.mark.parametrize(
    ("name", "outputs", "labels", "says"),
    [
        ("top1", {"a": SCORES, "b": SCORES}, {"y": CLASSES}, "with one output; this one has 2"),
        ("mse", {"a": SCORES, "b": SCORES}, {"y": CLASSES}, "with one output; this one has 2"),
        ("top1", {"a": SCORES}, {"y": CLASSES.astype(float)}, '"y" is float64 of shape'),
        ("top1", {"a": SCORES}, {"y": ARRAYS}, r"of shape \(7,\) a sample; top1 and top5 need"),
        (
            "top5",
            {"a": SCORES},
            {"y": np.full_like(CLASSES, 7)},
            "holds the class 7; the model has 7",
        ),
        ("mae", {"a": SCORES}, {"y": CLASSES}, '"y" has 1 numbers a sample; the model gives 7'),
        ("mae", {"a": SCORES}, {"boxes": ARRAYS}, r'key "y" is missing \(there are: y.boxes\)'),
    ],
)
def test_what_does_not_fit_is_said(
    name: str, outputs: dict[str, Any], labels: dict[str, Any], says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        metrics.load(name)().update(outputs, labels)


def test_a_file_is_evaluated_in_batches(tmp_path: Path) -> None:
    path = DATA / "digits.tflite"
    facts = flatbuffer.read(path)

    def asked(evaluation: Path | str, metric: str = "top1") -> check.HostOutputs:
        material = check.Material(
            evaluation=str(evaluation), calibration=None, metric=metric, seed=0
        )
        return check.run_samples(path, facts, material)

    answers = asked(DATA / "digits_evaluation.npz")
    assert answers.score is not None
    assert answers.score.samples > check.BATCH_SAMPLES
    assert answers.score.low is not None
    assert answers.score.low < answers.score.value <= 1
    assert answers.direction == "higher"
    with np.load(DATA / "digits_evaluation.npz") as stored:
        x, y = stored["x"][:70], stored["y"][:70]
    np.savez(tmp_path / "arrays.npz", x=x, y=np.eye(10, dtype=np.float32)[y])
    error = asked(tmp_path / "arrays.npz", "mse")
    assert (error.direction, error.score and error.score.samples) == ("lower", 70)
    np.savez(tmp_path / "bare.npz", x=x)
    with pytest.raises(ConfigError, match=r'bare.npz: the key "y" is missing'):
        asked(tmp_path / "bare.npz")
    with pytest.raises(ConfigError, match=r'arrays.npz: "y" is float32'):
        asked(tmp_path / "arrays.npz")


def test_labels_of_several_outputs_have_names(tmp_path: Path) -> None:
    x = np.zeros((3, 4), np.float32)
    tensors = [Tensor(name="x", shape=(1, 4), dtype="float32")]
    arrays = {"x": x, "y.boxes": np.ones((3, 2)), "y.classes": np.arange(3)}
    np.savez(tmp_path / "several.npz", **arrays)
    found = list(datasets.samples(str(tmp_path / "several.npz"), tensors))
    assert [sorted(sample.labels) for sample in found] == [["boxes", "classes"]] * 3
    assert [int(sample.labels["classes"]) for sample in found] == [0, 1, 2]
    assert found[0].label is None
    np.savez(tmp_path / "short.npz", **(arrays | {"y.boxes": np.ones((2, 2))}))
    with pytest.raises(ConfigError, match='"y.boxes" has 2 entries for 3 samples'):
        list(datasets.samples(str(tmp_path / "short.npz"), tensors))


def test_a_drop_of_an_error_is_its_increase() -> None:
    def of(metric: str | None, source: float | None, own: float | None, **more: Any) -> Variant:
        return synthetic.variant(metric=metric, accuracy_source_model=source, accuracy=own, **more)

    assert of("top1", 0.9, 0.8, metric_direction="higher").accuracy_drop == pytest.approx(0.1)
    assert of("mse", 0.1, 5.0, metric_direction="lower").accuracy_drop == pytest.approx(4.9)
    assert of("mse", 5.0, 0.1, metric_direction="lower").accuracy_drop == pytest.approx(-4.9)
    assert of("psnr", 30, 31, metric_direction="higher").accuracy_drop == -1
    assert of("top1", None, 0.8).accuracy_drop is None


@pytest.mark.parametrize(
    ("metric", "better"), [("top1", "higher"), ("mse", "lower"), ("mae", "lower"), (None, "higher")]
)
def test_a_variant_stored_without_a_direction_is_read(metric: str | None, better: str) -> None:
    plain = dump(synthetic.variant(metric=metric))
    for key in ("metric_direction", "accuracy_low", "accuracy_high"):
        del plain[key]
    found = load(Variant, json.loads(json.dumps(plain)))
    assert found.accuracy_better == better
    assert not math.isnan(found.accuracy or 0)
