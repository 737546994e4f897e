"""The events of building and measuring: typed, picklable, in one stream.

The store, the screen, a log and other processes receive the same events; each handles the kinds it
knows and ignores the others. An event is a frozen dataclass of plain data, so it can be pickled to
another process and written as a JSON line, in which `name` is the value of the key `event`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Literal

from harness.types import (
    Agreement,
    Cell,
    Launch,
    LaunchOrder,
    Outcome,
    Push,
    PushProgress,
    SelfCheck,
)

BuildStatus = Literal["started", "done", "cached", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base class of events; `name` identifies the kind in a log."""

    name: ClassVar[str] = "event"

    def plain(self) -> dict[str, Any]:
        """Return the event as plain data for a log line."""
        return {"event": self.name, **asdict(self)}


# --- building ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildProgress(Event):
    """A stage of a build started, ended, failed, or was found in the cache."""

    name: ClassVar[str] = "build"
    model: str
    recipe: str | None
    """None for a stage that several recipes share."""
    stage: str
    """`convert`, a step's name, or `check`."""
    status: BuildStatus
    seconds: float | None = None
    peak_rss_bytes: int | None = None
    """Peak resident memory (VmHWM) of the worker so far."""


# --- measuring -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RunOpened(Event):
    """The run that stores the launches exists: new, or continued."""

    name: ClassVar[str] = "run"
    run: str
    """Its id."""
    kept: str = ""
    """What a command that is stopped says about the run: what is kept, and how to go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuringStarted(Event):
    """Measuring starts; has the cells and the number of launches to make."""

    name: ClassVar[str] = "measuring"
    cells: tuple[Cell, ...]
    launches: int
    at_most: bool = False
    """Whether `launches` is an upper limit."""

    def plain(self) -> dict[str, Any]:
        """Return the counts; the cells are in run.json."""
        return {"event": self.name, "cells": len(self.cells), "launches": self.launches}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchStarted(Event):
    """A launch starts."""

    name: ClassVar[str] = "launch_started"
    cell: Cell
    order: LaunchOrder

    def plain(self) -> dict[str, Any]:
        """Return the ids of the cell and the launch."""
        return {"event": self.name, "cell": self.cell.id, "launch": self.order.launch_id}


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchEnded(Event):
    """A launch ended; has its samples. A store makes it durable before it returns."""

    name: ClassVar[str] = "launch"
    launch: Launch

    def plain(self) -> dict[str, Any]:
        """Return the ids of the cell and the launch; its journal line has the rest."""
        return {"event": self.name, "cell": self.launch.cell_id, "launch": self.launch.id}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputsChecked(Event):
    """A device's outputs were checked: against the host's if there is a reference, and by themselves."""

    name: ClassVar[str] = "checked"
    cell: str
    agreement: Agreement | None = None
    selfcheck: SelfCheck | None = None

    def plain(self) -> dict[str, Any]:
        """Return the cell's id and the fields of both results."""
        return {
            "event": self.name,
            "cell": self.cell,
            **({} if self.agreement is None else asdict(self.agreement)),
            **({} if self.selfcheck is None else {"selfcheck": asdict(self.selfcheck)}),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class NotMeasured(Event):
    """An optional measurement of a cell was left out: the dialect cannot do it, or it failed."""

    name: ClassVar[str] = "not_measured"
    cell: str
    what: str
    """`outputs`, or a kind of launch: `memory`, `bare`, `cpu`."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CellEnded(Event):
    """A cell has its outcome."""

    name: ClassVar[str] = "outcome"
    outcome: Outcome

    def plain(self) -> dict[str, Any]:
        """Return the cell's id; outcomes.jsonl has the rest."""
        return {"event": self.name, "cell": self.outcome.cell.id}


# --- devices -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceEvent(Event):
    """Base class of events of a device, with the reason as text."""

    device: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Waiting(DeviceEvent):
    """Another user holds the lease, and the controller waits for it."""

    name: ClassVar[str] = "waiting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnecting(DeviceEvent):
    """The connection broke and is being opened again."""

    name: ClassVar[str] = "reconnecting"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reconnected(DeviceEvent):
    """The device answers again."""

    name: ClassVar[str] = "reconnected"
    times: int = 0
    """How often the connection was opened again so far."""
    seconds: float = 0.0
    """How long the device was away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseLost(DeviceEvent):
    """The lease was lost during a measurement; the reason says how."""

    name: ClassVar[str] = "lease_lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Note(DeviceEvent):
    """Any other notice about a device."""

    name: ClassVar[str] = "note"


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushing(Event):
    """A file is on its way to a device; at most about once a second."""

    name: ClassVar[str] = "pushing"
    device: str
    progress: PushProgress

    def plain(self) -> dict[str, Any]:
        """Return the device's name, the progress's fields and the time left."""
        left = self.progress.seconds_left
        known = asdict(self.progress)
        file = known.pop("name")
        return {
            "event": self.name,
            "device": self.device,
            "file": file,
            **known,
            "seconds_left": left,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed(Event):
    """A file was sent to a device."""

    name: ClassVar[str] = "pushed"
    device: str
    push: Push

    def plain(self) -> dict[str, Any]:
        """Return the device's name and the transfer's fields."""
        return {"event": self.name, "device": self.device, **asdict(self.push)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Confirming(Event):
    """A gate found a row worse and measures fresh pairs of it.

    `launches` are those that it adds to the rows before it: rows of a contest share their launches.
    """

    name: ClassVar[str] = "confirming"
    row: str
    reason: str
    launches: int


class Stopped(Exception):
    """The work was asked to stop, or the consumer of its events left."""


Emit = Callable[[Event], None]
"""Handles an event, and returns after it has been handled."""


def ignore(event: Event) -> None:
    """Ignore an event."""
