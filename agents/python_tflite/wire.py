"""Read and write the protocol: one JSON object per line, at most 1 MiB."""

import json
import os
from typing import Any, Dict, Optional

VERSION = 1
MAX_LINE_BYTES = 1 << 20
_CHUNK = 1 << 16


class AgentFault(Exception):
    """An error that is sent as an answer: its kind and its reason."""

    def __init__(self, kind: str, reason: str) -> None:
        """Keep the kind and the reason."""
        super().__init__(reason)
        self.kind = kind
        self.reason = reason


class Lines:
    """The request lines on a file descriptor, with a limit on their length."""

    def __init__(self, descriptor: int) -> None:
        """Read from `descriptor`; it may block, so call poll first."""
        self._descriptor = descriptor
        self._buffer = bytearray()
        self._skipping = False
        self._ended = False

    def fill(self) -> bool:
        """Read available bytes; returns False at the end of the stream."""
        data = os.read(self._descriptor, _CHUNK)
        self._buffer += data
        return bool(data)

    def take(self) -> Optional[bytes]:
        """Return the next complete line, or None if more bytes are needed.

        Raises AgentFault (protocol) once for a line over the limit; the rest of it is skipped.
        """
        while True:
            end = self._buffer.find(b"\n")
            if end < 0:
                if len(self._buffer) <= MAX_LINE_BYTES and not self._skipping:
                    return None
                self._buffer.clear()
                if self._skipping:
                    return None
                self._skipping = True
                raise AgentFault("protocol", "a request line is longer than 1 MiB")
            line = bytes(self._buffer[:end])
            del self._buffer[: end + 1]
            if self._skipping:
                self._skipping = False
                continue
            if len(line) > MAX_LINE_BYTES:
                raise AgentFault("protocol", "a request line is longer than 1 MiB")
            if line.strip():
                return line


def parse(line: bytes) -> Dict[str, Any]:
    """Read one request; raises AgentFault (protocol) for anything that is not a JSON object."""
    try:
        request = json.loads(line.decode("utf-8"), parse_constant=refuse_constant)
    except (ValueError, RecursionError) as error:
        raise AgentFault("protocol", "a request is not JSON: {}".format(error)) from error
    if not isinstance(request, dict):
        raise AgentFault("protocol", "a request is not a JSON object")
    if not isinstance(request.get("id"), (int, str, type(None))):
        # The answer repeats the id, and a deeply nested or infinite one could not be written.
        raise AgentFault("protocol", "the id of a request must be a number or a text")
    return request


def refuse_constant(constant: str) -> float:
    """Raise ValueError for NaN and Infinity, which Python reads and JSON does not have."""
    raise ValueError("{} is not JSON".format(constant))


def verb(request: Dict[str, Any]) -> str:
    """Return the verb of a request; raises AgentFault (protocol)."""
    if request.get("v") != VERSION:
        reason = "this agent has protocol version {}, not {!r}".format(VERSION, request.get("v"))
        raise AgentFault("protocol", reason)
    name = request.get("verb")
    if not isinstance(name, str):
        raise AgentFault("protocol", "a request has no verb")
    return name


def write_line(descriptor: int, answer: Dict[str, Any]) -> None:
    """Write one answer completely."""
    # NaN and Infinity are not JSON, so allow_nan=False makes them raise ValueError.
    text = json.dumps(answer, separators=(",", ":"), allow_nan=False)
    view = memoryview(text.encode("ascii") + b"\n")
    while view:
        view = view[os.write(descriptor, view) :]
