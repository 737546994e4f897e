"""Which operators int8 hurts most, and how few of them in float are enough.

The search knows no quantiser: it asks `loss(chosen)` what a file loses that has these operators in
float. How a file is made and held against the float one is below it, in Trials.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RecipeError
from harness.optimize import quantise
from harness.optimize.runtime import Runner
from harness.protocols import StepData
from harness.stats import binomial_cdf
from harness.tflite import flatbuffer, numeric, operators
from harness.tflite.numeric import Array
from harness.tflite.operators import Operator

PRECISIONS = ("float", "int8", "int16")
CALIBRATION_ROWS = 1_000
SELECTION_ROWS = 1_000
"""Rows at most that a mix is judged on: 1 point is 10 of them."""
CONFIDENCE = 0.95
_FITTED = 0.5
"""Share of max_drop that may be lost on labelled samples, which the model was most likely trained on.
On the badly scaled digits model of benchmarks/mixed.py a mix that lost 0.4 % of them lost 1.5 % of new
ones."""
_PRECISION = 1e-6
_RANKING_ROWS = 64
_MOST_GROUPS = 48
"""Trial builds of the ranking; a larger graph is ranked in groups of neighbours."""
_MOST_TRIMS = 16
_BITS = {"int8": 8, "int16": 16}

Chosen = frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """What the search left in float, and what the file then loses."""

    chosen: Chosen
    loss: float
    all_int8: float
    """What the file loses with none in float."""


def search(
    found: Sequence[Operator],
    rank: Callable[[Chosen], float],
    loss: Callable[[Chosen], float],
    max_drop: float,
) -> Sensitivity:
    """Find few operators to leave in float so that `loss` of them is at most `max_drop`.

    Args:
        found: The operators that may be left in float.
        rank: What a float file loses with only these in int8.
        loss: What the int8 file loses with these in float.
        max_drop: The most that may be lost.

    The operators (or groups of neighbours, in a large graph) are ranked by `rank`, and by `rank` per
    weight; the shortest beginning of each list that holds is found by halving, and the lighter one
    taken; then each of it, the heaviest first, is given back to int8 where that still holds. At most
    48 builds to rank, 2 log2 of that to halve, 16 to give back.

    Raises RecipeError if all but the least sensitive in float do not hold, and as `loss` does where
    all are in int8.
    """
    lost: dict[Chosen, float] = {}

    def ask(chosen: Chosen) -> float:
        if chosen not in lost:
            lost[chosen] = _or_all(loss, chosen)
        return lost[chosen]

    none: Chosen = frozenset()
    lost[none] = loss(none)
    if lost[none] <= max_drop:
        return Sensitivity(chosen=none, loss=lost[none], all_int8=lost[none])
    weights = {operator.index: operator.weights for operator in found}
    error = {group: _or_all(rank, group) for group in _groups(found)}
    worst = sorted(error, key=lambda group: -error[group])
    dearest = sorted(error, key=lambda group: -error[group] / max(_total(group, weights), 1))
    lists = [_shortest(order, ask, max_drop) for order in (worst, dearest)]
    held = [chosen for chosen in lists if chosen is not None]
    if not held:
        least = min(lost.items(), key=lambda item: item[1])
        raise RecipeError(
            f"no mix loses {max_drop:g} or less: int8 alone loses {ask(none):.4g}, the best of "
            f"{len(lost)} mixes {least[1]:.4g} with {len(least[0])} of {len(found)} operators in "
            "float; use float16 or int16x8, or allow more"
        )
    lightest = min(held, key=lambda chosen: _total(chosen, weights))
    chosen = _given_back(lightest, weights, ask, max_drop)
    return Sensitivity(chosen=chosen, loss=ask(chosen), all_int8=ask(none))


def _or_all(measure: Callable[[Chosen], float], chosen: Chosen) -> float:
    """Measure a mix; one that cannot be made or run has lost everything, and others may not."""
    try:
        return measure(chosen)
    except RecipeError:
        return math.inf


def _shortest(
    order: Sequence[Chosen], ask: Callable[[Chosen], float], max_drop: float
) -> Chosen | None:
    """Return the shortest beginning of `order` that holds; None if only the whole may."""
    beginnings = list(accumulate(order, lambda so_far, group: so_far | group))
    low, high = -1, len(beginnings) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if ask(beginnings[middle]) <= max_drop:
            high = middle
        else:
            low = middle
    return beginnings[high] if high < len(beginnings) - 1 else None


def _total(chosen: Chosen, weights: Mapping[int, int]) -> int:
    return sum(weights[index] for index in chosen)


def _given_back(
    chosen: Chosen,
    weights: Mapping[int, int],
    ask: Callable[[Chosen], float],
    max_drop: float,
) -> Chosen:
    """Return to int8, heaviest first, what need not be in float."""
    for index in sorted(chosen, key=lambda index: -weights[index])[:_MOST_TRIMS]:
        if ask(chosen - {index}) <= max_drop:
            chosen -= {index}
    return chosen


def _groups(found: Sequence[Operator]) -> list[Chosen]:
    size = -(-len(found) // _MOST_GROUPS)
    return [
        frozenset(operator.index for operator in found[i : i + size])
        for i in range(0, len(found), max(size, 1))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """What a mix is judged on: rows of inputs by tensor name, and classes where there are any."""

    rows: Mapping[str, Array]
    labels: Array | None
    words: str
    """Where they are from and what is compared, for the notes."""
    tolerated: float = 1.0
    """Share of max_drop that may be lost on them."""


def selection(data: StepData, tensors: Sequence[str], *, classes: bool) -> Selection:
    """Choose the rows: labelled training data, else labelled calibration data, else without labels.

    Never the evaluation data: what is chosen by it could not be judged by it any more.
    """
    calibration = data.calibration or {}
    training = dict(data.training or {})
    labels = training.pop("y", None)
    candidates = (
        ("training", training, labels),
        ("calibration", calibration, data.calibration_labels),
    )
    for word, rows, given in candidates:
        if classes and given is not None and given.ndim == 1 and given.dtype.kind in "iu":
            kept = _spread(len(given))
            words = (
                f"answers that turned wrong on {len(kept)} labelled {word} samples, upper "
                f"{CONFIDENCE:.0%} limit"
            )
            return Selection(
                rows={name: rows[name][kept] for name in tensors},
                labels=given[kept],
                words=words,
                tolerated=_FITTED,
            )
    kept = _spread(len(next(iter(calibration.values()))))
    what = "answers that differ from float's" if classes else "relative error against float"
    return Selection(
        rows={name: calibration[name][kept] for name in tensors},
        labels=None,
        words=f"{what} on {len(kept)} calibration samples (no labels)",
    )


def _spread(count: int) -> Array:
    return np.unique(np.linspace(0, count - 1, min(count, SELECTION_ROWS)).astype(np.int64))


class Trials:
    """Files of one float model in different precisions, made and held against it."""

    def __init__(
        self,
        source: Path,
        data: StepData,
        workdir: Path,
        found: Sequence[Operator],
        *,
        io: str,
        max_drop: float,
    ) -> None:
        """Calibrate once and run the float file; raises RecipeError if either cannot be."""
        self._bytes = source.read_bytes()
        self._workdir = workdir
        self._by_index = {operator.index: operator for operator in found}
        self._io = io
        calibration = {n: a[:CALIBRATION_ROWS] for n, a in (data.calibration or {}).items()}
        self._ranges = quantise.calibrate(source, self._bytes, quantise.integer(8), calibration)
        facts = flatbuffer.read(source)
        self._classes = numeric.has_classes(facts.outputs)
        self.selection = selection(
            data, [tensor.name for tensor in facts.inputs], classes=self._classes
        )
        self._float = _outputs(source, self.selection.rows)
        self.tolerance = max_drop * self.selection.tolerated
        """What may be lost on the samples that a mix is judged on."""
        self.builds = 0

    def build(self, precision: Mapping[int, str]) -> memoryview:
        """Make the file that is int8 but for these operators (by index: `float` or `int16`)."""
        return quantise.apply(self._bytes, self._configured(precision), self._ranges)

    def alone(self, chosen: Chosen) -> float:
        """Return the relative error of the float file with only these operators in int8."""

        def configure(worker: Any) -> None:  # noqa: ANN401 - untyped library
            for index in chosen:
                _static(worker, self._by_index[index], 8)

        rows = {name: array[:_RANKING_ROWS] for name, array in self.selection.rows.items()}
        outputs = self._run(quantise.apply(self._bytes, configure, self._ranges), rows)
        reference = [array[: len(outputs[0])] for array in self._float]
        return numeric.agreement(outputs, reference, classes=False).relative_error

    def loss(self, precision: Mapping[int, str]) -> float:
        """Return what the file with these operators not in int8 loses against the float one.

        With labels the share of answers that were right and are wrong now: where there are any, the
        upper end of its one-sided 95 % interval, for the samples are few and flatter the model. Without
        labels the share of answers that changed; without classes the relative error.
        """
        outputs = self._run(self.build(precision), self.selection.rows)
        if not self._classes:
            return numeric.agreement(outputs, self._float, classes=False).relative_error
        ours, theirs = _answers(outputs), _answers(self._float)
        labels = self.selection.labels
        if labels is None:
            return int((ours != theirs).sum()) / len(ours)
        lost = int(((theirs == labels) & (ours != labels)).sum())
        return upper_limit(lost, len(labels)) if lost else 0.0

    def _configured(self, precision: Mapping[int, str]) -> Callable[[Any], None]:
        def configure(worker: Any) -> None:  # noqa: ANN401 - untyped library
            base = quantise.integer(8)
            (quantise.float_ends(base) if self._io == "float" else base)(worker)
            for index, word in precision.items():
                if word == "float":
                    _plain(worker, self._by_index[index])
                elif word != "int8":
                    _static(worker, self._by_index[index], _BITS[word])

        return configure

    def _run(self, content: memoryview, rows: Mapping[str, Array]) -> list[Array]:
        self.builds += 1
        path = self._workdir / "trial.tflite"
        path.write_bytes(content)
        try:
            return _outputs(path, rows)
        finally:
            path.unlink()


def _outputs(path: Path, rows: Mapping[str, Array]) -> list[Array]:
    """Run rows of real values through a file; real outputs, each (n, ...)."""
    facts = flatbuffer.read(path)
    runner = Runner(path, facts)
    kept: list[list[Array]] = []
    for row in zip(*(rows[tensor.name] for tensor in facts.inputs), strict=True):
        fed = [numeric.quantise(a, tensor) for a, tensor in zip(row, facts.inputs, strict=True)]
        real = zip(runner.invoke(fed), facts.outputs, strict=True)
        kept.append([numeric.dequantise(array, tensor) for array, tensor in real])
    return [np.stack(column) for column in zip(*kept, strict=True)]


def upper_limit(count: int, samples: int) -> float:
    """Return the upper end of the one-sided 95 % interval of a share (Clopper and Pearson, 1934)."""
    if count >= samples:
        return 1.0
    low, high = count / samples, 1.0
    while high - low > _PRECISION:
        middle = (low + high) / 2
        if binomial_cdf(count, samples, middle) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def _answers(outputs: Sequence[Array]) -> Array:
    """Return the class of each row; -1 where its scores are not finite."""
    scores = outputs[0].reshape(len(outputs[0]), -1)
    return np.where(np.isfinite(scores).all(1), scores.argmax(1), -1)


def _static(worker: Any, operator: Operator, bits: int) -> None:  # noqa: ANN401 - untyped library
    worker.add_static_config(operators.scope(operator), operators.quantiser_type(operator), bits, 8)


def _plain(worker: Any, operator: Operator) -> None:  # noqa: ANN401 - untyped library
    worker.update_quantization_recipe(
        operators.scope(operator), operators.quantiser_type(operator), algorithm_key="no_quantize"
    )
