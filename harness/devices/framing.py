"""JSON lines over a channel: one object a line, bounded, parsed strictly.

Nothing a device sends gets past here but a JSON object; whatever else comes raises AgentError.
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
"""One line, both ways; larger arrays travel as blobs."""

_NOISE_BYTES = 64 * 1024
_SHOWN = 120
_DEEPEST = 32
_MOST = 1 << 63
_LONGEST_INTEGER = 20
"""Characters of -2^63."""


class JsonLines:
    """The conversation with one agent."""

    def __init__(self, channel: Channel, who: str) -> None:
        """`who` is the device's name, for messages."""
        self._channel = channel
        self._sending = threading.Lock()
        self._who = who
        self._buffer = bytearray()
        self._spoken = False
        self._noise = 0

    def send(self, message: Mapping[str, Any]) -> None:
        """Send one object; raises AgentError over 1 MiB and Unreachable on a broken stream.

        Any thread may: the lease is renewed while another one waits for an answer.
        """
        line = json.dumps(message, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if len(line) > MAX_LINE_BYTES:
            text = f"{self._who}: a request of {len(line)} bytes is over 1 MiB; send it as a blob"
            raise AgentError(text)
        with self._sending:
            self._channel.send(line)

    def read(self, deadline: float) -> dict[str, Any]:
        """Return the next object; `deadline` is on time.monotonic().

        Before the first object, lines that are none are passed over (at most 64 KiB): a login
        shell's start-up files may print. Raises AgentSilent at the deadline, Unreachable at the
        end of the stream, AgentError for anything that is not a JSON object of at most 1 MiB.
        """
        while True:
            # Lines that come faster than they are read would never make the channel wait.
            if time.monotonic() >= deadline:
                raise AgentSilent(f"{self._who}: the agent gave no answer before the deadline")
            line = self._line(deadline)
            try:
                message = parse(line)
            except ValueError as error:
                self._noise += len(line) + 1
                if not self._spoken and self._noise <= _NOISE_BYTES:
                    continue
                shown = line[:_SHOWN].decode(errors="replace")
                text = (
                    f"{self._who}: the agent answered something that is not one JSON object a "
                    f"line ({error}): {shown!r}; does a program on the device print to its stdout?"
                )
                raise AgentError(text) from error
            self._spoken = True
            return message

    def _line(self, deadline: float) -> bytes:
        searched = 0
        while (end := self._buffer.find(b"\n", searched)) < 0:
            searched = len(self._buffer)
            if searched > MAX_LINE_BYTES:
                raise AgentError(f"{self._who}: the agent's answer has no end within 1 MiB")
            data = self._channel.read(deadline)
            if not data:
                last = self._channel.errors().decode(errors="replace").strip()[-500:]
                text = (
                    f"{self._who}: the agent's stream ended in the middle of the conversation"
                    f"{'; its last words: ' + last if last else ''}; connect again"
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

    So are NaN, infinite numbers, integers beyond 64 bits, deep nesting and lone surrogates: they
    could not be stored. A key that is there twice would be another value to another reader.
    """
    text = line.decode("utf-8")
    try:
        message = json.loads(
            text,
            parse_constant=_refuse,
            parse_float=_finite,
            parse_int=_integer,
            object_pairs_hook=_once,
        )
        if text.count("{") + text.count("[") > _DEEPEST:
            _check_depth(message)
        if "\\ud" in text.lower():
            json.dumps(message, ensure_ascii=False).encode("utf-8")
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(message, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one error for every malformed line
    return message


def _finite(word: str) -> float:
    number = float(word)
    if not math.isfinite(number):
        raise ValueError(f"{word} is too large")
    return number


def _integer(word: str) -> int:
    number = int(word) if len(word) <= _LONGEST_INTEGER else _MOST
    if not -_MOST <= number < _MOST:
        raise ValueError(f"an integer of {len(word)} characters")
    return number


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key is there twice")
    return made


def _check_depth(message: object) -> None:
    level: list[Any] = [message]
    for _ in range(_DEEPEST):
        inner = (one.values() if isinstance(one, dict) else one for one in level)
        level = [one for some in inner for one in some if isinstance(one, (dict, list))]
        if not level:
            return
    raise ValueError("nested too deeply")


def _refuse(word: str) -> float:
    raise ValueError(f"{word} is not JSON")
