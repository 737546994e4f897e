"""List a device's installed Vulkan drivers and whether their libraries load.

The Vulkan loader reads manifests (`*.json`, `ICD.library_path`) from fixed folders, or those that
VK_DRIVER_FILES names. It silently ignores a driver whose library does not load. So a container with
a GPU but without its graphics libraries looks exactly like a machine without a driver.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass

from harness.devices.dialects.python_agent.options import AgentOptions
from harness.protocols import Commands
from harness.types import Device

_SECONDS = 30.0
_MARK = b"edge-harness-vulkan "
_MAX_DRIVERS, _MAX_TEXT = 16, 400

_SCRIPT = r"""
import ctypes, glob, json, os
named = os.environ.get("VK_DRIVER_FILES") or os.environ.get("VK_ICD_FILENAMES")
folders = ["/usr/local/etc", "/etc", "/usr/local/share", "/usr/share"]
folders += [os.path.expanduser(one) for one in ("~/.config", "~/.local/share")]
found = []
for folder in folders:
    found += sorted(glob.glob(folder + "/vulkan/icd.d/*.json"))
for path in (named.split(":") if named else found)[:16]:
    library = ""
    try:
        with open(path) as file:
            library = str(json.load(file)["ICD"]["library_path"])
        if "/" in library:
            library = os.path.normpath(os.path.join(os.path.dirname(path), library))
        ctypes.CDLL(library)
        why = ""
    except Exception as error:
        why = str(error) or type(error).__name__
    print("edge-harness-vulkan " + json.dumps([path, library, why]), flush=True)
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class VulkanDriver:
    """An installed Vulkan driver."""

    manifest: str
    library: str
    """Empty if the manifest names none."""
    fault: str
    """The error of loading its manifest or library; empty if both load."""

    @property
    def lacks(self) -> str:
        """The library that is missing: its own, or one that it needs; empty if that is not the fault."""
        found = re.match(r"(\S+\.so[.\d]*): cannot open shared object file", self.fault)
        return found.group(1) if found else ""

    @property
    def is_absent(self) -> bool:
        """Whether the library that its manifest names is missing."""
        return bool(self.lacks) and (
            self.lacks.rpartition("/")[2] == self.library.rpartition("/")[2]
        )

    @property
    def why(self) -> str:
        """The fault in a sentence, with the manifest and the library."""
        if self.is_absent:
            return (
                f"the driver file {self.manifest} names the library {self.library}, which is "
                f"missing ({self.fault})"
            )
        return f"the driver {self.library} of {self.manifest} does not load: {self.fault}"


def list_drivers(transport: Commands, device: Device) -> tuple[VulkanDriver, ...]:
    """Return the device's drivers, after loading their libraries in a separate process there."""
    reply = transport.run(AgentOptions.of(device).script(_SCRIPT), _SECONDS)
    marked = [line for line in reply.stdout.splitlines() if line.startswith(_MARK)]
    drivers = (read(line[len(_MARK) :]) for line in marked[:_MAX_DRIVERS])
    return tuple(one for one in drivers if one is not None)


def read(line: bytes) -> VulkanDriver | None:
    """Parse one driver from a line of the script; None if the line is something else."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, list) or len(fields) != len(("manifest", "library", "fault")):
        return None
    if not all(isinstance(field, str) for field in fields):
        return None
    manifest, library, fault = (field[:_MAX_TEXT] for field in fields)
    return VulkanDriver(manifest=manifest, library=library, fault=fault)
