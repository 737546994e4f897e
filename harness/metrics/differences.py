"""What the metrics of arrays share: the mean over samples of what each sample is off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness import stats
from harness.errors import ConfigError
from harness.metrics.arrays import label_of, one_output
from harness.protocols import Score
from harness.types import Direction

Array = np.ndarray[Any, Any]


class MeanError:
    """The mean of a measure of the difference between output and label; 0 is exact."""

    name: str
    direction: Direction = "lower"

    def __init__(self) -> None:
        """Start with no samples."""
        self._samples = 0
        self._sum = 0.0
        self._squares = 0.0
        """Sum of squared deviations from the mean so far."""

    def measure(self, difference: Array) -> Array:
        """Return the error of each number."""
        raise NotImplementedError

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add a batch; means and deviations are merged as Chan, Golub & LeVeque (1983) do."""
        output, label = one_output(self.name, outputs), label_of(labels)
        if label[0].size != output.shape[1] or not np.issubdtype(label.dtype, np.number):
            raise ConfigError(
                f'"y" has {label[0].size} numbers a sample; the model gives {output.shape[1]}'
            )
        wanted = label.reshape(len(label), -1).astype(np.float64)
        errors = self.measure(output.astype(np.float64) - wanted).mean(axis=1)
        count, mean = len(errors), float(errors.mean())
        if self._samples:
            apart = mean - self._sum / self._samples
            total = self._samples + count
            self._squares += apart * apart * self._samples * count / total
        self._squares += float(np.square(errors - mean).sum())
        self._sum += float(errors.sum())
        self._samples += count

    def result(self) -> Score:
        """Return the mean with its t interval; an error is never below 0."""
        mean = self._sum / self._samples
        interval = stats.mean_interval(self._samples, mean, self._squares)
        return Score(
            value=mean,
            samples=self._samples,
            low=max(0.0, interval.low) if interval else None,
            high=interval.high if interval else None,
        )
