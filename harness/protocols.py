"""The seams: what a plug-in offers. At most five verbs each.

A plug-in is found by name through an entry point (:mod:`harness.plugins`); ours come through the
same door. CONTRIBUTING.md shows each in ten lines.
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
        Samples,
    )


MAX_FILE_BYTES = 1 << 30
"""The largest file that is taken from a device: an output of an inference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The answer to one command; it remembers the question."""

    argv: tuple[str, ...]
    exit_code: int
    stdout: bytes
    stderr: bytes
    seconds: float


class Channel(Protocol):
    """A two-way byte stream to one process on a device."""

    def send(self, data: bytes) -> None:
        """Write all of `data`; raises Unreachable when the stream is broken."""

    def read(self, deadline: float) -> bytes:
        """Return at least one byte, or b"" at the end of the stream.

        `deadline` is on time.monotonic(); raises AgentSilent when it passes first.
        """

    def errors(self) -> bytes:
        """Return the tail of what the process wrote to stderr so far (bounded)."""

    def close(self) -> None:
        """End the process and the stream; never raises."""


@runtime_checkable
class Transport(Protocol):
    """How to reach one device. Every call has a deadline.

    Every transport has a channel; :class:`Files` and :class:`Commands` are what it may have
    besides. A serial line has neither. :mod:`harness.devices.abilities` narrows a transport.
    """

    def talk(self, argv: Sequence[str]) -> Channel:
        """Start a process and return the stream to it.

        A transport that reaches one fixed program (a serial line) ignores `argv`.
        """

    def close(self) -> None:
        """Release the device; never raises."""


@runtime_checkable
class Files(Protocol):
    """A transport that can copy files."""

    def put(self, source: Path, destination: str) -> None:
        """Copy a file to exactly `destination`, creating its folder.

        Not atomic: callers name a `.part` file and finish it by digest, fsync and rename. Only
        its owner may read it there (0600), whatever the account's umask.
        Raises TransferFailed (which file, how far) or Unreachable.
        """

    def get(self, source: str, destination: Path, max_bytes: int = MAX_FILE_BYTES) -> None:
        """Copy a file from the device; `destination` appears whole or not at all.

        Raises TransferFailed, also if the file holds more than `max_bytes`, whatever size
        the device reports.
        """


@runtime_checkable
class Commands(Protocol):
    """A transport that can run commands."""

    def run(self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None) -> Reply:
        """Run one command without a shell's interpretation and wait for it."""


@runtime_checkable
class FullTransport(Transport, Files, Commands, Protocol):
    """A transport with all three: what an agent on a Linux board needs."""


class OpenTransport(Protocol):
    """The entry point `harness.transports`, named by the address's scheme."""

    def __call__(self, device: Device, /) -> Transport:
        """Connect; raises Unreachable, HostKeyUnknown or ConfigError."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransportPlugin:
    """The entry point `harness.transports` of a transport that has options or a dialect of its own.

    A plain :class:`OpenTransport` is one without options, for the default dialect.
    """

    open: OpenTransport
    options: type | None = None
    """A frozen dataclass of what farm.toml may say: its fields are the keys, each with a default.

    A field of type `Path` is a file of this host; a relative one is beside farm.toml.
    """
    dialect: str | None = None
    """What devices at such an address speak, if neither farm nor profile says; None for the
    default (harness.devices.opening.DEFAULT_DIALECT)."""
    dialect_options: Callable[[], Mapping[str, Any]] = dict
    """Gives the dialect's options that the farm leaves out, where they are not the dialect's own."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Capabilities:
    """What a dialect can do. The bench orders nothing else; columns that need more are null."""

    launches: frozenset[Kind] = frozenset({"timed"})
    """Kinds of launch it can make."""
    infers: bool = False
    """Whether it takes inputs and returns outputs (`infer`)."""
    samples: bool = True
    """Whether a launch brings one sample per inference; else its only sample is a summary."""
    places: bool = False
    """Whether it obeys `LaunchOrder.processors`."""


