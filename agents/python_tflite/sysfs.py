"""What /proc, /sys and the vendor's tools say: text files in, numbers out, None where there is none.

Every function takes the root of the file system, so that trees of plain files can stand in for it.
Formats: docs of the kernel (thermal: millidegree; cpufreq: kHz) and raspberrypi vcgencmd.
"""

import os
from typing import Any, Dict, List, Optional

_VCGENCMD = ("/usr/bin/vcgencmd", "/opt/vc/bin/vcgencmd")
_TOOL_SECONDS = 2.0
_PLAUSIBLE_MILLIDEGREES = range(1, 200_000)
"""Disabled zones read 0, -274000 or -1 on real boards."""

_CPU_ZONES = ("cpu", "soc", "x86_pkg", "bigcore", "tj")


def text(root: str, path: str) -> Optional[str]:
    """Return a small file's text, stripped of blanks and NULs; None where it cannot be read."""
    try:
        with open(os.path.join(root, path), "rb") as file:
            return file.read(65536).decode("utf-8", "replace").replace("\0", " ").strip() or None
    except OSError:
        return None


def number(root: str, path: str) -> Optional[int]:
    """Return a file's integer, or None."""
    word = text(root, path)
    try:
        return None if word is None else int(word)
    except ValueError:
        return None


def names(root: str, path: str) -> List[str]:
    """List a folder, sorted; empty where there is none."""
    try:
        return sorted(os.listdir(os.path.join(root, path)))
    except OSError:
        return []


def covariates(root: str = "/") -> Dict[str, Any]:
    """Return what a launch is accompanied by: the fields of harness.types.Covariates."""
    return {
        "temperature_c": temperature_c(root),
        "frequency_mhz": frequency_mhz(root),
        "governor": governor(root),
        "throttled": throttled(root),
        "load_1m": load_1m(root),
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
        (cpu if any(word in kind for word in _CPU_ZONES) else other).append(milli / 1000)
    return max(cpu or other, default=None)


def frequency_mhz(root: str = "/") -> Optional[float]:
    """Return the highest current frequency of a processor; a launch runs on the busiest one."""
    base = "sys/devices/system/cpu"
    found = [
        number(root, "{}/{}/cpufreq/scaling_cur_freq".format(base, cpu))
        for cpu in names(root, base)
        if cpu[:3] == "cpu" and cpu[3:].isdigit()
    ]
    return max((khz / 1000 for khz in found if khz is not None), default=None)


def governor(root: str = "/") -> Optional[str]:
    """Return the governor of processor 0."""
    return text(root, "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")


def load_1m(root: str = "/") -> Optional[float]:
    """Return the load average of the last minute."""
    words = (text(root, "proc/loadavg") or "").split()
    try:
        return float(words[0]) if words else None
    except ValueError:
        return None


def vcgencmd(root: str = "/") -> Optional[str]:
    """Return the path of the Raspberry Pi firmware's tool, or None."""
    for path in _VCGENCMD:
        full = os.path.join(root, path.lstrip("/"))
        if os.access(full, os.X_OK):
            return full
    return None


def throttled(root: str = "/") -> Optional[int]:
    """Return the bits of `vcgencmd get_throttled` (`throttled=0x50005`), or None."""
    tool = vcgencmd(root)
    if tool is None:
        return None
    # Only boards with the tool pay for the import.
    import subprocess

    try:
        reply = subprocess.run(
            [tool, "get_throttled"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TOOL_SECONDS,
            check=False,
        )
        return int(reply.stdout.decode("ascii", "replace").partition("=")[2].strip(), 16)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None


def oom_kills(root: str = "/") -> int:
    """Return how often the kernel killed for memory, by every counter this process can see."""
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
        if name == "oom_kill" and value.strip().isdigit():
            return int(value)
    return 0
