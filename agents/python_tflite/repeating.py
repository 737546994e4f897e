"""Whether the same inputs still give the same outputs after the timed inferences.

The outputs are checked in a process of its own with few inferences, so a delegate that goes wrong later
is found only here. Two inferences before the warm-up and one after the samples are compared.
"""

from typing import Any, List, Optional

import arrays

FLAG = "outputs_drifted"

_MAX_VALUES = 1 << 16
"""Per output, evenly spaced: the copies of a large output are not to displace the caches."""
_TOLERANCE = 1e-3
"""Of the range of an output's values: a GPU may add in another order each time."""
_SPREAD_FACTOR = 4.0
"""Times the difference of the two inferences before the warm-up."""
_SMALL_BYTES = 2
"""Integers of up to this size are quantised values, which may be rounded by one step."""

Outputs = Optional[List[Any]]


def outputs(interpreter: Any) -> Outputs:
    """Return samples of the present outputs; None if an output is no array of numbers."""
    np = arrays.numpy()
    found = []
    for entry in interpreter.get_output_details():
        try:
            flat = np.asarray(interpreter.get_tensor(entry["index"])).reshape(-1)
        except (RuntimeError, ValueError, SystemError):
            return None
        if flat.dtype.kind not in "iufb":
            return None
        found.append(flat[:: max(1, -(-flat.size // _MAX_VALUES))].copy())
    return found


def drifted(first: Outputs, second: Outputs, last: Outputs) -> bool:
    """Return whether `last` differs from `second` by more than the model's own repetitions do.

    If the first two differ too, the model keeps a state or is random, and nothing can be said.
    """
    if first is None or second is None or last is None:
        return False
    limits = [_tolerance(one) for one in first]
    spreads = [_distance(one, other) for one, other in zip(first, second)]
    if any(spread > limit for spread, limit in zip(spreads, limits)):
        return False
    return any(
        _distance(one, other) > max(limit, _SPREAD_FACTOR * spread)
        for one, other, limit, spread in zip(second, last, limits, spreads)
    )


def _tolerance(values: Any) -> float:
    np = arrays.numpy()
    real = values.astype(np.float64)
    real = real[np.isfinite(real)]
    step = 1.0 if values.dtype.kind in "iu" and values.dtype.itemsize <= _SMALL_BYTES else 0.0
    if not real.size:
        return step
    return max(step, _TOLERANCE * float(real.max() - real.min() or abs(real[0])))


def _distance(one: Any, other: Any) -> float:
    """Return the largest difference of two outputs; infinite if only one is a number."""
    np = arrays.numpy()
    if one.shape != other.shape:
        return float("inf")
    a, b = one.astype(np.float64), other.astype(np.float64)
    unlike = ~((a == b) | (np.isnan(a) & np.isnan(b)))
    if not unlike.any():
        return 0.0
    differences = np.abs(a[unlike] - b[unlike])
    return float("inf") if np.isnan(differences).any() else float(differences.max())
