"""The bench: launch files on one device.

`run`, `gate`, `selftest`, `layers`, `search` and `doctor`'s trial launches all measure through it.
The bench holds the lease and the conditions, checks outputs, makes only launches that the dialect
supports, repeats what a broken connection cost (:mod:`.recovery`), and always undoes the
conditions. The caller decides what to measure and what
a result means.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from harness.devices import throttling
from harness.devices.delegation import OUTPUTS_DRIFTED, is_software
from harness.errors import (
    AgentError,
    AgentSilent,
    Crashed,
    HarnessError,
    Unsupported,
)
from harness.events import (
    Emit,
    LaunchEnded,
    LaunchStarted,
    Note,
    NotMeasured,
    OutputsChecked,
    Pushed,
    ignore,
)
from harness.measure import blocks, leases, output_check
from harness.measure.conditions import REAL_TIME, HeldConditions, WaitClock
from harness.measure.meters import OpenMeters
from harness.measure.output_check import (
    UNCHECKED,
    CheckedOutputs,
    InaccurateOutputs,
    InputSequence,
)
from harness.measure.recovery import Recovery
from harness.measure.sessions import Session
from harness.measure.watch import LaunchWatch
from harness.optimize import reference
from harness.protocols import StopFlag
from harness.types import (
    DEFAULT_CONDITIONS,
    DEFAULT_HOST,
    Cell,
    Conditions,
    HostLimits,
    Kind,
    Launch,
    LaunchOrder,
    Profile,
)

LEFT_RUNNING = "left_running"
"""The flag of launches beside which a process of an earlier one still ran, or that left one."""

T = TypeVar("T")


@dataclass(slots=True, kw_only=True)
class Bench:
    """Launches files on one connected device; not safe for use by several threads.

    Use it in a `with` block, which undoes the conditions at its end. The session stays open.
    """

    session: Session
    emit: Emit = ignore
    profile: Profile | None = None
    conditions: Conditions = DEFAULT_CONDITIONS
    limits: HostLimits = DEFAULT_HOST
    """The limits of the reference outputs on this host."""
    stop: StopFlag = field(default_factory=threading.Event)
    timing: WaitClock = REAL_TIME
    recovery: Recovery = field(init=False)
    watch: LaunchWatch = field(init=False)
    held: HeldConditions = field(init=False)
    meters: OpenMeters = field(init=False)

    def __post_init__(self) -> None:
        """Prepare the conditions; nothing is changed on the device yet."""
        self.held = HeldConditions(
            session=self.session,
            wanted=self.conditions,
            profile=self.profile,
            timing=self.timing,
            emit=self.emit,
            stop=self.stop,
        )
        self.recovery = Recovery(
            session=self.session, emit=self.emit, stop=self.stop, timing=self.timing
        )
        self.meters = OpenMeters(self.session.device)
        self.watch = LaunchWatch(session=self.session, emit=self.emit)

    def __enter__(self) -> Self:
        """Open the device's meter."""
        self.meters.open(self.session, self.emit)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Undo the conditions."""
        self.held.undo()
        self.meters.close()

    @property
    def name(self) -> str:
        """The device's name."""
        return self.session.device.name

    def can_launch(self, kind: Kind) -> bool:
        """Whether the dialect can make launches of this kind."""
        return kind in self.session.dialect.can.launches

    # --- the connection -----------------------------------------------------------------------

    def bring(self, files: Mapping[str, Path]) -> None:
        """Take the lease and send these files (sha256 to path) to the device."""
        self.recovering(lambda: self.session.bring(files))
        self.recovery.progressed()

    def recovering(self, action: Callable[[], T], work: str | None = None) -> T:
        """Run the action; if the connection breaks or the lease is lost, reconnect and repeat it.

        `work` names a launch, which may break the device itself. Raises as Recovery.run.
        """
        try:
            return self.recovery.run(action, work)
        finally:
            self._report()

    def recover(self, error: HarnessError) -> None:
        """After a failed launch, reconnect if the agent no longer answers."""
        if isinstance(error, AgentSilent | Crashed):
            self.recovery.ensure_answering()

    def settle(self) -> None:
        """Apply the conditions on the current connection, so that their state is known."""
        self.recovering(self.held.settle)

    def _report(self) -> None:
        """Report the files sent and the device's notes since the last report."""
        pushes, self.session.pushed = self.session.pushed, []
        for push in pushes:
            self.emit(Pushed(device=self.name, push=push))
        for reason in leases.notes(self.session.dialect):
            self.emit(Note(device=self.name, reason=reason))

    # --- launches -----------------------------------------------------------------------------

    def launch(
        self,
        cell: Cell,
        order: LaunchOrder,
        *,
        flags: Sequence[str] = (),
        until: float = math.inf,
    ) -> Launch:
        """Make a launch under the conditions, emit it (which stores it) and return it.

        `until` limits the wait for a cool device, on the bench's clock. Raises the errors of the
        dialect.
        """
        heat = self._ready(until)
        self.emit(LaunchStarted(cell=cell, order=order))
        launch = self._launched(order)
        self.watch.see(order, launch)
        known = (*_own_flags(cell, launch), *self._flags(launch), *heat, *flags)
        launch = replace(launch, flags=tuple(dict.fromkeys(known)))
        self.emit(LaunchEnded(launch=launch))
        return launch

    def optional_launch(self, cell: Cell, order: LaunchOrder) -> Launch | None:
        """Make a launch that a row does not require; if the device cannot, emit that and return None."""
        if not self.can_launch(order.kind):
            reason = f"the dialect of {self.name} makes no {order.kind} launches"
            self.emit(NotMeasured(cell=cell.id, what=order.kind, reason=reason))
            return None
        try:
            return self.launch(cell, order)
        except Unsupported as error:
            self.emit(NotMeasured(cell=cell.id, what=order.kind, reason=str(error)))
            return None

    def pilot(self, cell: Cell, order: LaunchOrder, until: float = math.inf) -> float:
        """Make a launch that is not kept; return the median time per inference, ns."""
        self._ready(until)
        self.emit(LaunchStarted(cell=cell, order=order))
        launch = self._launched(order)
        latencies = sorted(
            value for part in launch.samples if part.series == "latency" for value in part.value
        )
        if not latencies:
            raise AgentError(f"{self.name}: a launch of {cell.recipe} brought no latency")
        return latencies[len(latencies) // 2]

    def trial(self, order: LaunchOrder) -> Launch:
        """Make a launch that belongs to no cell: it is returned, not kept."""
        self._ready(math.inf)
        return self._launched(order)

    def _ready(self, until: float) -> tuple[str, ...]:
        self.held.settle()
        return self.held.wait(until)

    def _launched(self, order: LaunchOrder) -> Launch:
        """Make a launch; if it crashes, name the delegate library that was loaded in the process."""
        placed = self.held.place(self._with_delegate(order))
        try:
            with self.meters.over(placed) as metered:
                launch = self.session.dialect.launch(placed)
            self.recovery.progressed()
        except Crashed as error:
            if placed.delegate is None:
                raise
            raise Crashed(
                f"{error}; the process had loaded {placed.delegate}: a delegate that was built for "
                "another version of the runtime can crash like this"
            ) from error
        return replace(launch, samples=(*launch.samples, *metered.samples))

    def _with_delegate(self, order: LaunchOrder) -> LaunchOrder:
        """Add the delegate library and options of the order's target, from profile and farm."""
        if order.delegate is not None or order.delegate_options:
            return order
        known = self.profile.accelerators if self.profile else ()
        own = self.session.device.delegate_options.get(order.target, {})
        found = next((one for one in known if one.target == order.target), None)
        if found is None:
            return replace(order, delegate_options=own)
        return replace(
            order,
            delegate=found.external_delegate,
            delegate_options={**found.options, **own},
        )

    def _flags(self, launch: Launch) -> list[str]:
        flags = []
        adapter = launch.delegation.adapter
        if "emulated" in self.session.device.tags or (adapter and is_software(adapter)):
            flags.append("emulated")
        governors = {launch.before.governor, launch.after.governor or launch.before.governor}
        if governors != {"performance"} and not self.held.fixed_performance:
            flags.append("uncontrolled")
        if launch.left_running:
            flags.append(LEFT_RUNNING)
        if (
            self.profile
            and self.profile.xnnpack
            and launch.kind in ("timed", "memory")
            and launch.delegation.delegate == "none"
        ):
            flags.append("no_xnnpack")
        if launch.kind == "timed":
            flags += throttling.flags(
                launch.before,
                launch.after,
                pinned_mhz=self.held.pinned_mhz,
                hot_celsius=self.profile.thermal.hot_celsius if self.profile else None,
            )
        return flags

    # --- outputs ------------------------------------------------------------------------------

    def check(self, cell: Cell, runtime: str | None = None) -> CheckedOutputs:
        """Check the device's outputs before any timing; see :mod:`harness.measure.output_check`.

        The result has nothing if there are no inputs, or if the device returns no outputs (with an
        event). `runtime` is as in a LaunchOrder. Raises InaccurateOutputs if the outputs are wrong.
        """
        if cell.check_inputs is None:
            return UNCHECKED
        if not self.session.dialect.can.infers:
            return self._no_outputs(cell, f"the dialect of {self.name} returns no outputs")
        inputs = reference.load_inputs(cell.check_inputs)
        if not inputs:
            return self._no_outputs(cell, "the file takes no input")
        sequence = InputSequence.of(inputs)
        order = self._with_delegate(replace(blocks.accuracy(cell), runtime=runtime))
        try:
            outputs = self.session.dialect.infer(self.held.place(order), sequence.inputs)
            self.recovery.progressed()
        except Unsupported as error:
            return self._no_outputs(cell, str(error))
        variant = blocks.built(cell)
        try:
            checked = output_check.evaluate(cell, variant, sequence, outputs, self.limits)
        except InaccurateOutputs as error:
            self._report_check(cell, error.checked)
            raise
        self._report_check(cell, checked)
        return checked

    def _report_check(self, cell: Cell, checked: CheckedOutputs) -> None:
        event = OutputsChecked(
            cell=cell.id, agreement=checked.agreement, selfcheck=checked.selfcheck
        )
        self.emit(event)

    def _no_outputs(self, cell: Cell, reason: str) -> CheckedOutputs:
        self.emit(NotMeasured(cell=cell.id, what="outputs", reason=reason))
        return UNCHECKED


def _own_flags(cell: Cell, launch: Launch) -> tuple[str, ...]:
    """Return the flags of a launch's answer; a file with a state changes its outputs by design."""
    if OUTPUTS_DRIFTED not in launch.flags:
        return launch.flags
    if "unrepeatable" not in output_check.expected_findings(blocks.built(cell)):
        return launch.flags
    return tuple(flag for flag in launch.flags if flag != OUTPUTS_DRIFTED)


def launch_of(cell: Cell) -> str:
    """Return the name of a cell's launches in a failure."""
    return f"a launch of {cell.model} {cell.recipe}"
