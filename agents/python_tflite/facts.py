"""The facts of this device for the answer to `hello`, except the runtimes (runtimes.py)."""

import os
import sys
from typing import Any, Dict, List, Optional

import digests
import sysfs
import unpack

_LIBRARY_FOLDERS = ("usr/lib", "usr/local/lib", "lib")
_CORAL_USB = ("1a6e", "18d1:9302")


def gather(root: str = "/") -> Dict[str, Any]:
    """Return the fields of harness.types.DeviceFacts that do not need the runtime."""
    names = os.uname()
    cpuinfo = _cpuinfo(root)
    usb = _usb(root)
    return {
        "identity": identity(root),
        "hostname": names.nodename,
        "system": names.sysname,
        "kernel": names.release,
        "machine": names.machine,
        "chip": _chip(root, cpuinfo),
        "board": sysfs.text(root, "proc/device-tree/model") or cpuinfo.get("Model"),
        "cores": os.cpu_count() or 1,
        "memory_total_bytes": _memory_total(root),
        "libc": _libc(root),
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "boot_id": sysfs.text(root, "proc/sys/kernel/random/boot_id"),
        "governor": sysfs.governor(root),
        "temperature_c": sysfs.temperature_c(root),
        "load_1m": sysfs.load_1m(root),
        "accelerators": accelerators(root, usb),
        "sensors": sensors(root),
        "extra": {
            # A 32-bit Python on a 64-bit kernel needs other wheels than `machine` suggests.
            "python_bits": 64 if sys.maxsize > 2**32 else 32,
            "usable_cores": len(os.sched_getaffinity(0)),
            "processors": sysfs.fastest_first(root),
            "throttled": sysfs.throttled(root),
            "unpacks": unpack.known(),
            "usb": usb,
        },
    }


def identity(root: str = "/") -> str:
    """Return a hash of the machine's id and hostname, the same after a reboot or a new address.

    The board's serial number is used first: cards cloned from one image share their machine id.
    """
    for path in ("proc/device-tree/serial-number", "etc/machine-id", "var/lib/dbus/machine-id"):
        value = sysfs.text(root, path)
        if value and value != "uninitialized":
            source = os.path.basename(path) + ":" + value
            break
    else:
        source = ""
    # Containers and network namespaces of one machine share its ids, but have their own hostnames.
    source += "\nhostname:" + os.uname().nodename
    digest = digests.new()
    digest.update(b"edge-harness device\n" + source.encode())
    return str(digest.hexdigest()[:32])


def accelerators(root: str, usb: List[str]) -> List[str]:
    """Return the visible parts of an Edge TPU (`edgetpu-library`, `-pcie`, `-usb`) and of a GPU.

    For a GPU these are `vulkan-library`, the loader, and `gpu`, a device node for computing.

    1a6e:089a is the USB accelerator before its firmware is loaded, 18d1:9302 after.
    """
    found = []
    if _library(root, "libedgetpu.so.1"):
        found.append("edgetpu-library")
    if os.path.exists(os.path.join(root, "dev/apex_0")):
        found.append("edgetpu-pcie")
    if any(device.startswith(_CORAL_USB) for device in usb):
        found.append("edgetpu-usb")
    if _library(root, "libvulkan.so.1"):
        found.append("vulkan-library")
    nodes = sysfs.names(root, "dev/dri") + sysfs.names(root, "dev")
    if any(name.startswith(("renderD", "nvidia0")) for name in nodes):
        found.append("gpu")
    return found


def sensors(root: str) -> List[str]:
    """Return the names of the available sources of covariates and power."""
    found = []
    if sysfs.temperature_c(root) is not None:
        found.append("thermal_zone")
    if sysfs.frequency_mhz(root) is not None:
        found.append("cpufreq")
    found.extend(tool for tool in ("vcgencmd", "tegrastats") if sysfs.tool(root, tool))
    base = "sys/class/hwmon"
    chips = {sysfs.text(root, "{}/{}/name".format(base, one)) for one in sysfs.names(root, base)}
    found.extend("hwmon:" + chip for chip in sorted(chip for chip in chips if chip))
    if any(name.startswith("intel-rapl") for name in sysfs.names(root, "sys/class/powercap")):
        found.append("powercap")
    return found


def _cpuinfo(root: str) -> Dict[str, str]:
    found: Dict[str, str] = {}
    for line in (sysfs.text(root, "proc/cpuinfo") or "").splitlines():
        key, colon, value = line.partition(":")
        if colon and value.strip():
            found.setdefault(key.strip(), value.strip())
    return found


def _chip(root: str, cpuinfo: Dict[str, str]) -> Optional[str]:
    """Return the chip: the last `compatible` of the device tree (brcm,bcm2712), else cpuinfo's."""
    compatible = (sysfs.text(root, "proc/device-tree/compatible") or "").split()
    if compatible:
        return compatible[-1]
    named = cpuinfo.get("Hardware") or cpuinfo.get("model name")
    if named or "CPU part" not in cpuinfo:
        return named
    return "{}/{}".format(cpuinfo.get("CPU implementer", "?"), cpuinfo["CPU part"])


def _memory_total(root: str) -> Optional[int]:
    for line in (sysfs.text(root, "proc/meminfo") or "").splitlines():
        key, _, rest = line.partition(":")
        kilobytes = sysfs.whole(rest.partition("kB")[0])
        if key == "MemTotal" and kilobytes is not None:
            return kilobytes * 1024
    return None


def _libc(root: str) -> Optional[str]:
    try:
        version = os.confstr("CS_GNU_LIBC_VERSION")
    except (ValueError, OSError):
        version = None
    if version:
        return version
    musl = [name for name in sysfs.names(root, "lib") if name.startswith("ld-musl-")]
    return "musl" if musl else None


def _library(root: str, soname: str) -> bool:
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(":")
    for base in _LIBRARY_FOLDERS:
        full = os.path.join(root, base)
        folders.append(full)
        # Debian's multiarch folders: lib/aarch64-linux-gnu and the like.
        folders.extend(
            os.path.join(full, name) for name in sysfs.names(root, base) if "-linux-" in name
        )
    return any(os.path.exists(os.path.join(folder, soname)) for folder in folders if folder)


def _usb(root: str) -> List[str]:
    base = "sys/bus/usb/devices"
    found = set()
    for device in sysfs.names(root, base):
        vendor = sysfs.text(root, "{}/{}/idVendor".format(base, device))
        product = sysfs.text(root, "{}/{}/idProduct".format(base, device))
        if vendor and product:
            found.add(vendor + ":" + product)
    return sorted(found)
