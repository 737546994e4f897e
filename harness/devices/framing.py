"""JSON lines over a channel: one object per line, of bounded length, parsed strictly.

Only JSON objects pass. Anything else that a device sends raises AgentError.
"""

from __future__ import annotations

import json
import math
import threading
import time
from collections.abc import Mapping
from typing import Any

from harness.errors import AgentError, AgentSilent, Unreachable
from harness.protocols import Channel

MAX_LINE_BYTES = 1 << 20
"""Per line, in both directions; larger arrays travel as blobs."""

MIN_BYTES_PER_SECOND = 1_000.0
"""An answer that has begun to arrive may take as long as this speed gives it."""

_NOISE_BYTES = 64 * 1024
_SHOWN = 120
_MAX_DEPTH = 32
_MAX_INTEGER = 1 << 63
_MAX_INTEGER_CHARACTERS = 20
"""The length of -2^63."""


class JsonLines:
    """The conversation with one agent."""

    def __init__(self, channel: Channel, who: str) -> None:
        """`who` is the device's name, for messages."""
        self._channel = channel
        self._sending = threading.Lock()
        self._who = who
        self._buffer = bytearray()
        self._has_answered = False
        self._noise = 0

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one object; raises AgentError over 1 MiB and Unreachable on a broken stream.

        Any thread may call it: one thread renews the lease while another waits for an answer.
        """
        line = json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            text = f"{self._who}: a request of {len(line)} bytes is over 1 MiB; send it as a blob"
            raise AgentError(text)
        with self._sending:
            self._channel.send(line)

    def read(self, deadline: float) -> dict[str, Any]:
        """Return the next object; `deadline` is on time.monotonic().

        Other lines before the first object are skipped (at most 64 KiB), because a login shell's
        start-up files may print. Raises AgentSilent at the deadline (later for an answer that is
        arriving, see MIN_BYTES_PER_SECOND), Unreachable at the end of the
        stream, AgentError for anything that is not a JSON object of at most 1 MiB.
        """
        while True:
            # If lines arrive faster than they are read, the channel never waits for its deadline.
            if time.monotonic() >= deadline:
                raise AgentSilent(f"{self._who}: the agent gave no answer before the deadline")
            line = self._line(deadline)
            try:
                message = parse(line)
            except ValueError as error:
                self._noise += len(line) + 1
                if not self._has_answered and self._noise <= _NOISE_BYTES:
                    continue
                shown = line[:_SHOWN].decode(errors="replace")
                text = (
                    f"{self._who}: the agent sent a line that is not a JSON object ({error}): "
                    f"{shown!r}; does a program on the device print to the agent's stdout?"
                )
                raise AgentError(text) from error
            self._has_answered = True
            return message

    def _line(self, deadline: float) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE_BYTES:
                raise AgentError(f"{self._who}: the agent's answer is longer than 1 MiB")
            # A long answer over a slow link is late, and it comes.
            data = self._channel.read(deadline + searched / MIN_BYTES_PER_SECOND)
            if not data:
                tail = self._channel.errors().decode(errors="replace").strip()[-500:]
                text = (
                    f"{self._who}: the agent's stream ended in the middle of the conversation"
                    f"{'; end of its stderr: ' + tail if tail else ''}; connect again"
                )
                raise Unreachable(text)
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        if len(line) > MAX_LINE_BYTES:
            raise AgentError(f"{self._who}: the agent's answer is longer than 1 MiB")
        return line


def parse(line: bytes) -> dict[str, Any]:
    """Read one JSON object; raises ValueError for anything else.

    It also refuses NaN, infinite numbers, integers beyond 64 bits, nesting deeper than 32 levels and
    lone surrogates, because they cannot be stored. It refuses a repeated key, because another reader
    might take the other value.
    """
    text = line.decode("utf-8")
    try:
        message = json.loads(
            text,
            parse_constant=_refuse_constant,
            parse_float=_read_float,
            parse_int=_read_integer,
            object_pairs_hook=_read_object,
        )
        if text.count("{") + text.count("[") > _MAX_DEPTH:
            _check_depth(message)
        if "\\ud" in text.lower():
            json.dumps(message, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one error for every malformed line
    return message


def _read_float(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text} is too large")
    return number


def _read_integer(text: str) -> int:
    number = int(text) if len(text) <= _MAX_INTEGER_CHARACTERS else _MAX_INTEGER
    if not -_MAX_INTEGER <= number < _MAX_INTEGER:
        raise ValueError(f"an integer of {len(text)} characters")
    return number


def _read_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is repeated")
    return made


def _check_depth(message: object) -> None:
    level: list[Any] = [message]
    for _ in range(_MAX_DEPTH):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for some in inner for one in some if isinstance(one, (dict, list))]
        if not level:
            return
    raise ValueError("nested too deeply")


def _refuse_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")
