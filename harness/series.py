"""Every measured series: its unit, how it prints, which way is better."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One measured quantity, stored in its base unit and printed in its display unit."""

    name: str
    unit: str
    """Base unit as stored."""
    shown_unit: str
    scale: float
    """Stored value times `scale` is the shown value."""
    decimals: int
    better: Literal["lower", "higher"]
    title: str

    def show(self, value: float | None) -> str:
        """Print a stored value in the display unit; a dash where there is none."""
        return "-" if value is None else f"{value * self.scale:,.{self.decimals}f}"


ALL: dict[str, Series] = {
    series.name: series
    for series in (
        Series(
            name="latency",
            unit="ns",
            shown_unit="ms",
            scale=1e-6,
            decimals=3,
            better="lower",
            title="Latency of one inference",
        ),
        Series(
            name="load",
            unit="ns",
            shown_unit="ms",
            scale=1e-6,
            decimals=2,
            better="lower",
            title="Load time of the model (cold)",
        ),
        Series(
            name="first",
            unit="ns",
            shown_unit="ms",
            scale=1e-6,
            decimals=3,
            better="lower",
            title="First inference (cold)",
        ),
        Series(
            name="peak_rss",
            unit="B",
            shown_unit="MB",
            scale=1e-6,
            decimals=1,
            better="lower",
            title="Peak resident memory of the process (VmHWM)",
        ),
        Series(
            name="pss",
            unit="B",
            shown_unit="MB",
            scale=1e-6,
            decimals=1,
            better="lower",
            title="Proportional set size",
        ),
        Series(
            name="private_dirty",
            unit="B",
            shown_unit="MB",
            scale=1e-6,
            decimals=1,
            better="lower",
            title="Private dirty memory",
        ),
        Series(
            name="pilot",
            unit="ns",
            shown_unit="ms",
            scale=1e-6,
            decimals=3,
            better="lower",
            title="Inferences of a memory launch: they only choose the inner loop",
        ),
        Series(
            name="service",
            unit="ns",
            shown_unit="ms",
            scale=1e-6,
            decimals=3,
            better="lower",
            title="One inference of a stream, from its actual start",
        ),
        Series(
            name="set_input",
            unit="ns",
            shown_unit="ms",
            scale=1e-6,
            decimals=4,
            better="lower",
            title="Copying the inputs in, timed apart",
        ),
    )
}
