"""The check after every build: the file runs on this host and still computes the model.

A file that loads may still be wrong: some files load, run and return garbage. Runs in a worker.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from harness import hints, metrics
from harness.errors import ConfigError, RecipeError
from harness.optimize import data as datasets
from harness.optimize.runtime import Runner
from harness.protocols import Score
from harness.tflite import indices, numeric
from harness.tflite.flatbuffer import FileFacts
from harness.tflite.indices import IndexRange
from harness.tflite.numeric import Array
from harness.types import Agreement, Direction, Tensor

CHECKED_SAMPLES = 64
BATCH_SAMPLES = 32
"""Samples per update of a metric; more would only fill the memory."""
_RESOURCES = ("READ_VARIABLE", "ASSIGN_VARIABLE", "VAR_HANDLE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Material:
    """The data of a model, and the metric to compute on it."""

    evaluation: str | None
    calibration: str | None
    metric: str
    seed: int
    small: bool = False
    """Whether random integers of 32 bits and more are only 0 or 1, as for the float file."""


@dataclass(slots=True, kw_only=True)
class HostOutputs:
    """A file's outputs on the host: those of the first samples (real values), and its score."""

    kept: list[list[Array]] = field(default_factory=list)
    score: Score | None = None
    direction: Direction | None = None
    """The metric's direction: whether higher or lower scores are better."""
    real: bool = True
    """Whether the inputs are the user's data; else they are random."""
    small: bool = False
    """Whether random integers of 32 bits and more were only 0 or 1."""
    notes: tuple[str, ...] = ()
    """Notes on the random inputs."""

    def outputs(self) -> list[Array]:
        """Return the kept outputs, each (n, ...)."""
        return [np.stack(column) for column in zip(*self.kept, strict=True)]


