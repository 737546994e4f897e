"""Why a device shows no GPU: the Vulkan drivers that are installed there, and whether their libraries load.

The loader reads manifests (`*.json`, `ICD.library_path`) from fixed folders, or those that VK_DRIVER_FILES
names, and passes over in silence a driver whose library does not load. A container that was given a GPU
without its graphics libraries looks exactly like a machine without a driver.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from harness.devices.dialects.python_agent.options import AgentOptions
from harness.protocols import Commands
from harness.types import Device

_SECONDS = 30.0
_MARK = b"edge-harness-vulkan "
_MOST, _MOST_WORDS = 16, 400

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
class Driver:
    """An installed driver."""

    manifest: str
    library: str
    """Empty where the manifest names none."""
    fault: str
    """Why its library, or its manifest, does not load, in the loader's words; empty where it does."""


def ask(transport: Commands, device: Device) -> tuple[Driver, ...]:
    """Return the drivers that the device has; each is loaded once, in a process of its own there."""
    reply = transport.run([AgentOptions.of(device).python, "-c", _SCRIPT], _SECONDS)
    marked = [line for line in reply.stdout.splitlines() if line.startswith(_MARK)]
    drivers = (read(line[len(_MARK) :]) for line in marked[:_MOST])
    return tuple(one for one in drivers if one is not None)


def read(line: bytes) -> Driver | None:
    """Read one driver as the device tells it; None for anything else."""
    try:
        words = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(words, list) or len(words) != len(("manifest", "library", "fault")):
        return None
    if not all(isinstance(word, str) for word in words):
        return None
    manifest, library, fault = (word[:_MOST_WORDS] for word in words)
    return Driver(manifest=manifest, library=library, fault=fault)
