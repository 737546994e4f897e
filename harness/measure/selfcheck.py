"""What a device's outputs show by themselves: the order of inputs that shows it, and the facts.

    order = schedule(len(inputs))
    outputs = ...                       # of the inputs in this order, in one process
    selfcheck.of(inputs in this order, outputs)

A third of the inputs runs again in another order, the first of all at the end. An output that belongs
to an earlier input then differs from the first time, and shows how much earlier.
harness.devices.delegation.outputs judges the facts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from harness import metrics
from harness.errors import ConfigError
from harness.tflite import numeric
from harness.tflite.numeric import Array
from harness.types import SelfCheck, Tensor

MAX_INFERENCES = 64
"""What a dialect takes at once (docs/agent-protocol.md, infer)."""

MAX_REPEATS = 16
MAX_SHIFT = 8
"""Inputs before the present one among which the owner of an output is searched."""

MIN_UNLIKE = 0.25
"""With a smaller share of repeats that differ, single outputs are wrong, and not all of them late."""

MIN_PAIRS = 3
"""Fewer agreeing pairs do not show that outputs are shifted."""

SPREAD_TOLERANCE = 0.1
"""Two outputs count as one if their distance is this share of the mean distance between outputs of
different inputs: a GPU may add in another order each time."""

NORM_TOLERANCE = 1e-4
"""The same, as a share of the output's own size: outputs that hardly depend on the inputs differ by
rounding alone."""

MIN_LABELS = 16
MAX_MAJORITY = 0.8
"""With a larger share of one label, a constant answer is nearly as good as a right one."""

PERMUTATIONS = 199
_LARGEST = 1e100


def schedule(count: int) -> list[int]:
    """Return the order in which `count` inputs run, by index: at most 64, with repeats at the end.

    The repeats are spread over the inputs and run backwards, so each has other predecessors than the
    first time.
    """
    first = min(count, MAX_INFERENCES - MAX_REPEATS)
    repeats = min(first, MAX_REPEATS)
    stride = max(1, first // max(1, repeats))
    return [*range(first), *range((repeats - 1) * stride, -1, -stride)]


def of(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> SelfCheck:
    """Return the facts of outputs and their inputs, each (n, ...) by tensor name, as they ran."""
    count = len(next(iter(inputs.values())))
    given = _identities(inputs, count)
    seen: dict[int, int] = {}
    repeats = []
    for place, name in enumerate(given):
        if name in seen:
            repeats.append((seen[name], place))
        seen.setdefault(name, place)
    alike = _Alike(outputs, given)
    unlike = sum(not alike(*pair) for pair in repeats)
    return SelfCheck(
        inferences=count,
        inputs=len(seen),
        outputs=len(set(_identities(outputs, count))) if outputs else len(seen),
        repeats=len(repeats),
        unlike=unlike,
        shift=_shift(given, alike) if unlike >= MIN_UNLIKE * max(1, len(repeats)) else None,
        copied=_copied(inputs, outputs),
        not_finite=_not_finite(outputs, count),
    )


def scored(
    check: SelfCheck,
    outputs: Mapping[str, Array],
    tensors: Sequence[Tensor],
    labels: Mapping[str, Array],
    metric: str,
) -> SelfCheck:
    """Add the score of outputs by their labels, each (n, ...), and how likely it is by chance.

    The probability is that of a permutation test with 199 random orders of the labels (Good,
    Permutation Tests, 1994). The facts are returned unchanged if the labels cannot show anything: there
    are too few, nearly all are equal, or the metric does not fit them.
    """
    count = min(map(len, labels.values()), default=0)
    rows = _identities(labels, count)
    if count < MIN_LABELS or max(map(rows.count, set(rows))) > MAX_MAJORITY * count:
        return check
    real = {
        one.name: numeric.dequantise(outputs[one.name][:count], one).astype(np.float64)
        for one in tensors
    }
    try:
        made = metrics.load(metric)
        higher = made().direction == "higher"

        def score(order: Array) -> float:
            counter = made()
            counter.update(real, {name: array[:count][order] for name, array in labels.items()})
            return float(counter.result().value)

        own = score(np.arange(count))
        generator = np.random.default_rng(0)
        others = [score(generator.permutation(count)) for _ in range(PERMUTATIONS)]
    except (ConfigError, ValueError, ArithmeticError):
        return check
    if not np.isfinite(own):
        return check
    as_good = sum(other >= own if higher else other <= own for other in others)
    return replace(check, metric=metric, score=own, chance=(1 + as_good) / (1 + PERMUTATIONS))


def _identities(arrays: Mapping[str, Array], count: int) -> list[int]:
    """Return a number for each row of all arrays together; equal rows have equal numbers."""
    flat = [np.ascontiguousarray(arrays[name]).reshape(count, -1) for name in sorted(arrays)]
    known: dict[bytes, int] = {}
    found = []
    for row in range(count):
        digest = hashlib.sha256()
        for array in flat:
            digest.update(array[row].tobytes())
        found.append(known.setdefault(digest.digest(), len(known)))
    return found


class _Alike:
    """Whether two outputs are the same but for rounding; rows are converted when they are compared."""

    def __init__(self, outputs: Mapping[str, Array], given: Sequence[int]) -> None:
        flat = [array.reshape(len(given), -1) for array in outputs.values()]
        self._flat = [array for array in flat if array.size]
        apart = [pair for pair in pairwise(range(len(given))) if given[pair[0]] != given[pair[1]]]
        self._tolerances = [
            max(
                SPREAD_TOLERANCE * float(np.mean([_distance(array, *pair) for pair in apart] or 0)),
                NORM_TOLERANCE * float(np.mean([np.linalg.norm(_bounded(row)) for row in array])),
            )
            for array in self._flat
        ]

    def __call__(self, one: int, other: int) -> bool:
        return all(
            _distance(array, one, other) <= tolerance
            for array, tolerance in zip(self._flat, self._tolerances, strict=True)
        )


def _bounded(row: Array) -> Array:
    """Return float64 whose squares do not overflow; NaN and infinities are 0."""
    real = row.real if row.dtype.kind == "c" else row
    wide = np.nan_to_num(real.astype(np.float64), posinf=0.0, neginf=0.0)
    return np.clip(wide, -_LARGEST, _LARGEST)


def _distance(array: Array, one: int, other: int) -> float:
    return float(np.linalg.norm(_bounded(array[one]) - _bounded(array[other])))


def _shift(given: Sequence[int], alike: _Alike) -> int | None:
    """Return by how many inferences the outputs are late; None if no such number explains them all."""
    for shift in range(1, min(MAX_SHIFT, len(given) - 1) + 1):
        first: dict[int, int] = {}
        pairs = []
        for place in range(shift, len(given)):
            owner = given[place - shift]
            if owner in first:
                pairs.append((first[owner], place))
            first.setdefault(owner, place)
        if len(pairs) >= MIN_PAIRS and all(alike(*pair) for pair in pairs):
            return shift
    return None


def _copied(inputs: Mapping[str, Array], outputs: Mapping[str, Array]) -> str | None:
    """Return the name of an output that is an input's bytes, or their beginning, every time.

    None if another output is neither a copy nor constant: a model may also pass its input on.
    """
    copies = []
    for name, output in outputs.items():
        ours = _bytes(output)
        if (ours == ours[:1]).all():
            continue
        if not any(_begins_alike(ours, _bytes(array)) for array in inputs.values()):
            return None
        copies.append(name)
    return copies[0] if copies else None


def _begins_alike(ours: Array, given: Array) -> bool:
    both = min(ours.shape[1], given.shape[1])
    return both > 0 and np.array_equal(ours[:, :both], given[:, :both])


def _bytes(array: Array) -> Array:
    count = len(array)
    return np.ascontiguousarray(array).reshape(count, -1).view(np.uint8).reshape(count, -1)


def _not_finite(outputs: Mapping[str, Array], count: int) -> int:
    wrong = np.zeros(count, bool)
    for array in outputs.values():
        if array.dtype.kind in "fc" and array.size:
            rows = array.reshape(count, -1)
            wrong |= np.isnan(rows).any(axis=1) | np.isinf(rows).all(axis=1)
    return int(wrong.sum())
