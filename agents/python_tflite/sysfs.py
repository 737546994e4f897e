"""Read numbers from /proc, /sys and the vendor's tools; None if a source is missing.

Every function takes the root of the file system, so that tests can use a tree of plain files.
Formats: the kernel's documentation (thermal: millidegree; cpufreq: kHz) and raspberrypi vcgencmd.
"""

import os
import re
import sys
from typing import Any, Dict, List, Optional

_RAILS = re.compile(r"(\w+) (\d{1,9})(?:mW)?/\d+(?:mW)?(?!\S)")
_PLAUSIBLE_MILLIDEGREES = range(1, 200_000)
"""Disabled zones read 0, -274000 or -1 on real boards."""

_CPU = "sys/devices/system/cpu/cpu{}/cpufreq/"
_SLOWING = ("cpufreq", "cpuidle", "processor", "powerclamp")
"""Parts of the types of cooling devices that slow processors down."""

_CPU_ZONES = ("cpu", "soc", "x86_pkg", "bigcore", "tj")


def text(root: str, path: str) -> Optional[str]:
    """Return a small file's text without blanks and NULs at its ends; None if it cannot be read."""
    try:
        with open(os.path.join(root, path), "rb") as file:
            return file.read(65536).decode("utf-8", "replace").replace("\0", " ").strip() or None
    except OSError:
        return None


def number(root: str, path: str) -> Optional[int]:
    """Return a file's integer, or None."""
    return whole(text(root, path) or "")


def whole(digits: str) -> Optional[int]:
    """Return a text's integer; None if it is not one, or too large to be a reading."""
    try:
        value = int(digits)
    except ValueError:
        return None
    return value if abs(value) < 1 << 53 else None


def names(root: str, path: str) -> List[str]:
    """List a folder, sorted; empty if it does not exist."""
    try:
        return sorted(os.listdir(os.path.join(root, path)))
    except OSError:
        return []


def covariates(root: str = "/") -> Dict[str, Any]:
    """Return the covariates of a launch: the fields of harness.types.Covariates."""
    return {
        "temperature_c": temperature_c(root),
        "frequency_mhz": frequency_mhz(root),
        "governor": governor(root),
        "throttled": throttled(root),
        "max_mhz": max_mhz(root),
        "cooling": cooling(root),
        "load_1m": load_1m(root),
        "power_mw": power_mw(root),
        "seconds_at_mhz": states(
            text(root, _CPU.format(fastest_first(root)[0]) + "stats/time_in_state") or ""
        ),
    }


def temperature_c(root: str = "/") -> Optional[float]:
    """Return the processor's temperature: the hottest zone named after it, else the hottest."""
    cpu: List[float] = []
    other: List[float] = []
    base = "sys/class/thermal"
    for zone in names(root, base):
        milli = number(root, "{}/{}/temp".format(base, zone))
        if not zone.startswith("thermal_zone") or milli is None:
            continue
        if milli not in _PLAUSIBLE_MILLIDEGREES:
            continue
        kind = (text(root, "{}/{}/type".format(base, zone)) or "").lower()
        (cpu if any(name in kind for name in _CPU_ZONES) else other).append(milli / 1000)
    return max(cpu or other, default=None)


def frequency_mhz(root: str = "/") -> Optional[float]:
    """Return the highest current frequency of a processor; a launch runs on the busiest one."""
    base = "sys/devices/system/cpu"
    found = [
        number(root, _CPU.format(cpu[3:]) + "scaling_cur_freq")
        for cpu in names(root, base)
        if cpu[:3] == "cpu"
    ]
    return max((khz / 1000 for khz in found if khz is not None), default=None)


def max_mhz(root: str = "/") -> Optional[float]:
    """Return the frequency limit of the fastest processor, which thermal protection lowers."""
    khz = number(root, _CPU.format(fastest_first(root)[0]) + "scaling_max_freq")
    return None if khz is None else khz / 1000


def cooling(root: str = "/") -> Optional[int]:
    """Return the highest state of the cooling devices that slow processors down; fans are none."""
    base = "sys/class/thermal"
    found = []
    for device in names(root, base):
        kind = (text(root, "{}/{}/type".format(base, device)) or "").lower()
        state = number(root, "{}/{}/cur_state".format(base, device))
        if device.startswith("cooling_device") and state is not None:
            # powerclamp reads -1 while it is off.
            found += [max(0, state)] if any(name in kind for name in _SLOWING) else []
    return max(found, default=None)


