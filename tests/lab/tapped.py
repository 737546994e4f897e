"""`edge-harness` with an ear at the seam to its devices: `tapped.py SOCKET ARGUMENT...`.

Whatever passes the transport is told to the unix socket, one connection a moment: a line of JSON
with `device`, `moment`, `what`. The answer is waited for, so that whoever listens can make
something go wrong right there. Nothing else of the program is changed.

Moments: `connecting`; `running` a command; `pushing agent` and `pushing model`, with where to; `fetching` a file;
a verb that was just sent to the agent, for a launch with its kind (`launch timed`); the same with
`answered` before its answer is read; `lost`, with the reason, when the transport fails.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness.cli import main as command_line
from harness.devices import abilities, opening
from harness.errors import TransportError
from harness.measure import blocks
from harness.protocols import Channel, FullTransport, Reply, Transport
from harness.types import Device

Tell = Callable[[str, str], None]


def ear(path: str, device: str) -> Tell:
    """Return what tells of a moment of this device and waits."""

    def tell(moment: str, what: str = "") -> None:
        line = json.dumps({"device": device, "moment": moment, "what": what})
        with socket.socket(socket.AF_UNIX) as there:
            there.connect(path)
            there.sendall(line.encode() + b"\n")
            there.recv(1)

    return tell


@contextmanager
def losing(tell: Tell) -> Iterator[None]:
    """Tell when the transport fails."""
    try:
        yield
    except TransportError as error:
        tell("lost", str(error))
        raise


def verb_of(line: bytes) -> str:
    """Name a request: its verb, and for a launch what it is for."""
    request = json.loads(line)
    order = request.get("order", {})
    if request["verb"] != "launch":
        return str(request["verb"])
    pilot = order["kind"] == "timed" and order["block"] == blocks.PILOT_BLOCK
    return f"launch {'pilot' if pilot else order['kind']}"


class TappedChannel:
    """A channel to an agent."""

    def __init__(self, inner: Channel, tell: Tell) -> None:
        """Listen to `inner`."""
        self._inner = inner
        self._tell = tell
        self._verbs: dict[int | None, str] = {}
        self._arrived = b""

    def send(self, data: bytes) -> None:
        """Send, then tell which verb that was."""
        with losing(self._tell):
            self._inner.send(data)
        verb = verb_of(data)
        self._verbs[json.loads(data).get("id")] = verb
        self._tell(verb, "")

    def read(self, deadline: float) -> bytes:
        """Read; tell of a whole answer before it is handed on."""
        with losing(self._tell):
            data = self._inner.read(deadline)
        *whole, self._arrived = (self._arrived + data).split(b"\n")
        for line in whole:
            # Before the agent speaks a login shell may.
            answer = json.loads(line) if line.startswith(b"{") else {}
            if answer.get("event") in ("result", "error"):
                self._tell(f"answered {self._verbs.get(answer.get('id'), '')}", "")
        return data

    def errors(self) -> bytes:
        """Pass on."""
        return self._inner.errors()

    def close(self) -> None:
        """Pass on."""
        self._inner.close()


class TappedTransport:
    """A transport."""

    def __init__(self, inner: FullTransport, tell: Tell) -> None:
        """Listen to `inner`."""
        self._inner = inner
        self._tell = tell

    def put(self, source: Path, destination: str) -> None:
        """Tell, then push."""
        self._tell("pushing agent" if "/agents/" in destination else "pushing model", destination)
        with losing(self._tell):
            self._inner.put(source, destination)

    def get(self, source: str, *words: Any, **more: Any) -> None:
        """Tell, then fetch."""
        self._tell("fetching", source)
        with losing(self._tell):
            self._inner.get(source, *words, **more)

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        """Tell, then run."""
        self._tell("running", argv[0])
        with losing(self._tell):
            return self._inner.run(argv, timeout_seconds, stdin)

    def talk(self, argv: Sequence[str]) -> TappedChannel:
        """Start a process, and listen to it."""
        with losing(self._tell):
            return TappedChannel(self._inner.talk(argv), self._tell)

    def close(self) -> None:
        """Pass on."""
        self._inner.close()


def main(path: str, arguments: Sequence[str]) -> None:
    """Run the command."""
    open_transport = opening.open_transport

    def tapped(device: Device) -> Transport:
        tell = ear(path, device.name)
        tell("connecting", "")
        with losing(tell):
            whole = abilities.everything(open_transport(device), device, "the lab")
            return TappedTransport(whole, tell)

    vars(opening)["open_transport"] = tapped
    if "EDGE_LAB_HANG_SECONDS" in os.environ:
        # A hanging launch is waited for as long as a slow board may take; that is minutes.
        vars(blocks)["deadline"] = lambda _: float(os.environ["EDGE_LAB_HANG_SECONDS"])
    sys.argv = ["edge-harness", *arguments]
    command_line()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
