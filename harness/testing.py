"""Fakes of transports and dialects, for authors of plug-ins and for our own tests.

A fake is recognisable: its facts have the chip `fake`, its launches have the flag `simulated`.

    device = Device(name="d", profile="fake", address="fake:")
    session = Session(device, transport=FakeTransport, dialect=FakeDialect.opener(latency_ns=2e6))
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.devices.clocks import STEPPED, DeviceClock, LaunchStamps
from harness.errors import HarnessError, TransferFailed, Unsupported
from harness.protocols import (
    MAX_FILE_BYTES,
    Capabilities,
    Channel,
    OpenDialect,
    Reply,
    Transport,
)
from harness.types import (
    Covariates,
    Delegation,
    Device,
    DeviceFacts,
    Exchange,
    Launch,
    LaunchOrder,
    Push,
    Runtime,
    Samples,
    Warmup,
)

if TYPE_CHECKING:
    import numpy as np


class FakeTransport:
    """A transport to a device whose disk is a dictionary; every command succeeds without output."""

    def __init__(self, device: Device) -> None:
        """Connect to nothing."""
        self.device = device
        self.files: dict[str, bytes] = {}
        self.closed = False

    def put(self, source: Path, destination: str) -> None:
        """Store the file's bytes."""
        self.files[destination] = source.read_bytes()

    def get(self, source: str, destination: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Write bytes kept by `put`; TransferFailed where there are none, or too many."""
        if source not in self.files:
            raise TransferFailed(f"{self.device.name}: no such file {source}")
        if len(self.files[source]) > max_bytes:
            raise TransferFailed(f"{self.device.name}: {source} is over {max_bytes} bytes")
        destination.write_bytes(self.files[source])

    def run(
        self,
        argv: Sequence[str],
        timeout_seconds: float,  # noqa: ARG002 - the seam's signature
        stdin: bytes | None = None,  # noqa: ARG002 - the seam's signature
    ) -> Reply:
        """Succeed with no output."""
        return Reply(argv=tuple(argv), exit_code=0, stdout=b"", stderr=b"", seconds=0.0)

    def talk(self, argv: Sequence[str]) -> Channel:
        """Raise HarnessError: a fake dialect needs no stream."""
        raise HarnessError(f"{self.device.name}: a fake device runs no {argv[0]}")

    def close(self) -> None:
        """Set `closed`."""
        self.closed = True


class CommandsTransport:
    """A transport that runs commands and copies no files."""

    def __init__(self, device: Device) -> None:
        """Connect to nothing."""
        self._inner = FakeTransport(device)

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        """Succeed with no output."""
        return self._inner.run(argv, timeout_seconds, stdin)

    def talk(self, argv: Sequence[str]) -> Channel:
        """Refuse, as FakeTransport does."""
        return self._inner.talk(argv)

    def close(self) -> None:
        """Do nothing."""


class TalkTransport:
    """A transport with a channel only, like a serial line: no files, no commands."""

    def __init__(self, device: Device) -> None:
        """Connect to nothing."""
        self._inner = FakeTransport(device)

    def talk(self, argv: Sequence[str]) -> Channel:
        """Refuse, as FakeTransport does."""
        return self._inner.talk(argv)

    def close(self) -> None:
        """Do nothing."""


NO_FACTS: Mapping[str, Any] = dict.fromkeys(
    ("hostname", "system", "kernel", "machine", "chip", "cores", "python", "agent_digest")
)
"""For `FakeDialect(facts=...)`: a device that reports only its identity."""


class FakeDialect:
    """A dialect whose agent answers at once, with the given numbers and errors.

    `faults` maps a launch id (`LaunchOrder.launch_id`) to the errors that its next attempts raise.
    `orders` collects every order in sequence. `latencies` (by digest of the file) override
    `latency_ns`. `noise` spreads launches log-normally around them (standard deviation of the
    logarithm; a launch id always gives the same value); `runtime` gives a launch's runtime; `drift` slows each launch by that much
    relative to the one before it. `covariates` returns the covariates before and after a launch, for
    its order. Abilities that `can` lacks raise Unsupported, and without single samples every launch
    is a summary. `device_ns` is the device's monotonic clock and `host_ns` the host's; both default
    to this machine's. `spend` waits for the seconds that a timed launch would take (pass
    `time.sleep`; by default it does not wait); the launch's window is that time on both clocks.
    """

    def __init__(
        self,
        device: Device,
        *,
        latency_ns: float = 1e6,
        identity: str | None = None,
        faults: dict[str, list[HarnessError]] | None = None,
        orders: list[LaunchOrder] | None = None,
        outputs: Mapping[str, np.ndarray[Any, Any]] | None = None,
        latencies: Mapping[str, float] | None = None,
        noise: float = 0.0,
        drift: float = 0.0,
        cpu_share: float | None = None,
        covariates: Callable[[LaunchOrder], tuple[Covariates, Covariates]] | None = None,
        facts: Mapping[str, Any] | None = None,
        delegation: Delegation | None = None,
        runtime: Callable[[LaunchOrder], str] = lambda _: "fake 0",
        summary: Callable[[LaunchOrder], Literal["median", "mean"] | None] = lambda _: None,
        can: Capabilities | None = None,
        device_ns: Callable[[], int] = time.monotonic_ns,
        host_ns: Callable[[], int] = time.monotonic_ns,
        spend: Callable[[float], object] = lambda _: None,
    ) -> None:
        """Set the answers."""
        self.can = can or Capabilities(
            launches=frozenset({"timed", "memory", "bare", "accuracy", "cpu"}),
            infers=True,
            places=True,
        )
        self.device = device
        self.latency_ns = latency_ns
        self.identity = identity or f"fake-{device.name}"
        self.faults = {} if faults is None else faults
        self.orders = [] if orders is None else orders
        self.outputs = outputs or {}
        self.latencies = latencies or {}
        self.noise = noise
        self.drift = drift
        self.cpu_share = cpu_share
        self.covariates = covariates or (lambda _: (Covariates(), Covariates()))
        self.facts = facts or {}
        self.delegation = delegation or Delegation(delegate="fake")
        self.runtime = runtime
        self.summary = summary
        self.device_ns = device_ns
        self.host_ns = host_ns
        self.spend = spend
        self._clock = DeviceClock(self.exchange, host_ns)

    @classmethod
    def opener(cls, **answers: Any) -> OpenDialect:  # noqa: ANN401 - passed on to __init__
        """Return a function for `Session(dialect=...)`."""

        def open_fake(transport: Transport, device: Device) -> FakeDialect:  # noqa: ARG001 - the seam
            return cls(device, **answers)

        return open_fake

    def deploy(self, files: Mapping[str, Path]) -> tuple[Push, ...]:  # noqa: ARG002 - the seam
        """Send nothing: every file counts as present."""
        return ()

    def path_of(self, digest: str) -> str:
        """Return a path with the file's digest."""
        return f"blobs/{digest}"

    def hello(self) -> DeviceFacts:
        """Return facts with the chip `fake`."""
        known = DeviceFacts(
            identity=self.identity,
            hostname=self.device.name,
            system="fake",
            kernel="0",
            machine="fake",
            chip="fake",
            board=None,
            cores=1,
            memory_total_bytes=None,
            libc=None,
            python="3.11.0",
            runtimes=(Runtime(name="fake", version="0"),),
            agent_digest="0" * 64,
        )
        return replace(known, **self.facts)

    def launch(self, order: LaunchOrder) -> Launch:
        """Return constant samples: for a timed launch from the given latency, noise and drift."""
        self.orders.append(order)
        if order.kind not in self.can.launches:
            raise Unsupported(f"{self.device.name}: this fake makes no {order.kind} launches")
        if pending := self.faults.get(order.launch_id):
            raise pending.pop(0)
        count = order.dose.min_inferences
        summary = self.summary(order) if order.kind == "timed" else None
        if not self.can.samples and order.kind in ("timed", "cpu"):
            summary = summary or "mean"
        samples, averaged = (1, count) if summary else (count, order.inner_loop)
        timed = order.kind in ("timed", "cpu")
        series = "latency" if timed else "peak_rss"
        latency = self._latency(order)
        value = latency if timed else 20e6
        before, after = self.covariates(order)
        launch = Launch.of(
            order,
            runtime=self.runtime(order),
            delegation=self.delegation,
            wall_ns=0 if math.isnan(latency) else int(latency * count),
            load_ns=1000,
            first_ns=1000,
            warmup=Warmup(inferences=3, seconds=0.0, steady=True),
            inner_loop=order.inner_loop,
            inferences=count,
            summary=summary,
            cpu_share=self.cpu_share,
            before=before,
            after=after,
            flags=("simulated",),
            samples=(Samples.of(series, [value] * samples, count=averaged),),
        )
        return self._with_window(launch) if timed else launch

    def exchange(self) -> Exchange:
        """Read the device's clock; see protocols.Clocked."""
        return Exchange(
            sent_ns=self.host_ns(),
            arrived_ns=self.device_ns(),
            answered_ns=self.device_ns(),
            received_ns=self.host_ns(),
        )

    def _with_window(self, launch: Launch) -> Launch:
        """Spend the launch's time and add its window."""
        self._clock.before_launch()
        sent_ns, start_ns = self.host_ns(), self.device_ns()
        self.spend(launch.wall_ns / 1e9)
        end_ns, received_ns = self.device_ns(), self.host_ns()
        self._clock.after_launch()
        window = self._clock.window(
            LaunchStamps(
                sent_ns=sent_ns,
                received_ns=received_ns,
                start_ns=start_ns,
                end_ns=end_ns,
                process_start_ns=start_ns,
                process_end_ns=end_ns,
            )
        )
        stepped = window is None or window.stepped
        flags = (*launch.flags, STEPPED) if stepped else launch.flags
        return replace(launch, window=window, flags=flags)

    def _latency(self, order: LaunchOrder) -> float:
        chance = random.Random(order.launch_id)  # noqa: S311 - noise, not secrets
        shift = chance.gauss(0.0, self.noise) + self.drift * len(self.orders)
        return self.latencies.get(order.variant_digest, self.latency_ns) * math.exp(shift)

    def infer(
        self, order: LaunchOrder, inputs: Mapping[str, np.ndarray[Any, Any]]
    ) -> Mapping[str, np.ndarray[Any, Any]]:
        """Return the given outputs, for an input that runs again those of its first time."""
        self.orders.append(order)
        if not self.can.infers:
            raise Unsupported(f"{self.device.name}: this fake returns no outputs")
        rows = [b"".join(row) for row in zip(*map(_rows, inputs.values()), strict=True)]
        first = [rows.index(row) for row in rows]
        return {name: values[first] for name, values in self.outputs.items()}

    def close(self) -> None:
        """Do nothing: there is no agent."""


def _rows(array: np.ndarray[Any, Any]) -> list[bytes]:
    return [row.tobytes() for row in array]
