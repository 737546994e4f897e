"""The protocols that plug-ins implement, with at most five methods each.

A plug-in is found by name through an entry point (:mod:`harness.plugins`), also the shipped ones.
CONTRIBUTING.md shows each in ten lines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np

    from harness.events import Emit, Event
    from harness.types import (
        Compiled,
        Device,
        DeviceFacts,
        Direction,
        Exchange,
        Kind,
        Launch,
        LaunchOrder,
        Push,
        PushProgress,
        Samples,
    )


MAX_FILE_BYTES = 1 << 30
"""The maximum size of a file that is copied from a device, such as an output of an inference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The result of one command, with the command itself."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float


class Channel(Protocol):
    """A two-way byte stream to one process on a device."""

    def send(self, data: bytes) -> None:
        """Write all of `data`; raises Unreachable if the stream is broken."""

    def read(self, deadline: float) -> bytes:
        """Return at least one byte, or b"" at the end of the stream.

        `deadline` is on time.monotonic(); raises AgentSilent if it passes first.
        """

    def errors(self) -> bytes:
        """Return the end of the process's stderr so far, of limited length."""

    def close(self) -> None:
        """End the process and the stream; never raises."""


@runtime_checkable
class Transport(Protocol):
    """A connection to one device. Every call has a deadline.

    Every transport has a channel, and it may also be :class:`Files` and :class:`Commands`. A serial
    line is neither. :mod:`harness.devices.abilities` narrows the type of a transport.
    """

    def talk(self, argv: Sequence[str]) -> Channel:
        """Start a process and return the stream to it.

        A transport that reaches one fixed program (a serial line) ignores `argv`.
        """

    def close(self) -> None:
        """Close the connection; never raises."""


