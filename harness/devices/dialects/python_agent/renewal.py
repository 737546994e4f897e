"""Who this controller is to a device, and a thread that keeps its lease alive."""

from __future__ import annotations

import getpass
import os
import platform
import secrets
import threading
from collections.abc import Callable
from contextlib import suppress

from harness.errors import HarnessError

RENEW_SECONDS = 10.0
"""A third of the lease's life, so that two renewals may be lost."""

TOKEN = secrets.token_hex(16)
"""Of this process: its connections to one device may follow each other without a wait."""


def holder() -> str:
    """Name this controller for whoever finds the device taken: user@host and the process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid()) if hasattr(os, "getuid") else "somebody"
    return f"{user}@{platform.node() or 'unnamed'} (process {os.getpid()})"


class Renewal:
    """Calls `renew` every ten seconds until it is closed or the connection breaks."""

    def __init__(self, renew: Callable[[], None]) -> None:
        """Start; `renew` raises a HarnessError where the connection is broken."""
        self._renew = renew
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="lease", daemon=True).start()

    def close(self) -> None:
        """Renew no more; does not wait for a renewal that is on its way."""
        self._closed.set()

    def _run(self) -> None:
        # Whoever speaks with the device next finds out that the connection broke.
        with suppress(HarnessError, OSError):
            while not self._closed.wait(RENEW_SECONDS):
                self._renew()
