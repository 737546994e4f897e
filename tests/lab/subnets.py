"""Networks of two addresses, one per device; labs that run at the same time use different ones."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
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
        """Release it for other labs, and remove the lock files that nobody holds."""
        _remove(self.number, self.lock)
        for path in _LOCKS.glob("*"):
            lock = _locked(path)
            if lock is not None:
                _remove(int(path.name), lock)
        with suppress(OSError):
            _LOCKS.rmdir()


def take() -> Subnet:
    """Reserve a free network; raises LabError if all are in use."""
    for number in range(_COUNT):
        lock = _locked(_LOCKS / str(number), make=True)
        if lock is not None:
            return Subnet(number=number, lock=lock)
    raise LabError(f"all {_COUNT} networks of the lab are taken")


def _locked(path: Path, *, make: bool = False) -> int | None:
    """Open and lock a file; None if another lab holds it, or removed it meanwhile."""
    while True:
        try:
            if make:
                path.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(path, os.O_RDWR | (os.O_CREAT if make else 0) | os.O_CLOEXEC, 0o600)
        except FileNotFoundError:
            if make:  # another lab removed the folder just now
                continue
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            return None
        if os.fstat(lock).st_nlink:
            return lock
        # Removed between the two calls: its lock keeps nobody away.
        os.close(lock)
        if not make:
            return None


def _remove(number: int, lock: int) -> None:
    """Remove a lock file that this process holds, then release it."""
    (_LOCKS / str(number)).unlink(missing_ok=True)
    os.close(lock)
