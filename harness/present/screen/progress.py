"""How a run goes on: a live line on a terminal, plain lines elsewhere; always on stderr."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Protocol, Self

from harness import stats
from harness.columns import NS_PER_MS
from harness.devices.delegation import judge
from harness.records.table.display import clean, milliseconds
from harness.types import Cell, Launch, LaunchOrder, Outcome

if TYPE_CHECKING:
    from rich.progress import Progress as Live
    from rich.progress import TaskID

_PLAIN_EVERY_SECONDS = 10.0
_SLOW = "convert"
"""The stage that TensorFlow makes; it takes tens of seconds."""


class BuildEvent(Protocol):
    """A stage of a build began, ended, failed, or was in the cache (harness.optimize)."""

    @property
    def model(self) -> str:
        """The model's name."""

    @property
    def recipe(self) -> str | None:
        """The recipe's name; None for a stage that several share."""

    @property
    def stage(self) -> str:
        """What is done: `convert`, a step's name, `check`."""

    @property
    def status(self) -> str:
        """One of started, done, cached, failed."""

    @property
    def seconds(self) -> float | None:
        """How long it took."""


class Progress:
    """Tells a person how a run goes on; its verbs may be called from several threads.

    `quiet` leaves only what went wrong. Call `close` (or leave the `with`) at the end.
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
        self._bound = ""
        self._medians: dict[str, list[float]] = {}
        self._told_at = time.monotonic()
        self._live: Live | None = None
        self._task: TaskID | None = None

    def build_event(self, event: BuildEvent) -> None:
        """Tell of a stage of a build; of its start only where it takes long."""
        status, seconds = event.status, event.seconds
        if (self._quiet and status != "failed") or (status == "started" and event.stage != _SLOW):
            return
        took = "" if seconds is None else f" in {seconds:.1f} s"
        words = {"started": "...", "done": f" done{took}", "cached": " from the cache"}
        name = f"{event.model} {event.recipe or ''}".strip()
        self._say(f"{name}: {event.stage}{words.get(status, f' {status}')}")

    def measuring(self, cells: Sequence[Cell], launches: int, *, at_most: bool = False) -> None:
        """Start counting: these cells, this many launches, or as many at most."""
        with self._lock:
            self._bound = "at most " if at_most else ""
            self._cells = {cell.id: cell for cell in cells}
            self._launches = launches
            if self._quiet:
                return
            if self._file.isatty():
                self._draw()
            else:
                self._say(f"measuring {len(cells)} cells, {self._bound}{launches} launches")

    def launch_started(self, cell: Cell, order: LaunchOrder) -> None:
        """Show which launch is under way."""
        with self._lock:
            if self._live is not None and self._task is not None:
                self._live.update(self._task, what=f"{_name(cell)}: {clean(order.kind)}")

    def launch_done(self, launch: Launch) -> None:
        """Count a launch and keep its median for the cell's line."""
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
            elif not self._quiet and time.monotonic() - self._told_at > _PLAIN_EVERY_SECONDS:
                self._say(f"launch {self._done_launches} of {self._bound}{self._launches}")

    def cell_done(self, outcome: Outcome) -> None:
        """Tell what became of a cell."""
        with self._lock:
            self._done.add(outcome.cell.id)
            cell, failure = outcome.cell, outcome.failure
            if failure is not None:
                told = f"{failure.kind}: {failure.reason}"
            elif self._quiet:
                return
            else:
                medians = self._medians.get(cell.id)
                p50 = stats.median(medians) / NS_PER_MS if medians else None
                verdict = judge(cell, outcome.launches, agreement=outcome.agreement)
                told = "ok" if verdict is None else verdict.status
                told += "" if p50 is None else f", p50 {milliseconds(p50)} ms"
            self._say(f"[{len(self._done)}/{len(self._cells)}] {_name(cell)}: {told}")

    def note(self, event: Mapping[str, Any]) -> None:
        """Tell of an event that a person waits on: a lost device, a reconnection."""
        word, device = clean(event.get("event", "")), clean(event.get("device", ""))
        if word == "reconnecting":
            self._say(f"{device}: connection lost ({clean(event.get('reason', ''))}); reconnecting")
        elif word == "confirming":
            with self._lock:
                # What was spared by stopping early is spared; the fresh pairs come on top.
                self._launches = self._done_launches + int(event.get("launches", 0))
            self._say(f"{clean(event.get('row', ''))}: looks worse; measuring fresh pairs")
        elif word == "waiting":
            self._say(f"{device}: {clean(event.get('reason', ''))}; waiting until it is free")
        elif word == "lease_lost":
            self._say(f"{device}: lost to somebody else ({clean(event.get('reason', ''))})")
        elif word == "reconnected":
            self._say(f"{device}: connected again")

    def device_lost(self, device: str, reason: str) -> None:
        """Tell that the rest of a device's cells cannot be measured."""
        self._say(f"{clean(device)}: given up: {clean(reason)}")

    def close(self) -> None:
        """Take the live line away; may be called again."""
        with self._lock:
            if self._live is not None:
                self._live.stop()
                self._live = None

    def __enter__(self) -> Self:
        """Give the display itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Take the live line away."""
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

    def _say(self, text: str) -> None:
        with self._lock:
            self._told_at = time.monotonic()
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
