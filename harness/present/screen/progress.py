"""Show the progress of a run on stderr: a live line on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Mapping
from typing import IO, TYPE_CHECKING, Any, Self

from harness import stats
from harness.columns import NS_PER_MS
from harness.devices.delegation import judge
from harness.events import (
    BuildProgress,
    CellEnded,
    Confirming,
    DeviceEvent,
    Event,
    LaunchEnded,
    LaunchStarted,
    LeaseLost,
    MeasuringStarted,
    Note,
    NotMeasured,
    Pushing,
    Reconnected,
    Reconnecting,
    Waiting,
)
from harness.present.screen import pushes
from harness.records.table.display import clean, counted, milliseconds
from harness.types import Cell

if TYPE_CHECKING:
    from rich.progress import Progress as Live
    from rich.progress import TaskID

_PLAIN_EVERY_SECONDS = 10.0
_QUIET_EVERY_SECONDS = 30.0
_SLOW = "convert"
"""The stage that runs TensorFlow, which takes tens of seconds."""

_STAGES = {"frame": "reading the .tflite"}
"""Names of stages for people; the others are steps, or `check`."""


class ScreenProgress:
    """Shows the progress of a run; receives events from several threads.

    With `quiet`, as for `--json`, it shows failures, and a line in 30 s of work. Call `close` (or leave the `with` block) at the end.
    """

    def __init__(self, *, quiet: bool = False, file: IO[str] | None = None) -> None:
        """Write to `file`, stderr by default; nothing is drawn before the first event."""
        self._file = sys.stderr if file is None else file
        self._quiet = quiet
        self._lock = threading.RLock()
        self._cells: dict[str, Cell] = {}
        self._done: set[str] = set()
        self._done_launches = 0
        self._launches = 0
        self._fresh_launches = 0
        self._bound = ""
        self._medians: dict[str, list[float]] = {}
        self._reported: set[tuple[str, str, str]] = set()
        self._printed_at = time.monotonic()
        self._pushes = pushes.PushLines()
        self._live: Live | None = None
        self._task: TaskID | None = None
        self._shows: Mapping[type[Event], Callable[[Any], None]] = {
            BuildProgress: self.build,
            MeasuringStarted: self.measuring,
            LaunchStarted: self.launch_started,
            LaunchEnded: self.launch_ended,
            CellEnded: self.cell_ended,
            Confirming: self.confirming,
            NotMeasured: self.not_measured,
            Pushing: self.pushing,
            DeviceEvent: self.device,
        }

    def __call__(self, event: Event) -> None:
        """Show an event; events without a display are ignored."""
        for kind, show in self._shows.items():
            if isinstance(event, kind):
                show(event)
                return

    def build(self, event: BuildProgress) -> None:
        """Show a stage of a build; its start only if it takes long."""
        status, seconds = event.status, event.seconds
        if self._quiet and status != "failed" and (seconds or 0.0) < _QUIET_EVERY_SECONDS:
            return
        if status == "started" and event.stage != _SLOW:
            return
        took = "" if seconds is None else f" in {seconds:.1f} s"
        endings = {"started": "...", "done": f" done{took}", "cached": " from the cache"}
        name = f"{event.model} {event.recipe or ''}".strip()
        self._print(
            f"{name}: {_STAGES.get(event.stage, event.stage)}{endings.get(status, f' {status}')}"
        )

    def measuring(self, event: MeasuringStarted) -> None:
        """Start counting the cells and the launches."""
        with self._lock:
            self._bound = "at most " if event.at_most else ""
            self._cells = {cell.id: cell for cell in event.cells}
            self._launches = event.launches
            if self._quiet:
                return
            if self._file.isatty():
                self._draw()
            else:
                cells = counted(len(event.cells), "cell")
                launches = counted(event.launches, "launch")
                self._print(f"measuring {cells}, {self._bound}{launches}")

    def launch_started(self, event: LaunchStarted) -> None:
        """Show the current launch."""
        with self._lock:
            if self._live is not None and self._task is not None:
                what = f"{_name(event.cell)}: {clean(event.order.kind)}"
                self._live.update(self._task, what=what)

    def launch_ended(self, event: LaunchEnded) -> None:
        """Count a launch and keep its median for the cell's line."""
        launch = event.launch
        with self._lock:
            self._done_launches += launch.kind in ("timed", "memory")
            if launch.kind == "timed":
                values = [
                    v for part in launch.samples if part.series == "latency" for v in part.value
                ]
                if values:
                    self._medians.setdefault(launch.cell_id, []).append(stats.median(values))
            if self._live is not None and self._task is not None:
                total = max(self._launches, self._done_launches)
                self._live.update(self._task, completed=self._done_launches, total=total)
            elif self._is_line_due():
                self._print(f"launch {self._done_launches} of {self._bound}{self._launches}")

    def _is_line_due(self) -> bool:
        every = _QUIET_EVERY_SECONDS if self._quiet else _PLAIN_EVERY_SECONDS
        return time.monotonic() - self._printed_at > every

    def cell_ended(self, event: CellEnded) -> None:
        """Show the outcome of a cell."""
        outcome = event.outcome
        with self._lock:
            self._done.add(outcome.cell.id)
            cell, failure = outcome.cell, outcome.failure
            if failure is not None:
                text = f"{failure.kind}: {failure.reason}"
            elif self._quiet:
                return
            else:
                medians = self._medians.get(cell.id)
                p50 = stats.median(medians) / NS_PER_MS if medians else None
                verdict = judge(
                    cell,
                    outcome.launches,
                    agreement=outcome.agreement,
                    selfcheck=outcome.selfcheck,
                )
                text = "ok" if verdict is None else verdict.status
                text += "" if p50 is None else f", p50 {milliseconds(p50)} ms"
            self._print(f"[{len(self._done)}/{len(self._cells)}] {_name(cell)}: {text}")

    def confirming(self, event: Confirming) -> None:
        """Show that a row is measured again with fresh pairs."""
        with self._lock:
            # Launches that an early stop saved are not made; those of all rows to confirm are added.
            self._fresh_launches += event.launches
            self._launches = self._done_launches + self._fresh_launches
        self._print(f"{clean(event.row)}: looks worse; measuring fresh pairs")

    def device(self, event: DeviceEvent) -> None:
        """Show what happened to a device."""
        device, reason = clean(event.device), clean(event.reason)
        texts = {
            Reconnecting: f"connection lost ({reason}); reconnecting",
            Waiting: f"{reason}; waiting until it is free",
            LeaseLost: f"lease lost ({reason}); taking it again",
            Note: reason,
        }
        text = texts.get(type(event))
        if isinstance(event, Reconnected):
            count = f" ({event.times} times so far)" * (event.times > 1)
            text = f"connected again after {event.seconds:.0f} s{count}"
        if text is not None:
            self._print(f"{device}: {text}")

    def pushing(self, event: Pushing) -> None:
        """Show how far a file is on its way, also with `quiet`: it can take many minutes."""
        with self._lock:
            if self._live is not None and self._task is not None:
                self._live.update(self._task, what=f"{clean(event.device)}: {pushes.text(event)}")
            elif line := self._pushes.line(event):
                self._print(line)

    def not_measured(self, event: NotMeasured) -> None:
        """Show what could not be measured: once per device and reason, not for each of its cells."""
        cell = self._cells.get(event.cell)
        device = clean(cell.device if cell else event.cell)
        with self._lock:
            known = (device, event.what, event.reason) in self._reported
            self._reported.add((device, event.what, event.reason))
        if known or self._quiet:
            return
        what = event.what if event.what == "outputs" else f"{event.what} launches"
        self._print(f"{device}: no {clean(what)}: {clean(event.reason)}")

    def close(self) -> None:
        """Remove the live line; may be called again."""
        with self._lock:
            if self._live is not None:
                self._live.stop()
                self._live = None

    def __enter__(self) -> Self:
        """Return the display itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the live line."""
        self.close()

    def _draw(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
        from rich.progress import TimeRemainingColumn as Remaining

        console = Console(file=self._file, markup=False, highlight=False, emoji=False)
        self._live = Progress(
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            Remaining(),
            TextColumn("{task.fields[what]}", markup=False),
            console=console,
            transient=True,
        )
        self._task = self._live.add_task("measuring", total=self._launches, what="")
        self._live.start()

    def _print(self, text: str) -> None:
        with self._lock:
            self._printed_at = time.monotonic()
            line = clean(text)
            encoding = getattr(self._file, "encoding", None) or "utf-8"
            line = line.encode(encoding, "replace").decode(encoding)
            if self._live is not None:
                self._live.console.print(line, markup=False, highlight=False, soft_wrap=True)
            else:
                self._file.write(line + "\n")
                self._file.flush()


def _name(cell: Cell) -> str:
    threads = f", {cell.threads} threads" if cell.threads != 1 else ""
    return clean(f"{cell.model} {cell.recipe} on {cell.device}{threads}")
