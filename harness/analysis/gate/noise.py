"""What a device's selftest says about the contests of a gate; stored with the gate.

A gate is judged again from this, never from the selftests that lie on the host by then.
"""

from __future__ import annotations

from dataclasses import dataclass

NOISY_HALF_WIDTH = 0.03
"""On the log scale: 3 %. A device with a wider interval at 20 pairs is too noisy to gate."""

FAR_OUTSIDE = 2.0
"""A difference whose whole interval is farther from "the same" than twice the device's half-width is
far outside its noise, so a noisy device does not prevent its verdict."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNoise:
    """The selftest that a gate found for a contest: its figures, and whether it applies.

    The fields are those of the selftest (:class:`harness.analysis.gate.selftests.Selftest`). Gates from
    before it was stored have only the half-width.
    """

    half_width: float
    """Half-width of the 95 % interval at 20 pairs, on the log scale."""
    threshold: float = NOISY_HALF_WIDTH
    """The largest half-width of a device that is fit to gate."""
    run: str | None = None
    """The stored run of the selftest."""
    created: str | None = None
    """UTC, ISO 8601."""
    model: str | None = None
    digest: str | None = None
    threads: int | None = None
    runtime: str | None = None
    load: float | None = None
    p50_ns: float | None = None
    pairs: int | None = None
    spread: float | None = None
    smallest_effect: float | None = None
    false_alarms: float | None = None
    """The share of its simulated gates of A against A that failed the build."""
    unfit: str | None = None
    """Why it does not apply to the contest; it then decides nothing."""

    @property
    def is_too_noisy(self) -> bool:
        """Whether it applies and the device is too noisy to gate."""
        return self.unfit is None and self.half_width > self.threshold
