"""Quantised numbers, agreement, and the walk that finds delegated operators."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.optimize import inspect
from harness.tflite import numeric
from harness.types import Tensor

BYTE = Tensor(name="x", shape=(1, 3), dtype="int8", scale=0.5, zero_point=-10)


def test_quantise_rounds_shifts_and_clips() -> None:
    real = np.array([0.0, 0.74, 1e9, -1e9], np.float32)

    assert numeric.quantise(real, BYTE).tolist() == [-10, -9, 127, -128]


@given(st.lists(st.integers(-128, 127), min_size=1))
def test_quantise_undoes_dequantise(stored: list[int]) -> None:
    numbers = np.array(stored, np.int8)

    assert numeric.quantise(numeric.dequantise(numbers, BYTE), BYTE).tolist() == stored


def test_agreement_counts_classes_and_error() -> None:
    reference = [np.array([[0.9, 0.1], [0.2, 0.8]])]
    other = [np.array([[0.9, 0.1], [0.8, 0.2]])]

    same = numeric.agreement(reference, reference, classes=True)
    half = numeric.agreement(other, reference, classes=True)

    assert (same.samples, same.top1, same.relative_error) == (2, 1.0, 0.0)
    assert half.top1 == 0.5
    assert half.relative_error == pytest.approx(math.sqrt(0.72 / 1.5))


def test_outputs_that_are_not_finite_agree_with_nothing() -> None:
    broken = numeric.agreement(
        [np.array([[math.nan, 0.1]])], [np.array([[0.9, 0.1]])], classes=True
    )

    assert broken.top1 == 0.0
    assert broken.relative_error == math.inf


def node(op: str, inputs: list[int], outputs: list[int]) -> dict[str, object]:
    return {"op": op, "inputs": inputs, "outputs": outputs}


def test_the_walk_finds_what_a_delegate_took() -> None:
    nodes = [
        node("CONV_2D", [0, 1], [2]),
        node("ARG_MAX", [2], [3]),
        node("ADD", [3, 4], [5]),
        node("RELU", [5], [6]),
        node("DELEGATE", [0, 1], [2]),
        node("DELEGATE", [3, 4], [6]),
    ]

    found = inspect.delegated(nodes)

    assert (found.delegated_ops, found.total_ops, found.partitions) == (3, 4, 2)
    assert found.left == ("ARG_MAX",)


def test_without_a_delegate_everything_is_left() -> None:
    found = inspect.delegated([node("CONV_2D", [0, 1], [2])])

    assert (found.delegate, found.delegated_ops, found.left) == ("none", 0, ("CONV_2D",))


def test_a_nan_agrees_with_the_same_nan_of_the_reference_only() -> None:
    reference = np.array([[np.nan, 1.0, np.inf], [2.0, 3.0, 4.0]])
    same = numeric.agreement([reference.copy()], [reference], classes=False)
    assert (same.relative_error, same.samples) == (0.0, 2)
    other = np.where(np.isnan(reference), 0.0, reference)
    assert numeric.agreement([other], [reference], classes=False).relative_error == math.inf
    more = reference.copy()
    more[1, 0] = np.nan
    assert numeric.agreement([more], [reference], classes=False).relative_error == math.inf
