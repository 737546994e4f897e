"""`make lab`: start one device of each kind for experiments, until Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.ssh.options import SshOptions
from harness.types import Device

from . import arm, machine, x86
from .device import LabDevice
from .lab import Lab
from .tools import LabError, why_not

_KINDS: dict[str, tuple[tuple[str, ...], Callable[[Lab], LabDevice]]] = {
    "x86-1": (x86.TOOLS, lambda lab: lab.x86_hosts(["x86-1"])[0]),
    "pi4": (arm.tools(arm.PI_4), lambda lab: lab.board("pi4", arm.PI_4)),
    "fresh-pi4": (
        arm.tools(arm.PI_4),
        lambda lab: lab.board("fresh-pi4", arm.PI_4, runtime=False),
    ),
    "pi3": (arm.tools(arm.PI_3_32_BIT), lambda lab: lab.board("pi3", arm.PI_3_32_BIT)),
    "vm": (machine.TOOLS, lambda lab: lab.machine("vm")),
}


def farm_entry(device: Device) -> str:
    """Format a device as a table of farm.toml."""
    tags = ", ".join(f'"{tag}"' for tag in device.tags)
    return (
        f"[device.{device.name}]\n"
        f'profile = "{device.profile}"\naddress = "{device.address}"\n'
        f'identity = "{SshOptions.of(device).identity}"\n'
        f'known_hosts = "{SshOptions.of(device).known_hosts}"\n'
        f'python = "{AgentOptions.of(device).python}"\ntags = [{tags}]\n'
    )


def main() -> int:
    """Start devices, print their farm.toml, wait; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.lab", description=__doc__)
    parser.add_argument("device", nargs="*", help=f"default: all of {', '.join(_KINDS)}")
    parser.add_argument("--farm", type=Path, help="write the farm.toml to this file too")
    wanted = parser.parse_args()
    unknown = sorted(set(wanted.device) - set(_KINDS))
    if unknown:
        parser.error(f"no such device: {', '.join(unknown)}; there are {', '.join(_KINDS)}")
    for ending in (signal.SIGINT, signal.SIGTERM):
        signal.signal(ending, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="edge-lab-") as folder:
        try:
            with Lab(Path(folder) / "devices") as lab:
                _serve(lab, wanted.device or list(_KINDS), wanted.farm)
        except KeyboardInterrupt:
            return 0
        except LabError as error:
            _log(str(error))
            return 3
    return 0


def _serve(lab: Lab, names: list[str], farm: Path | None) -> None:
    for name in names:
        tools, start = _KINDS[name]
        reason = why_not(tools)
        if reason:
            raise LabError(f"{name}: {reason}")
        began = time.monotonic()
        start(lab)
        _log(f"{name} is up after {time.monotonic() - began:.1f} s")
    text = "\n".join(farm_entry(device.entry) for device in lab.devices)
    if farm:
        farm.write_text(text)
    sys.stdout.write(text)
    sys.stdout.flush()
    _log("Ctrl-C ends them")
    while True:
        time.sleep(3600)


def _log(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    sys.exit(main())
