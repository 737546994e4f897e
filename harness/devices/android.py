"""Read what Android's services print: thermal state, battery, screen.

Formats: AOSP ThermalManagerService.dump and BatteryService.dump. A value that is not there, or that
a phone reports for a sensor that it does not have, is None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_STATUS = re.compile(r"^\s*Thermal Status: (\d)\s*$", re.MULTILINE)
_HAL = "Current temperatures from HAL:"
_TEMPERATURE = re.compile(
    r"^\s*Temperature\{mValue=(-?\d{1,4}(?:\.\d{1,9})?), mType=(-?\d{1,3}), mName=([^,\n]{0,60}), "
    r"mStatus=\d\}\s*$"
)
_FIELD = re.compile(r"^\s*([A-Za-z ]{2,40}): (.{0,60})$", re.MULTILINE)
_AWAKE = re.compile(r"mWakefulness=(\w+)")
CPU, GPU, BATTERY, SKIN, NPU = 0, 1, 2, 3, 9
"""Types of AOSP's android.hardware.thermal.TemperatureType; names differ between vendors."""

_ABSENT_BELOW, _ABSENT_ABOVE = -40.0, 150.0
"""Vendors report values such as -99.9 for a sensor that is not there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThermalState:
    """The answer of `dumpsys thermalservice`."""

    status: int | None
    """0 none, 1 light, ... 6 shutdown."""
    celsius: dict[int, float]
    """The hottest sensor of each type, by type; only those of the block read from the HAL."""

    @property
    def processor_celsius(self) -> float | None:
        """The temperature of the processor; of the skin if the phone does not report it."""
        return next((self.celsius[one] for one in (CPU, SKIN) if one in self.celsius), None)


def thermal(text: str) -> ThermalState:
    """Read `dumpsys thermalservice`; cached temperatures are stale and are not read."""
    status = _STATUS.search(text)
    _, found, after = text.partition(_HAL)
    celsius: dict[int, float] = {}
    for line in after.splitlines()[1:] if found else ():
        match = _TEMPERATURE.match(line[:200])
        if match is None:
            break
        value, kind = float(match[1]), int(match[2])
        # Exactly 0 is a sensor without a reading, too.
        if _ABSENT_BELOW < value < _ABSENT_ABOVE and value != 0.0:
            celsius[kind] = max(value, celsius.get(kind, value))
    return ThermalState(status=int(status[1]) if status else None, celsius=celsius)


@dataclass(frozen=True, slots=True, kw_only=True)
class BatteryState:
    """The answer of `dumpsys battery`."""

    percent: int | None = None
    celsius: float | None = None
    charging: bool | None = None
    """Whether the phone has external power."""


def battery(text: str) -> BatteryState:
    """Read `dumpsys battery`: temperature in tenths of a degree, power by source."""
    fields = {name.strip().lower(): value.strip() for name, value in _FIELD.findall(text[:20_000])}
    level, scale = _integer(fields.get("level")), _integer(fields.get("scale")) or 100
    tenths = _integer(fields.get("temperature"))
    powered = [value for name, value in fields.items() if name.endswith(" powered")]
    percent = round(100 * level / scale) if level is not None and 0 <= level <= scale else None
    plausible = tenths is not None and _ABSENT_BELOW < tenths / 10 < _ABSENT_ABOVE and tenths != 0
    return BatteryState(
        percent=percent,
        celsius=tenths / 10 if tenths is not None and plausible else None,
        charging=any(value == "true" for value in powered) if powered else None,
    )


def is_awake(text: str) -> bool | None:
    """Return whether the screen is on, from `dumpsys power`; None if it is not reported."""
    found = _AWAKE.search(text)
    return found[1] == "Awake" if found else None


def _integer(text: str | None) -> int | None:
    return int(text) if text and re.fullmatch(r"-?\d{1,9}", text) else None