def operators(facts: FileFacts, *, allow_flex: bool, as_is: bool) -> list[str]:
    """Check for operators that no device runs; return notes. Raises RecipeError."""
    if facts.flex and not allow_flex:
        raise RecipeError(
            f"operators {', '.join(facts.flex)} need TensorFlow's kernels (Flex); replace the "
            f"layer, or set allow_flex = true in the model ({hints.option('allow-flex')})"
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
    """Refuse a file with an open dimension other than the batch: no device knows its size.

    Raises RecipeError with the input.
    """
    for tensor in facts.inputs:
        if -1 in tensor.shape[1:]:
            raise RecipeError(
                f'the input "{tensor.name}" is {list(tensor.shape)} (-1 is open) and as_is changes '
                f"nothing: set its size with the key shape of the model ({hints.option('shape')}) "
                "and use float32 instead"
            )


class NotFiniteOutputs(RecipeError):
    """An output has NaN or infinity."""


def run_samples(path: Path, facts: FileFacts, material: Material) -> HostOutputs:
    """Run the file over the real inputs (all of the evaluation data, else 64 inputs).

    Large random integers may overflow in a model's float arithmetic; then the inputs are drawn
    again from 0 and 1. Raises RecipeError if an inference fails or an output is not finite,
    ConfigError for data that does not fit the model.
    """
    ranges = {} if _data(material) else indices.read(path)
    try:
        return _run(path, facts, material, ranges)
    except NotFiniteOutputs:
        if _data(material) or material.small or not datasets.wide(facts.inputs, ranges):
            raise
    return _run(path, facts, replace(material, small=True), ranges)


def _run(
    path: Path, facts: FileFacts, material: Material, ranges: Mapping[str, IndexRange]
) -> HostOutputs:
    answers = HostOutputs(real=_data(material) is not None, small=material.small)
    if not answers.real:
        answers.notes = _notes(facts, ranges, small=material.small)
    runner = Runner(path, facts)
    evaluation = Evaluation(material.evaluation, material.metric) if material.evaluation else None
    for sample in _samples(facts.inputs, material, ranges):
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
        if evaluation is not None:
            evaluation.add(dict(zip(names(facts.outputs), real, strict=True)), sample.labels)
    if evaluation is not None:
        answers.score, answers.direction = evaluation.result(), evaluation.direction
    return answers


def names(outputs: Sequence[Tensor]) -> list[str]:
    """Return the outputs' names for a metric: the file's, or positions if two names are equal."""
    given = [tensor.name for tensor in outputs]
    return given if len(set(given)) == len(given) else [str(place) for place in range(len(given))]


def compare(
    answers: HostOutputs, reference: Sequence[Array], outputs: Sequence[Tensor]
) -> Agreement:
    """Compare a variant's kept outputs with the float file's.

    Raises RecipeError if the shapes differ.
    """
    ours = answers.outputs()
    if len(ours) != len(reference) or any(
        a.shape != b.shape for a, b in zip(ours, reference, strict=False)
    ):
        raise RecipeError(
            f"the outputs have other shapes than the source model's: {[a.shape[1:] for a in ours]} "
            f"instead of {[b.shape[1:] for b in reference]}"
        )
    return numeric.agreement(ours, reference, classes=numeric.has_classes(outputs))


def _data(material: Material) -> str | None:
    """Return the user's data that the check runs on; None if it runs on random inputs."""
    given = [material.evaluation, material.calibration]
    return next((item for item in given if item and item != datasets.RANDOM), None)


def _notes(facts: FileFacts, ranges: Mapping[str, IndexRange], *, small: bool) -> tuple[str, ...]:
    found: tuple[str, ...] = ("checked on random inputs: the plan gives no data",)
    if small:
        found += ("random integers are 0 or 1: on large ones the model's outputs are not finite",)
    return (*found, *datasets.describe_ranges(facts.inputs, ranges))


def _samples(
    tensors: Sequence[Tensor], material: Material, ranges: Mapping[str, IndexRange]
) -> Iterator[datasets.Sample]:
    source = _data(material)
    if source is None:
        return datasets.random_samples(
            tensors, CHECKED_SAMPLES, material.seed, ranges, small=material.small
        )
    if source == material.evaluation:
        return datasets.samples(source, tensors, seed=material.seed)
    return islice(datasets.samples(source, tensors), CHECKED_SAMPLES)


def _finite(real: Sequence[Array], outputs: Sequence[Tensor]) -> None:
    for array, tensor in zip(real, outputs, strict=True):
        if not np.isfinite(array).all():
            raise NotFiniteOutputs(
                f'outputs are not finite ("{tensor.name}" has NaN or infinity): the weights or '
                "the conversion are broken; check the trained model for NaN weights"
            )


class Evaluation:
    """The metric over the evaluation data, updated in batches of equal shapes."""

    def __init__(self, source: str, metric: str) -> None:
        """Take the source of the data, for errors, and the metric's name."""
        self._where = source
        self._metric = metrics.load(metric)()
        self._outputs: list[Mapping[str, Array]] = []
        self._labels: list[Mapping[str, Array]] = []

    @property
    def direction(self) -> Direction:
        """Whether higher or lower values of the metric are better."""
        return self._metric.direction

    def add(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add the outputs and the labels of one sample; raises ConfigError as the metric does."""
        if not labels:
            raise ConfigError(
                f'data {self._where}: the key "y" is missing; evaluation needs labels'
            )
        if self._labels and (
            len(self._labels) == BATCH_SAMPLES or _shapes(self._labels[0]) != _shapes(labels)
        ):
            self.flush()
        self._outputs.append(outputs)
        self._labels.append(labels)

    def result(self) -> Score:
        """Return the score; raises ConfigError if it is not a finite number."""
        self.flush()
        score = self._metric.result()
        if not math.isfinite(score.value):
            raise ConfigError(
                f"data {self._where}: the metric is {score.value}, not a finite number; look for NaN "
                "in the data and in the file's outputs"
            )
        return score

    def flush(self) -> None:
        """Update the metric with the samples that are left; raises ConfigError as it does."""
        if not self._labels:
            return
        try:
            self._metric.update(_stacked(self._outputs), _stacked(self._labels))
        except ConfigError as error:
            raise ConfigError(f"data {self._where}: {error}") from None
        self._outputs, self._labels = [], []


def _shapes(arrays: Mapping[str, Array]) -> list[tuple[str, tuple[int, ...], str]]:
    return [(name, array.shape, array.dtype.str) for name, array in arrays.items()]


def _stacked(samples: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.stack([sample[name] for sample in samples]) for name in samples[0]}


def plain(agreement: Agreement | None) -> dict[str, Any] | None:
    """Return an agreement as JSON-able values."""
    if agreement is None:
        return None
    return {
        "samples": agreement.samples,
        "top1": agreement.top1,
        "relative_error": agreement.relative_error,
    }
