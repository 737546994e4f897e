"""The check after every build: does the file run here, and is it still the model?

Loading is not acceptance: some files load, run and answer garbage. Runs in a worker.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import ConfigError, RecipeError
from harness.optimize import data as datasets
from harness.optimize.runtime import Runner
from harness.tflite import numeric
from harness.tflite.flatbuffer import FileFacts
from harness.tflite.numeric import Array
from harness.types import Agreement, Tensor

CHECKED_SAMPLES = 64
_RESOURCES = ("READ_VARIABLE", "ASSIGN_VARIABLE", "VAR_HANDLE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The real inputs there are for a model, and what is asked of them."""

    evaluation: str | None
    calibration: str | None
    metric: str
    seed: int


@dataclass(slots=True, kw_only=True)
class Answers:
    """What a file answered: kept outputs (real values) of the first samples, and its score."""

    kept: list[list[Array]] = field(default_factory=list)
    score: float | None = None
    samples: int | None = None
    real: bool = True

    def outputs(self) -> list[Array]:
        """Return the kept outputs, each (n, ...)."""
        return [np.stack(column) for column in zip(*self.kept, strict=True)]


def operators(facts: FileFacts, *, allow_flex: bool, as_is: bool) -> list[str]:
    """Refuse operators that no device runs; return notes. Raises RecipeError."""
    if facts.flex and not allow_flex:
        raise RecipeError(
            f"operators {', '.join(facts.flex)} need TensorFlow's kernels (Flex); replace the "
            "layer, or set allow_flex = true in the model"
        )
    stateful = [name for name in _RESOURCES if name in facts.operators]
    if not stateful:
        return []
    if as_is:
        return [f"keeps state between inferences ({', '.join(stateful)})"]
    raise RecipeError(
        f"{', '.join(stateful)} in the file: variables of the model were not frozen; export it "
        "with fixed weights"
    )


def closed(facts: FileFacts) -> None:
    """Refuse a file with an open dimension other than the batch: no device can know its size.

    Raises RecipeError naming the input.
    """
    for tensor in facts.inputs:
        if -1 in tensor.shape[1:]:
            raise RecipeError(
                f'the input "{tensor.name}" is {list(tensor.shape)} (-1 is open) and as_is changes '
                "nothing: give its size with the key shape of the model and use float32 instead"
            )


def ask(path: Path, facts: FileFacts, material: Material) -> Answers:
    """Run the file over the real inputs (all of the evaluation data, else 64 inputs).

    Raises RecipeError where an inference fails or an output is not finite, ConfigError for data
    that does not fit the model.
    """
    answers = Answers()
    runner = Runner(path, facts)
    score = _Score(material.metric, facts.outputs) if material.evaluation else None
    for sample in _samples(facts.inputs, material, answers):
        fed = [
            numeric.quantise(array, tensor)
            for array, tensor in zip(sample.inputs, facts.inputs, strict=True)
        ]
        real = [
            numeric.dequantise(array, tensor)
            for array, tensor in zip(runner.invoke(fed), facts.outputs, strict=True)
        ]
        _finite(real, facts.outputs)
        if len(answers.kept) < CHECKED_SAMPLES:
            answers.kept.append(real)
        if score is not None:
            score.add(real, sample.label, material.evaluation or "")
    if score is not None:
        answers.score, answers.samples = score.mean, score.count
    return answers


def compare(answers: Answers, reference: Sequence[Array], outputs: Sequence[Tensor]) -> Agreement:
    """Compare a variant's kept outputs with the float file's. Raises RecipeError on other shapes."""
    ours = answers.outputs()
    if len(ours) != len(reference) or any(
        a.shape != b.shape for a, b in zip(ours, reference, strict=False)
    ):
        raise RecipeError(
            f"the outputs have other shapes than the source model's: {[a.shape[1:] for a in ours]} "
            f"for {[b.shape[1:] for b in reference]}"
        )
    return numeric.agreement(ours, reference, classes=numeric.has_classes(outputs))


def _samples(
    tensors: Sequence[Tensor], material: Material, answers: Answers
) -> Iterator[datasets.Sample]:
    if material.evaluation and material.evaluation != datasets.RANDOM:
        return datasets.samples(material.evaluation, tensors, seed=material.seed)
    if material.calibration and material.calibration != datasets.RANDOM:
        return islice(datasets.samples(material.calibration, tensors), CHECKED_SAMPLES)
    answers.real = False
    return datasets.random_samples(tensors, CHECKED_SAMPLES, material.seed)


def _finite(real: Sequence[Array], outputs: Sequence[Tensor]) -> None:
    for array, tensor in zip(real, outputs, strict=True):
        if not np.isfinite(array).all():
            raise RecipeError(
                f'outputs are not finite ("{tensor.name}" holds NaN or infinity): the weights or '
                "the conversion are broken; check the trained model for NaN weights"
            )


class _Score:
    """The mean of a metric, sample by sample."""

    def __init__(self, metric: str, outputs: Sequence[Tensor]) -> None:
        if metric not in METRICS:
            raise ConfigError(f'unknown metric "{metric}" (allowed: {", ".join(METRICS)})')
        if len(outputs) != 1:
            raise ConfigError(
                f"accuracy needs a model with one output; this one has {len(outputs)}: "
                "leave the key evaluation out"
            )
        self._of = METRICS[metric]
        self._sum = 0.0
        self.count = 0

    def add(self, real: Sequence[Array], label: Array | None, where: str) -> None:
        if label is None:
            raise ConfigError(f'data {where}: the key "y" is missing; evaluation needs labels')
        self._sum += self._of(real[0].reshape(-1), label, where)
        self.count += 1

    @property
    def mean(self) -> float:
        return self._sum / self.count


def _top(count: int) -> Callable[[Array, Array, str], float]:
    def top(scores: Array, label: Array, where: str) -> float:
        if label.size != 1 or not np.issubdtype(label.dtype, np.integer):
            raise ConfigError(
                f'data {where}: "y" is {label.dtype} of shape {label.shape} a sample; top1 and '
                'top5 need integer classes (metric = "mse" or "mae" compares arrays)'
            )
        wanted = int(label.reshape(-1)[0])
        if not 0 <= wanted < scores.size:
            raise ConfigError(
                f'data {where}: "y" holds the class {wanted}; the model has {scores.size}'
            )
        return float(wanted in np.argsort(-scores, kind="stable")[:count])

    return top


def _error_of(measure: Callable[[Array], Array]) -> Callable[[Array, Array, str], float]:
    def error(scores: Array, label: Array, where: str) -> float:
        if label.size != scores.size or not np.issubdtype(label.dtype, np.number):
            raise ConfigError(
                f'data {where}: "y" has {label.size} numbers a sample; the model gives '
                f"{scores.size}"
            )
        difference = scores.astype(np.float64) - label.reshape(-1).astype(np.float64)
        return float(measure(difference).mean())

    return error


METRICS: dict[str, Callable[[Array, Array, str], float]] = {
    "top1": _top(1),
    "top5": _top(5),
    "mse": _error_of(np.square),
    "mae": _error_of(np.abs),
}
"""Metric words of a plan. top1 and top5 are shares (higher is better), the others errors."""


def plain(agreement: Agreement | None) -> dict[str, Any] | None:
    """Write an agreement for the wire."""
    if agreement is None:
        return None
    return {
        "samples": agreement.samples,
        "top1": agreement.top1,
        "relative_error": agreement.relative_error,
    }
