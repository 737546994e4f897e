"""Store the events of a run before they are passed on."""

from __future__ import annotations

from dataclasses import dataclass

from harness.events import (
    CellEnded,
    Confirming,
    DeviceEvent,
    Emit,
    Event,
    LaunchEnded,
    NotMeasured,
    OutputsChecked,
    Pushed,
    ignore,
)
from harness.records.store.write import RunWriter

LOGGED = (DeviceEvent, Pushed, OutputsChecked, NotMeasured, Confirming)
"""Events that get a line in log.jsonl."""


@dataclass(slots=True)
class Recorder:
    """Stores a run's events, then passes them on; may be called from several threads."""

    writer: RunWriter
    listener: Emit = ignore

    def __call__(self, event: Event) -> None:
        """Store a launch, an outcome or a log line durably. Raises StoreError."""
        if isinstance(event, LaunchEnded):
            self.writer.launch(event.launch)
        elif isinstance(event, CellEnded):
            self.writer.outcome(event.outcome)
        elif isinstance(event, LOGGED):
            self.writer.log(event.plain())
        self.listener(event)
