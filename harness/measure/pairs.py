"""The pairs of a gate: which blocks count, and when there are enough of them.

The gate applies these rules after each block; gate/verdicts.py judges the pairs at the end. Pure
functions that measure nothing. The reasons are in docs/gate-statistics.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.devices import throttling
from harness.stats import paired
from harness.types import Covariates

FIRST_PAIRS = 6
MAX_PAIRS = 20
WANTED_HALF_WIDTH = 0.015
"""On the log scale: 1.5 %."""

CONFIRM_PAIRS = 10
"""At least this many fresh pairs confirm a regression."""

CLEAR = 5.0
"""A difference of this many half-widths is clear: more pairs would not change its verdict."""

MAX_DISCARDED = 0.2
"""With a larger share of dropped blocks, the device was not fit to be measured."""

MAX_RISE_CELSIUS = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """The quantiles of A's and B's launch in one block, in the same unit; lower is better."""

    block: int
    a: float
    b: float
    discarded: str | None = None
    """Why the block does not count (:func:`discard_reason`); never because of its values."""


def discard_reason(
    block: Sequence[tuple[Covariates, Covariates]],
    *,
    reference: Covariates | None = None,
    pinned_mhz: float | None = None,
) -> str | None:
    """Return why a whole block must be dropped, or None; uses only covariates, never values.

    `block` has the (before, after) covariates of its launches in the order they ran. `reference`
    has the covariates at the start of the gate (with a soak, at the constant temperature); the
    default is the block's first reading. A block is dropped for: a current throttle or
    under-voltage bit that the reference does not have, or a since-boot bit that was set inside the
    block; a launch whose median frequency is under 98 % of `pinned_mhz`; a processor that the kernel
    slowed to cool it, if it was not so at the start; Android thermal status of 1 or more; a rise of
    more than 10 degC inside the block. A covariate that the device does not report drops no block.
    """
    readings = [reading for launch in block for reading in launch]
    new = throttling.new_bits(readings, reference.throttled if reference else None)
    if new:
        return f"throttled or under voltage (new bits {new:#x})"
    status = throttling.thermal_status(*readings)
    if status:
        return f"thermal status {status}"
    for launch in block:
        speed = throttling.median_mhz(*launch)
        if speed is not None and throttling.is_below_pinned(*launch, pinned_mhz):
            return f"frequency {speed:.0f} of {pinned_mhz:.0f} MHz pinned"
        if throttling.is_cooled_down(*launch) and not (reference and reference.cooling):
            return "the kernel slowed the processor to cool it"
    celsius = [one.temperature_c for one in readings if one.temperature_c is not None]
    if celsius and max(celsius) - celsius[0] > MAX_RISE_CELSIUS:
        return f"{max(celsius) - celsius[0]:.0f} degC warmer inside the block"
    return None


def needs_more(
    pairs: Sequence[Pair],
    *,
    max_pairs: int = MAX_PAIRS,
    half_width: float = WANTED_HALF_WIDTH,
    margin: float = 0.05,
) -> bool:
    """Whether to measure another pair; call it after each block.

    True up to 6 pairs, then for 2 more at a time (a block and its mirror) until the half-width of
    the 95 % interval is at most `half_width` and at most 20 % of the blocks were dropped, or until
    `max_pairs` blocks were measured, dropped ones included. The decision uses the width, and the
    difference only if that is clear: its interval is beyond `margin`, and it is at least CLEAR
    half-widths from "the same". By chance that happens in under 1 of 10,000 gates of equal files
    (docs/gate-statistics.md). It stops early also if no verdict is possible any more: more blocks were
    dropped than 20 % of `max_pairs`, or a value is not a number.
    """
    if len(pairs) >= max_pairs:
        return False
    used = [pair for pair in pairs if pair.discarded is None]
    dropped = len(pairs) - len(used)
    if dropped > MAX_DISCARDED * max_pairs:
        return False
    try:
        differences = log_differences(used)
    except ValueError:
        return False
    if len(used) < FIRST_PAIRS or len(pairs) % 2 or dropped > MAX_DISCARDED * len(pairs):
        return True
    width = paired.half_width(differences)
    return width > half_width and not _is_clear(abs(paired.mean(differences)), width, margin)


def _is_clear(effect: float, width: float, margin: float) -> bool:
    return effect >= CLEAR * width and effect - width > math.log1p(margin)


def pairs_to_confirm(pairs: int) -> int:
    """Return how many fresh pairs confirm a regression of so many: as many, at least 10, even."""
    count = max(CONFIRM_PAIRS, pairs)
    return count + count % 2


def log_differences(pairs: Sequence[Pair]) -> list[float]:
    """Return ln(b / a) of each pair; raises ValueError naming a value without a logarithm."""
    return paired.log_ratios([pair.a for pair in pairs], [pair.b for pair in pairs])
