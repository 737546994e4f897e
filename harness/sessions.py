"""A device of the farm to a live session: transport, dialect, facts. Knows how to come back."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness import plugins
from harness.errors import HarnessError, TransportError, Unreachable
from harness.protocols import Dialect, OpenDialect, OpenTransport, Push, Transport
from harness.types import Device, DeviceFacts

RECONNECT_SECONDS = 30.0
"""How long a device that went away is waited for before its cells fail."""


class Session:
    """One device, connected: its agent runs and has answered `hello`."""

    def __init__(
        self,
        device: Device,
        *,
        transport: OpenTransport | None = None,
        dialect: OpenDialect | None = None,
    ) -> None:
        """Connect, deploy the agent, say hello; raises a HarnessError where that fails.

        Without openers, the address's scheme names the transport and the dialect is the agent's.
        """
        self.device = device
        self._open_transport = transport or open_transport
        self._open_dialect: OpenDialect = dialect or plugins.load("harness.dialects", "json_lines")
        self._files: dict[str, Path] = {}
        self.pushed: list[Push] = []
        """Files that were sent and that nobody has told of yet."""
        self._open()

    def _open(self) -> None:
        self.transport: Transport = self._open_transport(self.device)
        try:
            self.dialect: Dialect = self._open_dialect(self.transport, self.device)
            self.pushed += self.dialect.deploy(self._files)
            self.facts: DeviceFacts = self.dialect.hello()
        except BaseException:
            self.close()
            raise

    def bring(self, files: Mapping[str, Path]) -> None:
        """Have these files (sha256 to path) on the device; what is there is not sent again."""
        self._files.update(files)
        self.pushed += self.dialect.deploy(files)

    def reopen(self, patience_seconds: float = RECONNECT_SECONDS) -> None:
        """Connect again until a deadline; raises Unreachable with the last reason.

        The device must say it is the same one: a board that came back under this address with
        another identity is not the one whose numbers were asked for.
        """
        identity = self.facts.identity
        deadline = time.monotonic() + patience_seconds
        pause = 0.2
        while True:
            self.close()
            try:
                self._open()
            except TransportError as error:
                if isinstance(error, Unreachable) and time.monotonic() + pause < deadline:
                    time.sleep(pause)
                    pause = min(2 * pause, 2.0)
                    continue
                raise
            if self.facts.identity != identity:
                self.close()
                raise Unreachable(
                    f"{self.device.name}: another machine answers at {self.device.address} now"
                )
            return

    def interrupt(self) -> None:
        """Cut the connection from another thread: whoever waits for the device is woken up.

        No word is said to the agent, since another thread may be speaking with it; it ends with
        its connection. `close` comes after, when that thread is done.
        """
        self.transport.close()

    def close(self) -> None:
        """End the agent and let go of the device; never raises."""
        if hasattr(self, "dialect"):
            self.dialect.close()
        if hasattr(self, "transport"):
            self.transport.close()


def open_transport(device: Device) -> Transport:
    """Open the transport that the device's address names; an unknown scheme lists the known."""
    scheme = device.address.partition(":")[0]
    opener: OpenTransport = plugins.load("harness.transports", scheme)
    return opener(device)


def open_all(devices: Iterable[Device]) -> dict[str, Session | HarnessError]:
    """Connect to every device at once; one that is away is its error, not an exception."""
    wanted = list(devices)

    def connect(device: Device) -> Session | HarnessError:
        try:
            return Session(device)
        except HarnessError as error:
            return error

    with ThreadPoolExecutor(max_workers=max(1, min(16, len(wanted)))) as pool:
        return dict(zip((d.name for d in wanted), pool.map(connect, wanted), strict=True))