@runtime_checkable
class Files(Protocol):
    """A transport that can copy files."""

    def put(self, source: Path, destination: str) -> None:
        """Copy a file to exactly `destination`, creating its folder.

        Not atomic: callers copy to a `.part` file, then check its digest, fsync and rename it. Only
        its owner may read the copy (0600), whatever the account's umask. Raises TransferFailed
        (with the file and the bytes so far) or Unreachable.
        """

    def get(self, source: str, destination: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a file from the device; `destination` is created completely or not at all.

        Raises TransferFailed, also if the file has more than `max_bytes`, whatever size the device
        reports.
        """


@runtime_checkable
class Commands(Protocol):
    """A transport that can run commands."""

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        """Run one command without a shell and wait for it."""


@runtime_checkable
class FullTransport(Transport, Files, Commands, Protocol):
    """A transport with channels, files and commands, as an agent on a Linux board needs."""


@runtime_checkable
class ReportsProgress(Protocol):
    """A transport that reports how far a copy to the device is, several times a second.

    Optional: a session sets `on_progress` after it has connected.
    """

    on_progress: Callable[[PushProgress], None]


class OpenTransport(Protocol):
    """An entry point of the group `harness.transports`; its name is the address's scheme."""

    def __call__(self, device: Device, /) -> Transport:
        """Connect; raises Unreachable, HostKeyUnknown or ConfigError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportPlugin:
    """An entry point of the group `harness.transports` for a transport with options or a dialect.

    A plain :class:`OpenTransport` has no options and uses the default dialect.
    """

    open: OpenTransport
    options: type | None = None
    """A frozen dataclass whose fields are the keys of farm.toml, each with a default.

    A field of type `Path` is a file of this host; a relative path is relative to farm.toml.
    """
    dialect: str | None = None
    """The dialect of devices with such an address, if neither the farm nor the profile has one; None
    for the default (harness.devices.opening.DEFAULT_DIALECT)."""
    dialect_options: Callable[[], Mapping[str, Any]] = dict
    """Returns defaults of the dialect's options that differ from the dialect's own defaults."""
    account: Callable[[Device], str] | None = None
    """Returns the account that commands run as, without connecting. Dialects give each account a
    default folder of its own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """The capabilities of a dialect. The bench uses nothing else; columns that need more are null."""

    launches: frozenset[Kind] = frozenset({"timed"})
    """The kinds of launch that it can make."""
    infers: bool = False
    """Whether it takes inputs and returns outputs (`infer`)."""
    samples: bool = True
    """Whether a launch has one sample per inference; if not, its only sample is a summary."""
    places: bool = False
    """Whether it applies `LaunchOrder.processors`."""
    caches: bool = False
    """Whether it applies `LaunchOrder.cache`."""


class Dialect(Protocol):
    """The protocol of one kind of agent, used over a transport."""

    can: Capabilities

    def deploy(self, files: Mapping[str, Path]) -> Sequence[Push]:
        """Send the agent and these files (by sha256) to the device, except those already there.

        Returns the files that were sent.
        """

    def hello(self) -> DeviceFacts:
        """Return the facts that the device reports."""

    def launch(self, order: LaunchOrder) -> Launch:
        """Make one launch and return it; raises an AgentError or a TransportError."""

    def infer(
        self, order: LaunchOrder, inputs: Mapping[str, np.ndarray[Any, Any]]
    ) -> Mapping[str, np.ndarray[Any, Any]]:
        """Run the file on these inputs, each (n, ...) in the file's own dtype.

        Returns each output as (n, ...), by its tensor name in the file.
        """

    def close(self) -> None:
        """End the agent; never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """The user that holds a device's lease."""

    name: str
    seconds: float
    """How long the lease lasts unless it is renewed."""
    is_this: bool
    """Whether this process itself holds it, over another connection."""


@runtime_checkable
class Leasing(Protocol):
    """A dialect whose devices several controllers can reach; one of them holds the lease.

    Optional: a device with a Dialect without these methods belongs to the host it is connected to.
    The lease is stored on the device, so no other service is needed.
    """

    def holder(self) -> Holder | None:
        """Return the user that holds the lease; None if it is free."""

    def hold(self) -> None:
        """Take the lease and keep it until `release` or `close`; do nothing if it is held already.

        Raises LeaseError while another user holds the lease.
        """

    def release(self) -> None:
        """Release the lease; never raises."""


@runtime_checkable
class TakesNotes(Protocol):
    """A dialect that reports what happened on the device besides its answers.

    Optional. The bench shows and stores the notes.
    """

    def take_notes(self) -> Sequence[str]:
        """Return the notes since the last call, as that the lease file had to be written again."""


@runtime_checkable
class KeepsFiles(Protocol):
    """A dialect whose deployed files are files on the device, which other programs can read.

    Optional: a microcontroller has no files.
    """

    def path_of(self, digest: str) -> str:
        """Return the path of a deployed file (by sha256) on the device."""


@runtime_checkable
class TimesOperators(Protocol):
    """A dialect whose device has the vendor's benchmark_model, which can time operators.

    Optional; `layers` uses it. Else a tool in the device's PATH, or truncated graphs.
    """

    def profiler(self) -> Sequence[str] | None:
        """Return the words that start the tool on the device; None if it times no operators."""


@runtime_checkable
class Clocked(Protocol):
    """A dialect whose device's monotonic clock can be read.

    Optional. harness.devices.clocks.DeviceClock calls it around each launch. Without it, a dialect
    whose device reports when its launch ran passes no readings to harness.devices.clocks.window;
    one whose device reports no times leaves `Launch.window` None.
    """

    def exchange(self) -> Exchange:
        """Read the device's clock once; not called during a launch.

        Raises AgentError if the device reports no clock, and what the transport raises.
        """


class OpenDialect(Protocol):
    """An entry point of the group `harness.dialects`."""

    def __call__(self, transport: Transport, device: Device, /) -> Dialect:
        """Make the dialect; it sends nothing before `deploy` or `hello`.

        Raises Unsupported if the transport does not have an ability that the dialect needs.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectPlugin:
    """An entry point of the group `harness.dialects` for a dialect with options.

    A plain :class:`OpenDialect` has no options.
    """

    open: OpenDialect
    options: type | None = None
    """As in :class:`TransportPlugin`. If a dialect stores files on the device, its option for the
    folder is `workdir`."""


class Meter(AbstractContextManager["Meter"], Protocol):
    """An instrument or sensor that is read during a launch: entered before it, left after it.

    Raises MeterError. If a meter fails, its samples are lost but not the launch.
    """

    def samples(self) -> tuple[Samples, ...]:
        """Return the samples since it was entered, one series per quantity (`power`, in mW)."""


class OpenMeter(Protocol):
    """An entry point of the group `harness.meters`; the farm's key `meter` is its name."""

    def __call__(self, device: Device, transport: Transport) -> Meter:
        """Open the meter with `device.meter_options`; raises MeterError or ConfigError.

        `transport` is connected to the device, for a sensor on the board itself.
        """


class StopFlag(Protocol):
    """A flag that stops work early, such as a threading.Event."""

    def is_set(self) -> bool:
        """Whether to stop."""


class Work(Protocol):
    """Work for an engine; it is picklable and reports everything as events."""

    def __call__(self, emit: Emit, stop: StopFlag) -> None:
        """Do the work; `emit` returns after the event has been handled."""


class Engine(Protocol):
    """Runs work, in a thread of this process or on another host."""

    def submit(self, work: Work, stop: StopFlag) -> Iterator[Event]:
        """Run the work, yield its events in order, and raise what the work raises."""


class OpenEngine(Protocol):
    """An entry point of the group `harness.engines`."""

    def __call__(self) -> Engine:
        """Make the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The value of a metric over all samples."""

    value: float
    samples: int
    low: float | None = None
    """The low end of the 95 % interval of `value` over samples; None if there is none."""
    high: float | None = None
    """The high end."""


class Metric(Protocol):
    """A metric of a file's outputs, summed by batch: an entry point of the group `harness.metrics`.

    A class without constructor arguments; each evaluation makes an object. It keeps sums and not
    samples, so a data set need not fit into memory. `harness.metrics` has the shipped metrics.
    """

    name: str
    direction: Direction
    """`higher` for a share of right outputs, `lower` for an error."""
    summary: str
    """One line that explains the value and the labels."""

    def update(
        self,
        outputs: Mapping[str, np.ndarray[Any, Any]],
        labels: Mapping[str, np.ndarray[Any, Any]],
    ) -> None:
        """Add a batch of n samples.

        Args:
            outputs: real values, each (n, ...), by tensor name and in the file's order.
            labels: each (n, ...); the data's "y" is `y`, its "y.NAME" is `NAME`.

        Raises ConfigError for labels or outputs that do not fit the metric.
        """

    def result(self) -> Score:
        """Return the value over everything added so far, at least one sample."""


@runtime_checkable
class JudgesSamples(Protocol):
    """A metric that decides for each sample whether the output is right. Optional.

    The value is then the share of right outputs, and the gate compares two files by sample
    (McNemar). For a metric without this method the gate compares two numbers.
    """

    def right(
        self,
        outputs: Mapping[str, np.ndarray[Any, Any]],
        labels: Mapping[str, np.ndarray[Any, Any]],
    ) -> np.ndarray[Any, Any]:
        """Return (n,) booleans for a batch; arguments and errors as in :meth:`Metric.update`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """The input and output of a build step: a file and its facts so far."""

    path: Path
    form: str
    """`tflite`, `keras`, `h5` or `saved_model`."""
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    compiled: Compiled | None = None
    """The report of a vendor's compiler, if the step called one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepData:
    """The arrays for a step, by input name; None if the plan gives none."""

    calibration: Mapping[str, np.ndarray[Any, Any]] | None = None
    calibration_labels: np.ndarray[Any, Any] | None = None
    """The "y" of the calibration data, if it has one label per input."""
    training: Mapping[str, np.ndarray[Any, Any]] | None = None
    """With labels under "y" if the plan gives them."""
    random_calibration: bool = False
    seed: int = 0
    """The seed of all random choices of a step: sample order, validation split, dropout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a step, for `recipes` and for the check of a plan."""

    name: str
    type: str
    default: Any
    help: str


class Step(Protocol):
    """One step of a recipe: a class with these attributes and one method.

    Two more are optional: the attribute `wants`, for data that it uses if the plan gives it (as
    `needs`), and the method of :class:`Promising`.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    takes: tuple[str, ...]
    """The forms that it accepts: `tflite`, `keras`, ..."""
    gives: str
    """The form of its artifact."""
    needs: tuple[str, ...]
    """The data that it requires: `calibration`, `training`."""

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Make the artifact in the folder `workdir`; raises RecipeError with the reason."""


Measure = Literal[
    "sparsity",
    "unique_values",
    "unique_per_channel",
    "nonzeros_per_4",
    "int8_share",
    "float16_share",
    "elements",
]
"""The quantity of a promise; harness.tflite.structure computes each from a file.

Per layer (a constant of two dimensions or more that an operator computes with):

- `sparsity`: share of zeros, 0..1.
- `unique_values`: distinct stored values in the whole tensor.
- `unique_per_channel`: the maximum of distinct values per output channel. Folding a batch
  normalisation and a scale per channel preserve it, but not `unique_values`.
- `nonzeros_per_4`: the maximum of nonzeros among 4 neighbours along the last dimension (input
  channels).

Of the chosen layers together:

- `int8_share`: share of their elements that are stored in 8 bits or fewer, 0..1.
- `float16_share`: share of their elements that are stored in 16 bits or fewer, 0..1.
- `elements`: their number of elements.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A property that a step guarantees for the recipe's finished file.

    Promise(measure="sparsity", at_least=0.5, operators=("CONV_2D", "FULLY_CONNECTED"))
    Promise(measure="unique_per_channel", at_most=16, min_elements=1_000)

    It is checked on the last file of the recipe, after all steps: `prune > int8` must keep the
    zeros. A broken promise is a RecipeError with the step, the layer and the numbers. `sparsity`
    tolerates one element per layer, for rounding. A promise must exclude the layers that the step
    does not change, by operator, size or name; otherwise they break it. A share that is kept but
    less than 1 is a note with the wider layers and the flag `wide_weights`.
    """

    measure: Measure
    at_least: float | None = None
    at_most: float | None = None
    operators: tuple[str, ...] = ()
    """The TFLite operators whose weights are checked (`CONV_2D`, ...); empty for all operators."""
    except_operators: tuple[str, ...] = ()
    """The TFLite operators whose weights are not checked."""
    min_elements: int = 1
    """Smaller tensors are not checked."""
    names: str = ".*"
    """A regular expression that is searched in the names of the checked tensors."""

    def __post_init__(self) -> None:
        """Refuse a promise without a limit."""
        if self.at_least is None and self.at_most is None:
            message = "a promise needs at_least or at_most"
            raise ValueError(message)


@runtime_checkable
class Promising(Protocol):
    """A step with promises. Optional: a Step without this method promises nothing."""

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Return the promises for the finished file, given the step's checked parameters."""
