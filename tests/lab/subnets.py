"""Networks of two addresses, one per device; labs that run at the same time use different ones."""

from __future__ import annotations

import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from .tools import LabError

_LOCKS = Path("/run/lock/edge-harness-lab")
_COUNT = 250


@dataclass(frozen=True, slots=True)
class Subnet:
    """One of the /30 networks of 198.18.0.0/15, which RFC 2544 reserves for tests of networks."""

    number: int
    lock: int
    """The open lock file; closed with this process at the latest."""

    @property
    def machine(self) -> str:
        """The machine's address."""
        return f"198.18.{self.number}.1"

    @property
    def device(self) -> str:
        """The device's address."""
        return f"198.18.{self.number}.2"

    @property
    def interface(self) -> str:
        """The machine's end of the cable."""
        return f"edgelab{self.number}"

    def give_back(self) -> None:
        """Release it for other labs."""
        os.close(self.lock)


def take() -> Subnet:
    """Reserve a free network; raises LabError if all are in use."""
    _LOCKS.mkdir(parents=True, exist_ok=True)
    for number in range(_COUNT):
        lock = os.open(_LOCKS / str(number), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            continue
        return Subnet(number=number, lock=lock)
    raise LabError(f"all {_COUNT} networks of the lab are taken")
