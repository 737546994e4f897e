"""What the metrics of classes share: the share of samples whose class is among the K best scores."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from harness import stats
from harness.errors import ConfigError
from harness.metrics.arrays import label_of, one_output
from harness.protocols import Score
from harness.types import Direction

Array = np.ndarray[Any, Any]


class TopK:
    """Share of samples whose class is among the K highest scores; of equal ones the first counts."""

    k: ClassVar[int]
    name: str
    direction: Direction = "higher"

    def __init__(self) -> None:
        """Start with no samples."""
        self._hits = 0
        self._samples = 0

    def update(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> None:
        """Add a batch."""
        found = self.right(outputs, labels)
        self._hits += int(found.sum())
        self._samples += len(found)

    def right(self, outputs: Mapping[str, Array], labels: Mapping[str, Array]) -> Array:
        """Say of each sample whether its class is among the K highest scores."""
        scores = one_output(self.name, outputs)
        classes = as_classes(label_of(labels), scores.shape[1])
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.k]
        return np.asarray((best == classes[:, None]).any(axis=1))

    def result(self) -> Score:
        """Return the share with its Wilson interval."""
        interval = stats.share_interval(self._hits, self._samples)
        return Score(
            value=interval.estimate,
            samples=self._samples,
            low=interval.low,
            high=interval.high,
        )


def as_classes(label: Array, count: int) -> Array:
    """Return the classes of a batch; raises ConfigError unless they are integers below `count`."""
    if label[0].size != 1 or not np.issubdtype(label.dtype, np.integer):
        raise ConfigError(
            f'"y" is {label.dtype} of shape {label.shape[1:]} a sample; top1 and '
            'top5 need integer classes (metric = "mse" or "mae" compares arrays)'
        )
    classes = label.reshape(-1)
    outside = classes[(classes < 0) | (classes >= count)]
    if len(outside):
        raise ConfigError(f'"y" holds the class {outside[0]}; the model has {count}')
    return classes
