"""What metrics read of a batch: the one output, the one label."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.errors import ConfigError

Array = np.ndarray[Any, Any]


def one_output(metric: str, outputs: Mapping[str, Array]) -> Array:
    """Return the only output, a row per sample; raises ConfigError where there are several."""
    if len(outputs) != 1:
        raise ConfigError(
            f"{metric} needs a model with one output; this one has {len(outputs)}: leave the key "
            "evaluation out, or give a metric that takes several"
        )
    (output,) = outputs.values()
    return output.reshape(len(output), -1)


def label_of(labels: Mapping[str, Array]) -> Array:
    """Return the labels under "y"; raises ConfigError where there are only others."""
    if "y" not in labels:
        raise ConfigError(
            f'the key "y" is missing (there are: {", ".join(f"y.{name}" for name in labels)})'
        )
    return labels["y"]