def governor(root: str = "/") -> Optional[str]:
    """Return the governor of processor 0."""
    return text(root, _CPU.format(0) + "scaling_governor")


def load_1m(root: str = "/") -> Optional[float]:
    """Return the load average of the last minute."""
    fields = (text(root, "proc/loadavg") or "").split()
    try:
        load = float(fields[0]) if fields else -1.0
    except ValueError:
        return None
    # JSON has no NaN and no infinity; every comparison with NaN is false.
    return load if 0 <= load < sys.maxsize else None


def fastest_first(root: str = "/") -> List[int]:
    """Order the usable processors by falling maximum frequency, then number: 0 serves interrupts."""
    usable = os.sched_getaffinity(0)
    speeds = {cpu: number(root, _CPU.format(cpu) + "cpuinfo_max_freq") or 0 for cpu in usable}
    return sorted(usable, key=lambda cpu: (-speeds[cpu], -cpu))


def states(lines: str) -> Optional[Dict[str, float]]:
    """Read cpufreq's `KHZ TICKS` lines, 10 ms per tick: seconds since boot by MHz, or None."""
    found = {}
    for line in lines.splitlines():
        khz, _, ticks = line.partition(" ")
        speed, count = whole(khz), whole(ticks)
        if speed is not None and count is not None:
            found[str(speed // 1000)] = count / 100
    return found or None


def throttled(root: str = "/") -> Optional[int]:
    """Return the bits of `vcgencmd get_throttled`, or None."""
    return throttle_bits(_output_of(root, "vcgencmd", 2.0, "get_throttled"))


def throttle_bits(output: str) -> Optional[int]:
    """Read `throttled=0x50005`."""
    try:
        bits = int(output.partition("=")[2], 16)
    except ValueError:
        return None
    return bits if 0 <= bits < 1 << 32 else None


def power_mw(root: str = "/") -> Optional[int]:
    """Return the board's power by its own sensors, mW, or None."""
    # tegrastats never ends; its output of this time is enough.
    return rails_mw(_output_of(root, "tegrastats", 0.3, "--interval", "100"))


def rails_mw(output: str) -> Optional[int]:
    """Read tegrastats' first line (`VDD_IN 4900mW/5000mW`): the input rail, else the sum of all."""
    rails = {name: int(now) for name, now in _RAILS.findall(output[:4096].partition("\n")[0])}
    return rails.get("VDD_IN") or rails.get("POM_5V_IN") or sum(rails.values()) or None


def tool(root: str, name: str) -> Optional[str]:
    """Return the path of a vendor's tool, or None."""
    found = (os.path.join(root, folder, name) for folder in ("usr/bin", "opt/vc/bin"))
    return next((path for path in found if os.access(path, os.X_OK)), None)


def _output_of(root: str, name: str, seconds: float, *arguments: str) -> str:
    """Return the output of a tool until it ends or this time is over."""
    path = tool(root, name)
    if path is None:
        return ""
    # Imported only on boards with the tool.
    from subprocess import DEVNULL, PIPE, TimeoutExpired, run

    argv = [path, *arguments]
    try:
        output = run(
            argv, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, timeout=seconds, check=False
        ).stdout
    except TimeoutExpired as late:
        output = late.output or b""
    except OSError:
        return ""
    return str(output, "ascii", "replace")


def oom_kills(root: str = "/") -> int:
    """Return the number of out-of-memory kills, from every counter this process can read."""
    total = _counter(text(root, "proc/vmstat"))
    for line in (text(root, "proc/self/cgroup") or "").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        folder = path.lstrip("/")
        if not controllers:
            total += _counter(text(root, os.path.join("sys/fs/cgroup", folder, "memory.events")))
        elif "memory" in controllers.split(","):
            base = os.path.join("sys/fs/cgroup/memory", folder, "memory.oom_control")
            total += _counter(text(root, base))
    return total


def _counter(lines: Optional[str]) -> int:
    for line in (lines or "").splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return whole(value) or 0
    return 0