class Dialect(Protocol):
    """How to speak with one kind of agent over a transport."""

    can: Capabilities

    def deploy(self, files: Mapping[str, Path]) -> Sequence[Push]:
        """Bring the agent and these files (by sha256) to the device; what is there stays.

        Returns the files that were sent, none where all were there.
        """

    def hello(self) -> DeviceFacts:
        """Ask the device what it is."""

    def launch(self, order: LaunchOrder) -> Launch:
        """Make one launch and return it whole; raises an AgentError or a TransportError."""

    def infer(
        self, order: LaunchOrder, inputs: Mapping[str, np.ndarray[Any, Any]]
    ) -> Mapping[str, np.ndarray[Any, Any]]:
        """Run the file on these inputs, each (n, ...) in the file's own dtype.

        Returns each output as (n, ...), by tensor name as the file has it.
        """

    def close(self) -> None:
        """End the agent; never raises."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holder:
    """Who has a device."""

    name: str
    seconds: float
    """How long it still has it if it does not renew."""
    is_this: bool
    """This process itself, over another connection."""


@runtime_checkable
class Leasing(Protocol):
    """A dialect whose devices several controllers can reach: one has it at a time.

    Optional: a device behind a Dialect without these verbs belongs to the host it is plugged into.
    The lease is kept on the device, so nobody has to be asked but the device.
    """

    def holder(self) -> Holder | None:
        """Ask who has the device; None where nobody has."""

    def hold(self) -> None:
        """Take the device and keep it until `release` or `close`; nothing where it is held already.

        Raises LeaseError while somebody else has it.
        """

    def release(self) -> None:
        """Let go of the device; never raises."""


@runtime_checkable
class KeepsFiles(Protocol):
    """A dialect whose deployed files are files on the device, which other programs can read.

    Optional: a microcontroller has no files.
    """

    def path_of(self, digest: str) -> str:
        """Return where a deployed file (by sha256) lies on the device."""


@runtime_checkable
class Clocked(Protocol):
    """A dialect whose device's monotonic clock can be read.

    Optional. harness.devices.clocks.DeviceClock calls it around each launch. Without it, a dialect
    whose device reports when its launch ran passes no readings to harness.devices.clocks.window;
    one whose device reports no times leaves `Launch.window` None.
    """

    def exchange(self) -> Exchange:
        """Read the device's clock once; not called while a launch is under way.

        Raises AgentError if the device reports none, and what the transport raises.
        """


class OpenDialect(Protocol):
    """The entry point `harness.dialects`."""

    def __call__(self, transport: Transport, device: Device, /) -> Dialect:
        """Make the dialect; nothing is sent before `deploy` or `hello`.

        Raises Unsupported where the transport lacks what the dialect needs.
        """


@dataclass(frozen=True, slots=True, kw_only=True)
class DialectPlugin:
    """The entry point `harness.dialects` of a dialect that has options.

    A plain :class:`OpenDialect` is one without options.
    """

    open: OpenDialect
    options: type | None = None
    """As those of a :class:`TransportPlugin`. A dialect that keeps files on the device calls the
    folder `workdir`."""


class Meter(AbstractContextManager["Meter"], Protocol):
    """An instrument or sensor that is read while it is open: entered before a launch, left after.

    Raises MeterError; a meter that fails costs its samples, never the launch.
    """

    def samples(self) -> tuple[Samples, ...]:
        """Return what was read since it was entered, a series per quantity (`power`, in mW)."""


class OpenMeter(Protocol):
    """The entry point `harness.meters`, named by the farm's key `meter`."""

    def __call__(self, device: Device, transport: Transport) -> Meter:
        """Open the meter with `device.meter_options`; raises MeterError or ConfigError.

        `transport` reaches the device, for a sensor on the board itself.
        """


class StopFlag(Protocol):
    """Whether work should end early; a threading.Event is one."""

    def is_set(self) -> bool:
        """Whether to stop."""


class Work(Protocol):
    """A piece of work for an engine: picklable, and it reports everything as events."""

    def __call__(self, emit: Emit, stop: StopFlag) -> None:
        """Do the work; `emit` returns when the event has been dealt with."""


class Engine(Protocol):
    """Where work runs: a thread of this process, or another host."""

    def submit(self, work: Work, stop: StopFlag) -> Iterator[Event]:
        """Run the work; yield its events in order; raise what it raises."""


class OpenEngine(Protocol):
    """The entry point `harness.engines`."""

    def __call__(self) -> Engine:
        """Make the engine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a metric came to over all samples it was given."""

    value: float
    samples: int
    low: float | None = None
    """With `high` the 95 % interval of `value` over samples; None where there is none."""
    high: float | None = None


class Metric(Protocol):
    """How well a file answers, summed batch by batch. The entry point `harness.metrics`.

    A class that is made without arguments, an object per evaluation. It keeps sums, not samples, so
    that a data set need not fit into memory. `harness.metrics` has the shipped ones.
    """

    name: str
    direction: Direction
    """`higher` for a share of right answers, `lower` for an error."""
    summary: str
    """One line: what the value is, and what the labels are."""

    def update(
        self,
        outputs: Mapping[str, np.ndarray[Any, Any]],
        labels: Mapping[str, np.ndarray[Any, Any]],
    ) -> None:
        """Add a batch of n samples.

        Args:
            outputs: real values, each (n, ...), by tensor name and in the file's order.
            labels: each (n, ...); the data's "y" is `y`, its "y.NAME" is `NAME`.

        Raises ConfigError for labels or outputs that do not fit.
        """

    def result(self) -> Score:
        """Return the value over everything added so far, at least one sample."""


