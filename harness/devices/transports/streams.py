"""What the transports that start processes share: reading a process's stream, and running one command."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Generic, Self, TypeVar

from harness.devices.transports.tail import OUTPUT_BYTES, Tail
from harness.errors import AgentSilent, TransportError, Unreachable
from harness.protocols import Reply

END_GRACE_SECONDS = 2.0
"""How long a process may take to end after its stdin is closed."""

SEND_STALL_SECONDS = 60.0
"""How long a process may leave its input unread."""


class ProcessStream(ABC):
    """The stream to one process; see protocols.Channel for the verbs.

    A transport's class starts the process, and moves its output into `_ready` and `_tail`.
    """

    def __init__(self, argv: Sequence[str], keep: int | None) -> None:
        """Keep up to `keep` bytes of stderr, or the default."""
        self._argv = tuple(argv)
        self._tail = Tail(keep) if keep else Tail()
        self._ready = bytearray()
        self._ended = False
        self.closed = False

    def __enter__(self) -> Self:
        """Return itself: the process ends with the block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the process; after an exception without waiting."""
        self.close(grace_seconds=0.0 if error else END_GRACE_SECONDS)

    @abstractmethod
    def send(self, data: bytes, deadline: float | None = None) -> None:
        """Write all of `data`; raises Unreachable if the process no longer reads."""

    @abstractmethod
    def finish_sending(self) -> None:
        """Close the process's stdin."""

    @abstractmethod
    def wait(self, deadline: float) -> int:
        """Return the exit code (128+N after signal N)."""

    @abstractmethod
    def close(self, grace_seconds: float = END_GRACE_SECONDS) -> None:
        """Close stdin, wait `grace_seconds`, then kill the process and its group; never raises."""

    def read(self, deadline: float) -> bytes:
        """Return at least one byte, or b"" at the end; see protocols.Channel.read."""
        while not self._ready and not self._ended:
            if self.closed:
                raise Unreachable(self._gone())
            moved = self._drain(max(0.0, deadline - time.monotonic()))
            late = time.monotonic() >= deadline
            # Output that has arrived counts; endless output on stderr is not an answer.
            if late and not (moved and (self._ready or self._ended)):
                raise AgentSilent(self._silent())
        data = bytes(self._ready)
        self._ready.clear()
        return data

    def errors(self) -> bytes:
        """Return the tail of stderr so far."""
        if not self.closed:
            self._drain(0)
        return self._tail.read()

    def _pump(self, deadline: float, *, wait: bool = True) -> None:
        """Read available output; raises AgentSilent after the deadline, even if more arrives."""
        self._drain(max(0.0, deadline - time.monotonic()) if wait else 0.0)
        if time.monotonic() >= deadline:
            raise AgentSilent(self._silent())

    @abstractmethod
    def _drain(self, seconds: float) -> bool:
        """Read output, waiting at most `seconds`; returns False if there was none."""

    @abstractmethod
    def _silent(self) -> str:
        """Return the message for a process that gave no answer in time."""

    @abstractmethod
    def _gone(self) -> str:
        """Return the message for a process that ended."""


_Stream = TypeVar("_Stream", bound=ProcessStream)


class OpenStreams(Generic[_Stream]):
    """The streams that `talk` has started; closing a transport ends them."""

    def __init__(self) -> None:
        """Start with none."""
        self._streams: list[_Stream] = []

    def add(self, stream: _Stream) -> _Stream:
        """Remember a stream, forget the closed ones, and return it."""
        self._streams = [one for one in self._streams if not one.closed]
        self._streams.append(stream)
        return stream

    def close(self) -> None:
        """End every process; never raises."""
        for stream in self._streams:
            stream.close()
        self._streams.clear()


def run_to_end(
    start: Callable[[], ProcessStream],
    argv: Sequence[str],
    timeout_seconds: float,
    stdin: bytes | None,
    where: str = "",
) -> Reply:
    """Start a process, give it its input and collect its output.

    Raises AgentSilent if the deadline passes, and TransportError if it writes more than
    OUTPUT_BYTES; `where` is the start of that message. In both cases the process is killed.
    """
    started = time.monotonic()
    deadline = started + timeout_seconds
    stdout = bytearray()
    with start() as stream:
        # A command that ends without reading its input is judged by its exit code.
        with suppress(Unreachable):
            stream.send(stdin or b"", deadline)
        stream.finish_sending()
        while data := stream.read(deadline):
            stdout += data
            if max(len(stdout), len(stream.errors())) > OUTPUT_BYTES:
                message = f"{where}{argv[0]} wrote more than {OUTPUT_BYTES} bytes and was killed"
                raise TransportError(message)
        exit_code = stream.wait(deadline)
        return Reply(
            argv=tuple(argv),
            exit_code=exit_code,
            stdout=bytes(stdout),
            stderr=stream.errors(),
            seconds=time.monotonic() - started,
        )
