"""This controller's name and token for a lease, and the thread that renews the lease."""

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
"""A third of the lease's duration, so that two renewals may be lost."""

TOKEN = secrets.token_hex(16)
"""Identifies this process: its next connection to a device need not wait for the last lease."""


def holder() -> str:
    """Return the controller's name for other users of the device: user@host and the process."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = str(os.getuid()) if hasattr(os, "getuid") else "unknown"
    return f"{user}@{platform.node() or 'unnamed'} (process {os.getpid()})"


class Renewal:
    """A thread that calls `renew` every ten seconds until `close` or a broken connection."""

    def __init__(self, renew: Callable[[], None]) -> None:
        """Start; `renew` raises a HarnessError if the connection is broken."""
        self._renew = renew
        self._closed = threading.Event()
        threading.Thread(target=self._run, name="lease", daemon=True).start()

    def close(self) -> None:
        """Stop renewing; does not wait for a renewal in progress."""
        self._closed.set()

    def _run(self) -> None:
        # The next request to the device reports the broken connection.
        with suppress(HarnessError, OSError):
            while not self._closed.wait(RENEW_SECONDS):
                self._renew()
