"""Remove our files from a device: agents, blobs, runtimes, unfinished transfers."""

from __future__ import annotations

import re

from harness.errors import HarnessError
from harness.protocols import Commands
from harness.types import Device

_SECONDS = 300.0
_MARK = "edge-harness cleaned "
_KILOBYTES = re.compile(r"[0-9]{1,15}")

# Remove these folders only: a user may have chosen a work folder with other files in it.
_SCRIPT = r"""
root=$1
set -- agents blobs incoming out runtimes
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
