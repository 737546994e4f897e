"""The real `edge-harness run` as a process of its own, and what its devices see of it.

    with Controller(plan, farm, results, hear=moments.append) as run:
        run.wait(60.0)

`hear` is told of every moment (tapped.py lists them) in a thread of that device, and the run waits
for its return: what it does to the device happens just then.
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
    """Something passes between the controller and a device."""

    device: str
    name: str
    what: str
    at: float
    """On time.monotonic()."""


@dataclass(slots=True)
class Controller:
    """One run of the command, or its resumption."""

    plan: Path
    farm: Path
    results: Path
    hear: Callable[[Moment], None] = lambda _: None
    arguments: Sequence[str] = ()
    hang_seconds: float | None = None
    """How long a launch may hang, instead of the minutes that a slow board is given."""
    said: str = field(default="", init=False)
    """What it wrote to stderr; known when it has ended."""
    rows: Sequence[Mapping[str, Any]] = field(default=(), init=False)
    """What it printed; known when it has ended by itself."""
    _process: subprocess.Popen[bytes] = field(init=False, repr=False)
    _ear: socket.socket = field(init=False, repr=False)
    _folder: tempfile.TemporaryDirectory[str] = field(init=False, repr=False)

    def __enter__(self) -> Self:
        """Start it."""
        self._folder = tempfile.TemporaryDirectory(prefix="edge-lab-ear-")
        path = Path(self._folder.name) / "ear"
        self._ear = socket.socket(socket.AF_UNIX)
        self._ear.bind(str(path))
        self._ear.listen(32)
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
        """End it, however far it is."""
        self.kill()
        self._ear.close()
        self._folder.cleanup()

    def wait(self, seconds: float) -> int:
        """Wait for its end; returns the exit code, raises TimeoutExpired."""
        code = self._process.wait(seconds)
        self.said = self._file("log").read_text(errors="replace")
        printed = self._file("rows").read_bytes()
        self.rows = json.loads(printed)["rows"] if printed else ()
        return code

    def reach(self, moment: threading.Event, seconds: float) -> None:
        """Wait for a moment that `hear` sets; raises LabError where it ends before or is late."""
        deadline = time.monotonic() + seconds
        while not moment.wait(0.1):
            ended = self._process.poll()
            if ended is not None or time.monotonic() > deadline:
                self.kill()
                raise LabError(f"never reached (exit code {ended}): {self.said[-3000:]}")

    def kill(self) -> None:
        """Kill it (SIGKILL), as the machine's out-of-memory killer would."""
        self._process.kill()
        self.wait(_END_SECONDS)

    def strike(self) -> None:
        """Kill it and do not wait; for whoever hears a moment of it."""
        self._process.kill()

    def interrupt(self) -> None:
        """Press Ctrl-C."""
        self._process.send_signal(signal.SIGINT)

    def _file(self, name: str) -> Path:
        return Path(self._folder.name) / name

    def _listen(self) -> None:
        while True:
            try:
                there, _ = self._ear.accept()
            except OSError:  # closed: nobody listens any more
                return
            threading.Thread(target=self._hear, args=(there,), daemon=True).start()

    def _hear(self, there: socket.socket) -> None:
        with there, there.makefile("rb") as lines:
            told = json.loads(lines.readline() or b"null")
            try:
                if told is not None:
                    at = time.monotonic()
                    self.hear(Moment(told["device"], told["moment"], told["what"], at))
            finally:
                # It may have been killed meanwhile.
                with suppress(OSError):
                    there.sendall(b".")
