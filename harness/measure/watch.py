"""Watch over the launches of a device: what changed on it, and what launches left running."""

from __future__ import annotations

from dataclasses import dataclass, field

from harness.events import Emit, Note, ignore
from harness.measure import sameness
from harness.measure.sessions import Session
from harness.types import Launch, LaunchOrder


@dataclass(slots=True, kw_only=True)
class LaunchWatch:
    """Compares each launch of a device with the ones before it."""

    session: Session
    emit: Emit = ignore
    _runtimes: dict[str | None, str] = field(default_factory=dict, init=False)
    """The runtime of the first launch, by the order for it: a gate may order two."""
    _governor: str | None = field(default=None, init=False)
    _left: tuple[str, ...] = field(default=(), init=False)

    def expect(self, ordered: str | None, runtime: str) -> None:
        """Note the runtime of a stored launch, and the order for it: later ones must have the same."""
        self._runtimes.setdefault(ordered, runtime)

    def see(self, order: LaunchOrder, launch: Launch) -> None:
        """Report what is new; raises DeviceChanged if the launch is of another runtime or kernel.

        The governor is a condition: its change is reported, and the launch is flagged.
        """
        name = self.session.device.name
        known = self._runtimes.setdefault(order.runtime, launch.runtime)
        differences = sameness.of_launch(self.session.facts, known, launch)
        if differences:
            raise sameness.changed(name, differences)
        for moment, found in (("before", launch.before), ("during", launch.after)):
            if self._governor and found.governor and found.governor != self._governor:
                reason = f"the governor changed from {self._governor} to {found.governor}"
                self.emit(Note(device=name, reason=f"{reason} {moment} launch {launch.id}"))
            self._governor = found.governor or self._governor
        if set(launch.left_running) - set(self._left):
            *names, last = launch.left_running
            left = f"{', '.join(names)} and {last}" if names else last
            self.emit(
                Note(
                    device=name,
                    reason=f"launch {launch.id} ran beside processes that launches left running: "
                    f"{left}; rows are flagged left_running until these end",
                )
            )
        self._left = launch.left_running
