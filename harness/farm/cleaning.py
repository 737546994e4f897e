"""Remove our files from a device: agents, blobs, runtimes, unfinished transfers."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from harness.devices import abilities, opening
from harness.errors import AgentError, HarnessError, TransferFailed
from harness.protocols import Commands, Leasing, Transport
from harness.types import Device

_SECONDS = 300.0
_MARK = "edge-harness cleaned "
_KILOBYTES = re.compile(r"[0-9]{1,15}")

# Remove these folders only: a user may have chosen a work folder with other files in it.
_SCRIPT = r"""
root=$1
set -- agents blobs bundles caches incoming inputs launches leases out runtimes
kilobytes=0
# Through another user's link we would delete files outside of the work folder.
if [ -L "$root" ] || { [ -d "$root" ] && [ ! -O "$root" ]; }; then
    echo "it is a link, or not this user's" >&2
    exit 1
fi
if cd -- "$root" 2>/dev/null; then
    for folder; do
        [ -d "$folder" ] || continue
        size=$(du -sk "$folder" 2>/dev/null)
        kilobytes=$((kilobytes + ${size%%[!0-9]*}))
        rm -rf -- "$folder" || exit 1
    done
    cd / && rmdir -- "$root" 2>/dev/null
fi
echo "edge-harness cleaned $kilobytes"
"""


def clean_device(device: Device) -> dict[str, Any]:
    """Clean one device under its lease; return its row: `freed_bytes`, or why it failed."""
    row: dict[str, Any] = {"name": device.name, "status": "cleaned", "reason": None}
    try:
        transport = opening.open_transport(device)
        try:
            folder = opening.workdir(device)
            if folder is None:
                return {**row, "freed_bytes": 0}
            commands = abilities.commands(transport, device, "cleaning")
            with _held(transport, commands, device, folder):
                return {**row, "freed_bytes": clean(commands, device, folder)}
        finally:
            transport.close()
    except HarnessError as error:
        return {**row, "status": error.kind, "reason": str(error), "freed_bytes": None}


@contextmanager
def _held(transport: Transport, commands: Commands, device: Device, folder: str) -> Iterator[None]:
    """Hold the device's lease; raises LeaseError if another user holds it.

    If there is no agent or it does not start, no other user can be measuring, and no lease is held.
    """
    used = 'test -d "$1/agents" || test -d "$1/leases"'
    if commands.run(["sh", "-c", used, "sh", folder], 30.0).exit_code:
        yield
        return
    dialect = opening.open_dialect(transport, device)
    try:
        if isinstance(dialect, Leasing):
            with suppress(AgentError, TransferFailed):
                dialect.hold()
        yield
    finally:
        dialect.close()


def clean(transport: Commands, device: Device, workdir: str) -> int:
    """Remove our folders from the device's work folder; returns the number of bytes freed.

    Needs no Python on the device. Raises HarnessError if a folder cannot be removed.
    """
    reply = transport.run(["sh", "-c", _SCRIPT, "sh", workdir], _SECONDS)
    output = reply.stdout.decode(errors="replace")
    kilobytes = output.rpartition(_MARK)[2].strip()
    if reply.exit_code or _MARK not in output or _KILOBYTES.fullmatch(kilobytes) is None:
        why = reply.stderr.decode(errors="replace").strip()[-300:] or output.strip()[-300:]
        raise HarnessError(f"{device.name}: {workdir} was not cleaned: {why}")
    return int(kilobytes) * 1024
