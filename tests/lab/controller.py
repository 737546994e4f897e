"""Run the real `edge-harness run` in a separate process and observe its traffic with devices.

    with Controller(plan, farm, results, on_moment=moments.append) as run:
        run.wait(60.0)

`on_moment` is called for every moment (tapped.py lists them) in a thread per connection. The run waits
until it returns, so a fault that it injects happens exactly at that moment.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from .tools import LabError

_TAPPED = Path(__file__).with_name("tapped.py")
_END_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Moment:
    """One step of the traffic between the controller and a device."""

    device: str
    name: str
    what: str
    at: float
    """Time on time.monotonic()."""


@dataclass(slots=True)
class Controller:
    """A process of the command: a run, or its resumption."""

    plan: Path
    farm: Path
    results: Path
    on_moment: Callable[[Moment], None] = lambda _: None
    arguments: Sequence[str] = ()
    hang_seconds: float | None = None
    """Maximum time of a launch that hangs; None keeps the minutes that a slow board gets."""
    stderr: str = field(default="", init=False)
    """Its stderr; set after it has ended."""
    rows: Sequence[Mapping[str, Any]] = field(default=(), init=False)
    """The rows that it printed; set after it has ended by itself."""
    _process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _socket: socket.socket = field(init=False, repr=False)
    _folder: tempfile.TemporaryDirectory[str] = field(init=False, repr=False)

    def __enter__(self) -> Self:
        """Start the command."""
        self._folder = tempfile.TemporaryDirectory(prefix="edge-lab-tap-")
        path = Path(self._folder.name) / "tap"
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen(32)
        threading.Thread(target=self._listen, daemon=True).start()
        argv = [sys.executable, str(_TAPPED), str(path), "run", str(self.plan)]
        argv += ["--farm", str(self.farm), "--results", str(self.results), "--json"]
        hang = self.hang_seconds
        with self._file("log").open("wb") as log, self._file("rows").open("wb") as rows:
            self._process = subprocess.Popen(
                [*argv, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=rows,
                stderr=log,
                env=os.environ | ({} if hang is None else {"EDGE_LAB_HANG_SECONDS": str(hang)}),
            )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill the command if it still runs."""
        self.kill()
        self._socket.close()
        self._folder.cleanup()

    def wait(self, seconds: float) -> int:
        """Wait until the command ends; returns the exit code, raises TimeoutExpired."""
        code = self._process.wait(seconds)
        self.stderr = self._file("log").read_text(errors="replace")
        printed = self._file("rows").read_bytes()
        self.rows = json.loads(printed)["rows"] if printed else ()
        return code

    def reach(self, moment: threading.Event, seconds: float) -> None:
        """Wait for a moment that `on_moment` sets; raises LabError if the command ends before or the time is over."""
        deadline = time.monotonic() + seconds
        while not moment.wait(0.1):
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                self.kill()
                raise LabError(f"never reached (exit code {ended}): {self.stderr[-3000:]}")

    def kill(self) -> None:
        """Kill the command (SIGKILL), like the out-of-memory killer, and wait."""
        self._process.kill()
        self.wait(_END_SECONDS)

    def send_kill(self) -> None:
        """Send SIGKILL without waiting; for use inside of `on_moment`."""
        self._process.kill()

    def interrupt(self) -> None:
        """Send SIGINT, like Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def _file(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def _listen(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:  # closed by __exit__
                return
            threading.Thread(target=self._receive, args=(connection,), daemon=True).start()

    def _receive(self, connection: socket.socket) -> None:
        with connection, connection.makefile("rb") as lines:
            message = json.loads(lines.readline() or b"null")
            try:
                if message is not None:
                    at = time.monotonic()
                    self.on_moment(
                        Moment(message["device"], message["moment"], message["what"], at)
                    )
            finally:
                # The command may have been killed meanwhile.
                with suppress(OSError):
                    connection.sendall(b".")
