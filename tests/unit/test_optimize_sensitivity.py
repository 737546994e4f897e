"""The search for what to leave in float, on losses that are known."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import RecipeError
from harness.optimize import sensitivity
from harness.protocols import StepData
from harness.tflite.operators import Operator


def graph(weights: list[int]) -> list[Operator]:
    return [
        Operator(index=i, type="CONV_2D", name=f"t{i}", shapes=((count, 1),))
        for i, count in enumerate(weights)
    ]


class Model:
    """Each operator in int8 costs its own loss; they add up."""

    def __init__(self, costs: list[float]) -> None:
        self.costs = costs
        self.builds = 0

    def rank(self, chosen: frozenset[int]) -> float:
        self.builds += 1
        return sum(self.costs[i] for i in chosen)

    def loss(self, chosen: frozenset[int]) -> float:
        self.builds += 1
        return math.fsum(cost for i, cost in enumerate(self.costs) if i not in chosen)


def test_nothing_is_left_in_float_without_need() -> None:
    model = Model([0.001] * 5)
    found = sensitivity.search(graph([10] * 5), model.rank, model.loss, 0.01)

    assert found.chosen == frozenset()
    assert found.loss == found.all_int8 == pytest.approx(0.005)
    assert model.builds == 1


def test_the_worst_are_left_and_no_other() -> None:
    model = Model([0.0, 0.3, 0.0, 0.2, 0.001])
    found = sensitivity.search(graph([10] * 5), model.rank, model.loss, 0.01)

    assert found.chosen == {1, 3}
    assert found.all_int8 == pytest.approx(0.501)


def test_a_large_operator_returns_to_int8_if_it_need_not_be_float() -> None:
    model = Model([0.5, 0.008, 0.007, 0.0])
    found = sensitivity.search(graph([1, 1_000, 10, 1]), model.rank, model.loss, 0.01)

    assert 1 not in found.chosen
    assert found.chosen == {0, 2}


def test_a_tolerance_that_no_mix_holds_is_refused_with_the_losses() -> None:
    def loss(chosen: frozenset[int]) -> float:
        return 0.6 if len(chosen) < 4 else 0.4

    with pytest.raises(
        RecipeError, match="int8 alone loses 0.6.*mixes 0.4 with 4 of 5 .*float16 or int16x8"
    ):
        sensitivity.search(graph([10] * 5), lambda _: 1.0, loss, 0.01)


def test_a_mix_that_cannot_be_made_is_skipped() -> None:
    model = Model([0.0, 0.3, 0.0, 0.2, 0.001])

    def loss(chosen: frozenset[int]) -> float:
        if chosen == {1, 3}:
            raise RecipeError("the runtime refuses the file")
        return model.loss(chosen)

    found = sensitivity.search(graph([10] * 5), model.rank, loss, 0.01)
    assert found.chosen > {1, 3}


def test_the_reason_is_reported_if_int8_cannot_be_made() -> None:
    def loss(_: frozenset[int]) -> float:
        raise RecipeError("the quantiser does not support this graph")

    with pytest.raises(RecipeError, match="does not support this graph"):
        sensitivity.search(graph([10] * 5), lambda _: 1.0, loss, 0.01)


def test_a_model_without_operators_is_refused_or_done() -> None:
    with pytest.raises(RecipeError, match="no mix"):
        sensitivity.search([], lambda _: 0.0, lambda _: 1.0, 0.01)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(1, 1_000)), min_size=2, max_size=200),
    st.floats(0.0, 0.5),
)
def test_the_result_is_within_the_tolerance_minimal_and_cheap(
    operators: list[tuple[float, int]], max_drop: float
) -> None:
    costs = [cost for cost, _ in operators]
    model = Model(costs)
    try:
        found = sensitivity.search(
            graph([weights for _, weights in operators]), model.rank, model.loss, max_drop
        )
    except RecipeError:
        # Only if the loss is too large even with all but the last group in float.
        assert max(costs) > 0
        return
    builds = model.builds

    assert model.loss(found.chosen) <= max_drop
    assert builds <= 1 + 48 + 2 * 6 + 16
    if len(costs) <= 16:
        assert all(model.loss(found.chosen - {i}) > max_drop for i in found.chosen)


@pytest.mark.parametrize(("count", "samples"), [(0, 300), (2, 500), (4, 1_000), (37, 40), (5, 5)])
def test_the_upper_limit_is_that_of_scipy(count: int, samples: int) -> None:
    stats = pytest.importorskip("scipy.stats")
    expected = stats.binomtest(count, samples, alternative="less").proportion_ci(0.95, "exact").high

    assert sensitivity.upper_limit(count, samples) == pytest.approx(expected, abs=1e-5)


def rows(count: int) -> dict[str, Any]:
    return {"x": np.arange(count, dtype=np.float32).reshape(-1, 1)}


def test_labelled_training_data_is_judged_first_and_held_to_half() -> None:
    data = StepData(
        calibration=rows(10),
        calibration_labels=np.arange(10),
        training=rows(3_000) | {"y": np.arange(3_000)},
    )
    chosen = sensitivity.selection(data, ["x"], classes=True)

    assert chosen.labels is not None
    assert len(chosen.labels) == 1_000
    assert np.array_equal(chosen.rows["x"][:, 0], chosen.labels)
    assert chosen.labels[-1] == 2_999
    assert chosen.tolerated == 0.5
    assert "training" in chosen.description


def test_labels_of_calibration_data_are_used() -> None:
    data = StepData(calibration=rows(10), calibration_labels=np.arange(10), training=rows(3_000))
    chosen = sensitivity.selection(data, ["x"], classes=True)

    assert chosen.labels is not None
    assert "labelled calibration" in chosen.description
    assert chosen.tolerated == 0.5


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (None, True, "answers that differ from float's on 10 calibration samples"),
        (np.zeros((10, 3)), True, "answers that differ"),
        (np.arange(10), False, "relative error"),
    ],
)
def test_without_classes_to_compare_it_is_agreement(
    labels: np.ndarray[Any, Any] | None, classes: bool, message: str
) -> None:
    data = StepData(calibration=rows(10), calibration_labels=labels)
    chosen = sensitivity.selection(data, ["x"], classes=classes)

    assert chosen.labels is None
    assert message in chosen.description
