"""How much space a device has left, for the error of a file that did not fit."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from harness.errors import HarnessError
from harness.protocols import Reply

_SECONDS = 10.0
_AVAILABLE = 3
"""Column of `df -Pk` with the free blocks of 1024 bytes."""


RunCommand = Callable[[Sequence[str], float], Reply]


def free_space(run: RunCommand, folder: str) -> str:
    """Return a sentence about the free space of a folder on the device; never raises."""
    free = free_bytes(run, folder)
    if free is None:
        return "check that its disk has space"
    return f"{free} bytes are free there (`df {folder}`)"


def free_bytes(run: RunCommand, folder: str) -> int | None:
    """Return the free space of a folder on the device, bytes; None if unknown. Never raises."""
    try:
        reply = run(["df", "-Pk", folder], _SECONDS)
    except HarnessError:
        return None
    cells = reply.stdout.decode(errors="replace").split("\n", 1)[-1].split()
    free = cells[_AVAILABLE] if len(cells) > _AVAILABLE else ""
    return int(free) * 1024 if re.fullmatch("[0-9]{1,15}", free) else None
