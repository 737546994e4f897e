"""The metric mse: `metric = "mse"` in the plan's [data]."""

from __future__ import annotations

import numpy as np

from harness.metrics.differences import Array, MeanError


class Mse(MeanError):
    """Mean square of output minus label."""

    name = "mse"
    summary = "mean square of output minus y, an array like the output"

    def measure(self, difference: Array) -> Array:
        """Square each difference."""
        return np.square(difference)
