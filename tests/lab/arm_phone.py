"""An aarch64 phone: Debian's build of Android's own adbd, mksh and toybox, run by qemu's user emulation.

The phone has a network of its own, in which adbd listens as after `adb tcpip 5555`. What Android has
beside these programs is a stand-in (tests/standins/phones.py); the runner of a test runs by the
aarch64 Python and runtime of the lab's ARM boards.
"""

from __future__ import annotations

import shlex
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

from standins import adbd, phones

from harness.types import Device

from . import arm, debian, subnets
from .box import Box
from .tools import LabError, why_not

PORT = 5555
SERIAL = "STANDIN64PIXEL"
NAME = "arm-phone"
_BOOT_SECONDS = 60.0
_KIND = replace(arm.PI_4, packages=adbd.ARM64.packages)
_ENVIRONMENT = (
    *("PATH=/system/bin", "HOME=/", "TMPDIR=/data/local/tmp", "ANDROID_ROOT=/system"),
    *("ADBD_PROPERTIES=/system/build.prop", f"QEMU_CPU={_KIND.cpu}"),
)


@dataclass(frozen=True, slots=True)
class ArmPhone:
    """A running phone."""

    box: Box
    server: phones.Server

    @property
    def address(self) -> str:
        """Return its address of the farm."""
        return f"adb:{self.box.subnet.device}:{PORT}"

    @property
    def device(self) -> Device:
        """Return its entry of the farm."""
        return Device(
            name=NAME,
            profile="pixel_6",
            address=self.address,
            tags=("emulated",),
            transport_options={"adb_server": f"127.0.0.1:{self.server.port}"},
        )


def tools() -> tuple[str, ...]:
    """Return the programs that such a phone needs."""
    return (*arm.tools(_KIND), "adb", "toybox")


def missing() -> str | None:
    """Return why there can be no such phone here; None if there can."""
    return why_not(tools()) or adbd.why_not(adbd.ARM64)


@contextmanager
def arm_phone(folder: Path, server: phones.Server) -> Iterator[ArmPhone]:
    """Run a phone that is connected to nothing yet; raises LabError if it does not start."""
    tree = debian.tree(_KIND.architecture, *_KIND.packages)
    rooted = arm.rooted(folder, NAME, _KIND, runtime=True)
    programs = phones.Programs(
        adbd=adbd.program(adbd.ARM64), shell=_in(tree, "mksh"), toybox=_in(tree, "toybox")
    )
    properties = {
        "service.adb.listen_addrs": f"tcp:{PORT}",
        "ro.adb.secure": "0",
        "ro.serialno": SERIAL,
    }
    phones.write_files(rooted.layer, programs, properties)
    data = 'mount -t tmpfs -o mode=771,size=256m none "$ROOT/data"\n'
    data += 'mkdir -p "$ROOT/data/local/tmp" "$ROOT/data/misc/adb"\n'
    program = ["/usr/bin/env", "-i", *_ENVIRONMENT, "/system/bin/adbd"]
    rooted.new_boot_id()
    spec = rooted.spec(NAME, inside=data + arm.inside(_KIND), program=program)
    made = ArmPhone(Box(spec, subnets.take(), folder / "log"), server)
    try:
        made.box.switch_on()
        _wait_for(made)
        yield made
    finally:
        made.box.switch_off()
        made.box.subnet.give_back()


def _in(tree: Path, name: str) -> Path:
    found = next((p for p in (tree / "usr/bin" / name, tree / "bin" / name) if p.exists()), None)
    if found is None:
        raise LabError(f"{shlex.quote(str(tree))} has no {name}")
    return found


def _wait_for(phone: ArmPhone) -> None:
    deadline = time.monotonic() + _BOOT_SECONDS
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((phone.box.subnet.device, PORT), 1.0):
            return
        time.sleep(0.05)
    log = phone.box.log.read_text(errors="replace")[-1000:]
    raise LabError(f"{NAME}: adbd does not listen within {_BOOT_SECONDS:.0f} s: {log}")
