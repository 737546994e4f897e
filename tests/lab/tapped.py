"""Run `edge-harness` and report its traffic with devices: `tapped.py SOCKET ARGUMENT...`.

Every step of a transport is sent to the unix socket, one connection per moment: a line of JSON with
`device`, `moment`, `what`. The program waits for the answer, so that the listener can inject a fault
at exactly that moment. Nothing else of the program changes.

Moments: `connecting`; `running` a command; `pushing agent` and `pushing model`, with the
destination; `fetching` a file;
a verb after it was sent to the agent, for a launch with its kind (`launch timed`); the same with
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

Report = Callable[[str, str], None]


def reporter(path: str, device: str) -> Report:
    """Return a function that reports a moment of this device and waits for the answer."""

    def report(moment: str, what: str = "") -> None:
        line = json.dumps({"device": device, "moment": moment, "what": what})
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            connection.sendall(line.encode() + b"\n")
            connection.recv(1)

    return report


@contextmanager
def reporting_loss(report: Report) -> Iterator[None]:
    """Report an error of the transport."""
    try:
        yield
    except TransportError as error:
        report("lost", str(error))
        raise


def verb_of(line: bytes) -> str:
    """Return the verb of a request, for a launch with its kind."""
    request = json.loads(line)
    order = request.get("order", {})
    if request["verb"] != "launch":
        return str(request["verb"])
    pilot = order["kind"] == "timed" and order["block"] == blocks.PILOT_BLOCK
    return f"launch {'pilot' if pilot else order['kind']}"


class TappedChannel:
    """A channel to an agent that reports its traffic."""

    def __init__(self, inner: Channel, report: Report) -> None:
        """Wrap `inner`."""
        self._inner = inner
        self._report = report
        self._verbs: dict[int | None, str] = {}
        self._arrived = b""

    def send(self, data: bytes) -> None:
        """Send, then report the verb."""
        with reporting_loss(self._report):
            self._inner.send(data)
        if not data.startswith(b"{"):
            # Not to the agent: the shell that pins the governor.
            return
        verb = verb_of(data)
        self._verbs[json.loads(data).get("id")] = verb
        self._report(verb, "")

    def read(self, deadline: float) -> bytes:
        """Read; report a complete answer before it is returned."""
        with reporting_loss(self._report):
            data = self._inner.read(deadline)
        *whole, self._arrived = (self._arrived + data).split(b"\n")
        for line in whole:
            # A login shell may print lines before the agent does.
            answer = json.loads(line) if line.startswith(b"{") else {}
            if answer.get("event") in ("result", "error"):
                self._report(f"answered {self._verbs.get(answer.get('id'), '')}", "")
        return data

    def errors(self) -> bytes:
        """Call `inner`."""
        return self._inner.errors()

    def close(self) -> None:
        """Call `inner`."""
        self._inner.close()


class TappedTransport:
    """A transport that reports its traffic."""

    def __init__(self, inner: FullTransport, report: Report) -> None:
        """Wrap `inner`."""
        self._inner = inner
        self._report = report

    def put(self, source: Path, destination: str) -> None:
        """Tell, then push."""
        self._report("pushing agent" if "/agents/" in destination else "pushing model", destination)
        with reporting_loss(self._report):
            self._inner.put(source, destination)

    def get(self, source: str, *arguments: Any, **named: Any) -> None:
        """Tell, then fetch."""
        self._report("fetching", source)
        with reporting_loss(self._report):
            self._inner.get(source, *arguments, **named)

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        """Tell, then run."""
        self._report("running", argv[0])
        with reporting_loss(self._report):
            return self._inner.run(argv, timeout_seconds, stdin)

    def talk(self, argv: Sequence[str]) -> TappedChannel:
        """Start a process and wrap its channel."""
        with reporting_loss(self._report):
            return TappedChannel(self._inner.talk(argv), self._report)

    def close(self) -> None:
        """Call `inner`."""
        self._inner.close()


def main(path: str, arguments: Sequence[str]) -> None:
    """Run the command with tapped transports."""
    open_transport = opening.open_transport

    def tapped(device: Device) -> Transport:
        report = reporter(path, device.name)
        report("connecting", "")
        with reporting_loss(report):
            whole = abilities.everything(open_transport(device), device, "the lab")
            return TappedTransport(whole, report)

    vars(opening)["open_transport"] = tapped
    if "EDGE_LAB_HANG_SECONDS" in os.environ:
        # The default for a hanging launch is the time that a slow board may take: minutes.
        vars(blocks)["deadline"] = lambda _: float(os.environ["EDGE_LAB_HANG_SECONDS"])
    sys.argv = ["edge-harness", *arguments]
    command_line()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
