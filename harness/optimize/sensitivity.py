"""Find the operators that lose most in int8, and a small set of them to leave in float.

The search does not use the quantiser: it calls `loss(chosen)` for the loss of a file with these
operators in float. `Trials` makes such files and compares them with the float one.
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
from harness.optimize.beats import BEATS
from harness.optimize.runtime import Runner
from harness.protocols import StepData
from harness.stats import binomial_cdf
from harness.tflite import flatbuffer, numeric, operators
from harness.tflite.numeric import Array
from harness.tflite.operators import Operator

PRECISIONS = ("float", "int8", "int16")
CALIBRATION_ROWS = 1_000
SELECTION_ROWS = 1_000
"""Maximum number of rows that a mix is judged on; 1 percentage point is 10 rows."""
CONFIDENCE = 0.95
_FITTED = 0.5
"""Share of max_drop that a mix may lose on labelled samples, because the model was probably trained
on them. On the badly scaled digits model of benchmarks/mixed.py a mix that lost 0.4 % of them lost
1.5 % of new ones."""
_PRECISION = 1e-6
_RANKING_ROWS = 64
_MAX_GROUPS = 48
"""Maximum number of trial builds for the ranking; a larger graph is ranked in groups of neighbours."""
_MAX_TRIMS = 16
_BITS = {"int8": 8, "int16": 16}

Chosen = frozenset[int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sensitivity:
    """The operators left in float, and the loss of that file."""

    chosen: Chosen
    loss: float
    all_int8: float
    """The loss with no operator in float."""


def search(
    found: Sequence[Operator],
    rank: Callable[[Chosen], float],
    loss: Callable[[Chosen], float],
    max_drop: float,
) -> Sensitivity:
    """Find a small set of operators to leave in float so that their `loss` is at most `max_drop`.

    Args:
        found: The operators that may be left in float.
        rank: The loss of a float file with only these in int8.
        loss: The loss of the int8 file with these in float.
        max_drop: The largest allowed loss.

    The operators (in a large graph, groups of neighbours) are sorted by `rank`, and by `rank` per
    weight. Bisection finds the shortest prefix of each list that is within `max_drop`, and the one
    with fewer weights is taken. Then each of its operators, the largest first, returns to int8 if
    the loss stays within `max_drop`. That takes at most 48 builds to rank, 2 log2(48) to bisect and
    16 to return.

    Raises RecipeError if the loss is too large even with all but the least sensitive group in
    float, and as `loss` does with all operators in int8.
    """
    lost: dict[Chosen, float] = {}

    def measured(chosen: Chosen) -> float:
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
    lists = [_shortest(order, measured, max_drop) for order in (worst, dearest)]
    held = [chosen for chosen in lists if chosen is not None]
    if not held:
        least = min(lost.items(), key=lambda item: item[1])
        raise RecipeError(
            f"no mix loses {max_drop:g} or less: int8 alone loses {measured(none):.4g}, the best of "
            f"{len(lost)} mixes {least[1]:.4g} with {len(least[0])} of {len(found)} operators in "
            "float; use float16 or int16x8, or allow more"
        )
    lightest = min(held, key=lambda chosen: _total(chosen, weights))
    chosen = _trimmed(lightest, weights, measured, max_drop)
    return Sensitivity(chosen=chosen, loss=measured(chosen), all_int8=measured(none))


def _or_all(measure: Callable[[Chosen], float], chosen: Chosen) -> float:
    """Measure a mix; one that cannot be made or run has an infinite loss, and the search continues."""
    try:
        return measure(chosen)
    except RecipeError:
        return math.inf


def _shortest(
    order: Sequence[Chosen], measured: Callable[[Chosen], float], max_drop: float
) -> Chosen | None:
    """Return the shortest prefix of `order` within `max_drop`; None if only the whole may be."""
    prefixes = list(accumulate(order, lambda so_far, group: so_far | group))
    low, high = -1, len(prefixes) - 1
    while high - low > 1:
        middle = (low + high) // 2
        if measured(prefixes[middle]) <= max_drop:
            high = middle
        else:
            low = middle
    return prefixes[high] if high < len(prefixes) - 1 else None


def _total(chosen: Chosen, weights: Mapping[int, int]) -> int:
    return sum(weights[index] for index in chosen)


def _trimmed(
    chosen: Chosen,
    weights: Mapping[int, int],
    measured: Callable[[Chosen], float],
    max_drop: float,
) -> Chosen:
    """Remove the operators that need not be in float, those with the most weights first."""
    for index in sorted(chosen, key=lambda index: -weights[index])[:_MAX_TRIMS]:
        if measured(chosen - {index}) <= max_drop:
            chosen -= {index}
    return chosen


def _groups(found: Sequence[Operator]) -> list[Chosen]:
    size = -(-len(found) // _MAX_GROUPS)
    return [
        frozenset(operator.index for operator in found[i : i + size])
        for i in range(0, len(found), max(size, 1))
    ]


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """The samples that a mix is judged on: inputs by tensor name, and classes if there are any."""

    rows: Mapping[str, Array]
    labels: Array | None
    description: str
    """The source of the samples and the compared quantity, for the notes."""
    tolerated: float = 1.0
    """Share of max_drop that a mix may lose on them."""


def selection(data: StepData, tensors: Sequence[str], *, classes: bool) -> Selection:
    """Choose the rows: labelled training data, else labelled calibration data, else unlabelled.

    Never the evaluation data: a mix that was chosen on it could not be evaluated on it.
    """
    calibration = data.calibration or {}
    training = dict(data.training or {})
    labels = training.pop("y", None)
    candidates = (
        ("training", training, labels),
        ("calibration", calibration, data.calibration_labels),
    )
    for name_of_data, rows, given in candidates:
        if classes and given is not None and given.ndim == 1 and given.dtype.kind in "iu":
            kept = _spread(len(given))
            description = (
                f"answers that became wrong on {len(kept)} labelled {name_of_data} samples, upper "
                f"{CONFIDENCE:.0%} limit"
            )
            return Selection(
                rows={name: rows[name][kept] for name in tensors},
                labels=given[kept],
                description=description,
                tolerated=_FITTED,
            )
    kept = _spread(len(next(iter(calibration.values()))))
    what = "answers that differ from float's" if classes else "relative error against float"
    return Selection(
        rows={name: calibration[name][kept] for name in tensors},
        labels=None,
        description=f"{what} on {len(kept)} calibration samples (no labels)",
    )


def _spread(count: int) -> Array:
    return np.unique(np.linspace(0, count - 1, min(count, SELECTION_ROWS)).astype(np.int64))


class Trials:
    """Files of one float model in different precisions, compared with the float file."""

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
        """Calibrate once and run the float file; raises RecipeError if either fails."""
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
        BEATS.start()  # calibrating was in time, so each of these runs of the same model counts
        self._float = _outputs(source, self.selection.rows)
        self.tolerance = max_drop * self.selection.tolerated
        """The largest allowed loss on the samples that a mix is judged on."""
        self.builds = 0

    def build(self, precision: Mapping[int, str]) -> memoryview:
        """Make the int8 file with these operators (by index) in `float` or `int16`."""
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
        """Return the loss against the float file with these operators not in int8.

        With labels, it is the share of answers that were right and are now wrong. If there are any,
        it is the upper end of the share's one-sided 95 % interval, because the samples are few and
        favour the model. Without labels, it is the share of changed answers; without classes, the
        relative error.
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
            for index, kind in precision.items():
                if kind == "float":
                    _keep_float(worker, self._by_index[index])
                elif kind != "int8":
                    _static(worker, self._by_index[index], _BITS[kind])

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
    """Run rows of real values through a file; return real outputs, each (n, ...)."""
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
    """Return the class of each row; -1 if its scores are not finite."""
    scores = outputs[0].reshape(len(outputs[0]), -1)
    return np.where(np.isfinite(scores).all(1), scores.argmax(1), -1)


def _static(worker: Any, operator: Operator, bits: int) -> None:  # noqa: ANN401 - untyped library
    worker.add_static_config(operators.scope(operator), operators.quantiser_type(operator), bits, 8)


def _keep_float(worker: Any, operator: Operator) -> None:  # noqa: ANN401 - untyped library
    worker.update_quantization_recipe(
        operators.scope(operator), operators.quantiser_type(operator), algorithm_key="no_quantize"
    )
