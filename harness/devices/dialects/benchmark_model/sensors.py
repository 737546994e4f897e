"""Turn what the scripts read from sensors into covariates and series of samples.

Formats: /proc/PID/status (kB), thermal zones (millidegrees), cpufreq (kHz), power_supply (uA, uV),
ODPM rails (`CH3(T=349894)[S2M_VDD_CPUCL2], 30203502`, uWs; drivers/iio/power/odpm.c).
"""

from __future__ import annotations

import re
from array import array
from collections import defaultdict

from harness.devices import android
from harness.devices.dialects.benchmark_model import scripts
from harness.devices.dialects.benchmark_model.scripts import ScriptOutput
from harness.types import Covariates, Samples

_SECONDS = re.compile(r"\d{1,9}(?:\.\d{1,9})?")
_RAIL = re.compile(r"^CH(\d{1,3})\(T=\d{1,18}\)\[([A-Za-z0-9_]{1,60})\], (\d{1,18})$")
_NUMBER = re.compile(r"-?\d{1,15}")
_TIMES = re.compile(r"(\d{1,6})m\s*([0-9.]{1,12})s")
_MAX_LINES = 200_000
_MILLIDEGREES = range(1, 200_000)
_NS_PER_S = 1_000_000_000
_PLAIN = {
    "rss": ("rss", 1024.0),
    "current_now": ("battery_current_ua", 1.0),
    "voltage_now": ("battery_voltage_uv", 1.0),
}
"""Our series of a line's key, and its unit in the line."""


def seconds(text: str | None) -> float | None:
    """Read the first number of /proc/uptime; None if it is not one."""
    word = (text or "").split()
    return float(word[0]) if word and _SECONDS.fullmatch(word[0]) else None


def process_times(output: ScriptOutput) -> tuple[float, float]:
    """Return the uptime at the start and the end of the process, s."""
    words = (output.text("process") or "").split()
    times = [seconds(word) for word in words[:2]]
    start, end = times if len(times) == 2 else (None, None)  # noqa: PLR2004 - start and end
    return (start, end) if start is not None and end is not None and end >= start else (0.0, 0.0)


def covariates(found: ScriptOutput, when: str) -> Covariates:
    """Return the state of the device `before` or `after` the launch."""
    values = found.values
    zones = [one / 1000 for one in scripts.integers(values, f"{when}.zone") if one in _MILLIDEGREES]
    khz = [one for one in scripts.integers(values, f"{when}.mhz") if one > 0]
    thermal = android.thermal(_text(found, f"{when}.thermal"))
    battery = android.battery(_text(found, f"{when}.battery"))
    load = seconds(found.text(f"{when}.load"))
    temperature = thermal.processor_celsius
    governors = values.get(f"{when}.governor", [])
    return Covariates(
        temperature_c=temperature if temperature is not None else max(zones, default=None),
        frequency_mhz=max(khz) / 1000 if khz else None,
        # One cluster at another governor makes the device uncontrolled.
        governor=next((one for one in governors if one != "performance"), None)
        or (governors[0] if governors else None),
        thermal_status=thermal.status,
        load_1m=load,
        battery_percent=battery.percent,
        battery_c=battery.celsius,
        charging=battery.charging,
        screen_on=android.is_awake(_text(found, f"{when}.power")),
    )


def _text(found: ScriptOutput, name: str) -> str:
    return (found.file(name) or b"").decode("utf-8", "replace")


MODERATE, LOW_PERCENT = 2, 20
"""From the thermal status `moderate` on, Android limits the clock; many phones do below 20 % charge."""


def flags(before: Covariates) -> tuple[str, ...]:
    """Return the flags of a launch that started under these conditions."""
    found = {
        "thermal_throttling": (before.thermal_status or 0) >= MODERATE,
        "low_battery": before.battery_percent is not None and before.battery_percent < LOW_PERCENT,
        "charging": before.charging is True,
        "screen_off": before.screen_on is False,
    }
    return tuple(name for name, is_so in found.items() if is_so)


def series(data: bytes) -> tuple[tuple[Samples, ...], float | None]:
    """Read the sampler's file; return the series, and the peak memory of the process in bytes.

    Lines that are not understood are left out. The sampler's own processor time is the series
    `sampler_cpu_ns`, with one value per launch.
    """
    times: dict[str, array[int]] = defaultdict(lambda: array("q"))
    values: dict[str, array[float]] = defaultdict(lambda: array("d"))
    peak: float | None = None
    last_ns = 0
    lines = data.decode("ascii", "replace").splitlines()[:_MAX_LINES]
    for line in lines:
        at, _, rest = line.partition(" ")
        if not _SECONDS.fullmatch(at):
            continue
        last_ns = round(float(at) * _NS_PER_S)
        words = rest.split()
        if len(words) > 1 and words[0] == "hwm" and _NUMBER.fullmatch(words[1]):
            peak = max(peak or 0.0, int(words[1]) * 1024.0)
            continue
        named = _reading(words)
        if named is not None:
            name, value = named
            times[name].append(last_ns)
            values[name].append(value)
    cost = _cost_ns(lines)
    if cost is not None:
        times["sampler_cpu_ns"].append(last_ns)
        values["sampler_cpu_ns"].append(cost)
    made = tuple(
        Samples(
            series=name,
            at_ns=times[name],
            value=values[name],
            count=array("q", [1]) * len(values[name]),
        )
        for name in sorted(values)
    )
    return made, peak


def _reading(words: list[str]) -> tuple[str, float] | None:
    """Return the series and the value of one line; None if it is not understood."""
    if len(words) < 2:  # noqa: PLR2004 - a key and a value
        return None
    key = words[0]
    if key == "rail":
        match = _RAIL.match(" ".join(words[1:]))
        return (f"rail_{match[2].lower()}_uws", float(match[3])) if match else None
    if not _NUMBER.fullmatch(words[1]):
        return None
    value = int(words[1])
    if key in _PLAIN:
        name, unit = _PLAIN[key]
        return name, value * unit
    index = words[2] if len(words) > 2 and words[2].isdecimal() and len(words[2]) < 4 else None  # noqa: PLR2004
    if key == "mhz" and index is not None and value > 0:
        return f"cpu{int(index)}_mhz", value / 1000
    if key == "zone" and index is not None and value in _MILLIDEGREES:
        return f"zone{int(index)}_c", value / 1000
    return None


def _cost_ns(lines: list[str]) -> float | None:
    """Read the shell's `times`: its own user and system time, then those of its children."""
    try:
        start = next(i for i, line in enumerate(lines) if line.startswith("cost "))
    except StopIteration:
        return None
    found = _TIMES.findall(" ".join(lines[start + 1 : start + 3]))
    if len(found) != 4:  # noqa: PLR2004 - user and system, of the shell and of its children
        return None
    try:
        return sum((60 * int(minutes) + float(secs)) * 1e9 for minutes, secs in found)
    except ValueError:
        return None