@runtime_checkable
class JudgesSamples(Protocol):
    """A metric that says of each sample alone whether the answer is right. Optional.

    The value is then the share of right answers, and the gate compares two files sample by sample
    (McNemar). The values of a metric without this verb are compared as two numbers.
    """

    def right(
        self,
        outputs: Mapping[str, np.ndarray[Any, Any]],
        labels: Mapping[str, np.ndarray[Any, Any]],
    ) -> np.ndarray[Any, Any]:
        """Return (n,) booleans for a batch; arguments and errors as in :meth:`Metric.update`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """What a build step takes and gives: a file and what is known of it so far."""

    path: Path
    form: str
    """`tflite`, `keras`, `h5` or `saved_model`."""
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    compiled: Compiled | None = None
    """What a vendor's compiler said, of a step that called one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepData:
    """The arrays a step may use, by input name; None where the plan gives none."""

    calibration: Mapping[str, np.ndarray[Any, Any]] | None = None
    calibration_labels: np.ndarray[Any, Any] | None = None
    """The "y" beside the calibration inputs, where there is one for each."""
    training: Mapping[str, np.ndarray[Any, Any]] | None = None
    """With labels under "y" where the plan gives them."""
    random_calibration: bool = False
    seed: int = 0
    """Of everything a step draws: the order of samples, what is kept apart, dropout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter of a step, for `recipes` and for the check at the door."""

    name: str
    type: str
    default: Any
    help: str


class Step(Protocol):
    """One step of a recipe; a class with these attributes and one verb.

    Two more are optional: the attribute `wants`, data it uses where the plan gives it (as `needs`),
    and the verb of :class:`Promising`.
    """

    name: str
    summary: str
    parameters: tuple[Parameter, ...]
    takes: tuple[str, ...]
    """Forms it accepts: `tflite`, `keras`, ..."""
    gives: str
    needs: tuple[str, ...]
    """Data it cannot do without: `calibration`, `training`."""

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Make the artifact inside `workdir`; raises RecipeError with the reason."""


Measure = Literal[
    "sparsity",
    "unique_values",
    "unique_per_channel",
    "nonzeros_per_4",
    "int8_share",
    "elements",
]
"""What a promise is about; harness.tflite.structure says how each is read off a file.

Of every layer (a constant of two dimensions or more that an operator computes with):

- `sparsity`: share of zeros, 0..1.
- `unique_values`: distinct stored values in the whole tensor.
- `unique_per_channel`: the most distinct values in one output channel. Folding a batch
  normalisation and a scale per channel keep it, and not `unique_values`.
- `nonzeros_per_4`: the most nonzeros among 4 neighbours along the last dimension (input channels).

Of the chosen layers together:

- `int8_share`: share of their elements that is stored in 8 bits or fewer, 0..1.
- `elements`: how many elements they have.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """What a step says that the recipe's finished file will show.

    Promise(measure="sparsity", at_least=0.5, operators=("CONV_2D", "FULLY_CONNECTED"))
    Promise(measure="unique_per_channel", at_most=16, min_elements=1_000)

    Checked on the last file of the recipe, whatever steps came after: `prune > int8` has to keep
    its zeros. A broken one is a RecipeError that names the step, the layer and the numbers. One
    element of a layer is forgiven in `sparsity`, for rounding. A promise must say which layers the
    step leaves alone, or it is broken by them: by operator, size or name.
    """

    measure: Measure
    at_least: float | None = None
    at_most: float | None = None
    operators: tuple[str, ...] = ()
    """TFLite operators whose weights are meant (`CONV_2D`, ...); empty for every operator."""
    min_elements: int = 1
    """Smaller tensors are not meant."""
    names: str = ".*"
    """Regular expression that a meant tensor's name matches somewhere."""

    def __post_init__(self) -> None:
        """Refuse a promise that promises nothing."""
        if self.at_least is None and self.at_most is None:
            message = "a promise says at_least or at_most"
            raise ValueError(message)


@runtime_checkable
class Promising(Protocol):
    """A step that also promises. Optional: a Step without this verb promises nothing."""

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Say what the finished file will show, given the step's checked parameters."""
