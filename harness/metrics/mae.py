"""The metric mae: `metric = "mae"` in the plan's [data]."""

from __future__ import annotations

import numpy as np

from harness.metrics.differences import Array, MeanError


class Mae(MeanError):
    """Mean absolute difference of output and label."""

    name = "mae"
    summary = "mean absolute difference of output and y, an array like the output"

    def measure(self, difference: Array) -> Array:
        """Take each difference without its sign."""
        return np.abs(difference)
