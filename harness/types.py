"""The nouns of edge-harness: frozen, keyword-only dataclasses of the standard library.

Every noun has one meaning and one home. Units are in the field names; times are nanoseconds
where they come from a clock, seconds where a person writes them. Nothing here imports anything
of ours, so every other module may. The limits of a plan's numbers are written beside the fields
with annotated-types, which pydantic checks when a file is loaded. A noun that is stored with a run
has no limits here, so that old runs stay readable whatever a limit becomes.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Le

Kind = Literal["timed", "memory", "bare", "accuracy", "cpu"]
"""What a launch is for. Timed launches never measure memory and the reverse; `cpu` is a short one of the
same file on the processor, which an accelerator's time is held against."""

Scenario = Literal["single", "stream", "offline", "sustained"]
"""How inferences follow each other in a timed launch (docs/measurement.md, Scenarios)."""

Thermal = Literal["cool", "none", "soak"]
Direction = Literal["lower", "higher"]
"""Which values of a column or a metric are better."""

FORBID_UNKNOWN: dict[str, str] = {"extra": "forbid"}
"""Read by pydantic at the door: a key that no field has is refused, never ignored."""

FINITE: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}
"""The same, and NaN and infinities are refused too."""

_Share = Annotated[float, Ge(0), Le(1)]
_NotNegative = Annotated[float, Ge(0)]


PATIENCE_SECONDS = 120.0
"""How long a device that went away is waited for, unless the plan says: a board boots in 20-60 s, and
one with a large card checks it first."""


# --- devices -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreGroup:
    """A group of equal processor cores of a chip."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    count: int
    name: str
    max_mhz: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Accelerator:
    """An accelerator a class of device has, and the target word that asks for it."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    name: str
    target: str
    external_delegate: str | None = None
    """Path or soname of the delegate library on the device, with the two entry points of TFLite's
    external delegates; null where the runtime itself brings the delegate (`gpu`)."""
    options: Mapping[str, str] = field(default_factory=dict)
    """What the library is told when it is loaded, in its own words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThermalPolicy:
    """When a launch may start on this class of device (docs/measurement.md, step 1)."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    gate: bool = True
    within_celsius: float = 2.0
    max_wait_seconds: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Detect:
    """How `add` recognises this class: all given keys must match."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    machine: tuple[str, ...] = ()
    """`uname -m` words, any of them."""
    model: tuple[str, ...] = ()
    """Substrings of the device-tree model (or board name), any of them."""
    usb: tuple[str, ...] = ()
    """USB vendor:product ids, any of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A class of device: what its hardware is and what it can be asked for."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    name: str
    title: str
    arch: str
    chip: str | None = None
    cores: tuple[CoreGroup, ...] = ()
    memory_mb: tuple[int, ...] = ()
    """Sizes this class is sold with, MB of 10^6 bytes."""
    runtimes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("xnnpack",)
    default_target: str = "xnnpack"
    """What a recipe without `@target` is built for, unless the file itself says."""
    dialect: str | None = None
    """What its devices speak, unless the farm says; None leaves it to the address."""
    accelerators: tuple[Accelerator, ...] = ()
    xnnpack: bool = True
    """Whether the CPU path is promised to be XNNPACK; its silent absence is then flagged."""
    sensors: tuple[str, ...] = ()
    thermal: ThermalPolicy = ThermalPolicy()
    detect: Detect = Detect()
    verified: str = "none"
    """`none`, `emulated` or `hardware (run, date)`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """Where each fact of hardware is from: field name to document."""
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One entry of the user's farm.toml."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    name: str
    profile: str
    address: str
    """A URI: `local:`, `ssh://user@host:port`, `adb:SERIAL`, `serial:/dev/ttyACM0?baud=115200`."""
    tags: tuple[str, ...] = ()
    dialect: str | None = None
    """Its name; None leaves it to the profile and the address (harness.devices.opening)."""
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    """Keys and values of the transport's own options, as harness.protocols.TransportPlugin has them."""
    dialect_options: Mapping[str, Any] = field(default_factory=dict)
    """Those of the dialect's."""
    delegate_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By target, over those of the profile: `{ edgetpu = { device = "usb:1" } }`."""
    meter: str | None = None
    meter_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A TFLite runtime found on a device."""

    name: str
    """Import name: `ai_edge_litert`, `tflite_runtime` or `tensorflow`."""
    version: str
    numpy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What a device said of itself in `hello`; None is what it cannot say."""

    identity: str
    """Stable over reboots and addresses: machine id or board serial, hashed."""
    hostname: str | None = None
    system: str | None = None
    kernel: str | None = None
    machine: str | None = None
    """`uname -m`, or the name of the processor's architecture."""
    chip: str | None = None
    board: str | None = None
    cores: int | None = None
    memory_total_bytes: int | None = None
    libc: str | None = None
    python: str | None = None
    runtimes: tuple[Runtime, ...] = ()
    agent_digest: str | None = None
    boot_id: str | None = None
    clock_offset_seconds: float | None = None
    """Device wall clock minus ours; too small by what an answer takes to come."""
    governor: str | None = None
    temperature_c: float | None = None
    load_1m: float | None = None
    free_bytes: int | None = None
    accelerators: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    python_bits: int | None = None
    """32 or 64: a 32-bit Python on a 64-bit kernel needs other wheels than `machine` suggests."""
    usable_cores: int | None = None
    """How many processors the agent may run on."""
    processors: tuple[int, ...] = ()
    """Their numbers, the fastest first."""
    throttled: int | None = None
    """Bits of `vcgencmd get_throttled`, as in :class:`Covariates`."""
    unpacks: tuple[str, ...] = ()
    """Codecs in which files may be sent."""
    usb: tuple[str, ...] = ()
    """USB vendor:product ids of what is plugged in."""
    runtime_problems: tuple[str, ...] = ()
    """Runtimes that are there and do not import, with the reason."""


# --- models and what is made of them -----------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """Where a model's data is; paths are absolute by now, or `random`, or `file.py:generator`."""

    training: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    metric: str = "top1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model as the user has it, before anything is made of it."""

    name: str
    path: Path
    data: DataSource = DataSource()
    shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Chosen shapes for dynamic dimensions, by input name (`*` for a single input)."""
    signature: str | None = None
    allow_flex: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCall:
    """One step of a recipe with its parameters, as data."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Write the step as a plan writes it: `prune(sparsity=0.5)`."""
        if not self.parameters:
            return self.name
        inside = ", ".join(f"{key}={written(value)}" for key, value in self.parameters.items())
        return f"{self.name}({inside})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A name and ordered steps: `prune(sparsity=0.5) > int8`, optionally for one target."""

    name: str
    """As the plan and the rows write it, target included where the plan names one."""
    steps: tuple[StepCall, ...]
    target: str | None = None

    @property
    def chain(self) -> str:
        """The steps in canonical spelling; equal chains build equal files."""
        return " > ".join(str(step) for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of a .tflite file."""

    name: str
    shape: tuple[int, ...]
    """-1 where the file leaves the dimension open."""
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """How a file's outputs compare with another's on the same inputs."""

    samples: int
    top1: float | None
    """Share of inputs with the same arg-max; null where there are no classes."""
    relative_error: float
    """||a - b|| / ||b|| over all outputs, b the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """What a vendor's compiler made of a file, by its own account, held against the file itself."""

    compiler: str
    """Name and version, as it prints them."""
    mapped_ops: int | None = None
    """Operators of the original file that it put on the accelerator."""
    total_ops: int | None = None
    left: Mapping[str, str] = field(default_factory=dict)
    """Operators it left on the CPU, by name, with its reason."""
    subgraphs: int | None = None
    on_chip_bytes: int | None = None
    """Of weights kept on the accelerator."""
    off_chip_bytes: int | None = None
    """Of weights that travel to it with every inference."""
    source: str = ""
    """Where this was read: the log's name, `stdout`."""
    contradiction: str | None = None
    """Where its account and the compiled file do not fit together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncompiled:
    """The file that a vendor's compiler was given: what the host can run of a compiled one."""

    path: Path
    digest: str
    """sha256 of the file, hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The file a recipe made of a model for a target, and what is known of it on the host."""

    model: str
    recipe: str
    target: str
    path: Path
    digest: str
    """sha256 of the file, hexadecimal."""
    size_bytes: int
    size_zstd_bytes: int | None = None
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    operators: Mapping[str, int] = field(default_factory=dict)
    sparsity: float | None = None
    accuracy: float | None = None
    """On the host, over the plan's evaluation data, by `metric`: a share or an error."""
    accuracy_low: float | None = None
    """With `accuracy_high` the metric's 95 % interval over samples, where it has one."""
    accuracy_high: float | None = None
    accuracy_samples: int | None = None
    accuracy_source_model: float | None = None
    """The float file's accuracy on the same samples."""
    metric: str | None = None
    metric_direction: Direction | None = None
    """None in runs from before it was stored: see `accuracy_better`."""
    agreement: Agreement | None = None
    """With the source model, on real inputs where the plan gives any."""
    build_seconds: float | None = None
    compiled: Compiled | None = None
    """Of a file that a vendor's compiler made, where its log is there."""
    uncompiled: Uncompiled | None = None
    """Of a file that a step compiled, where both have the same inputs and outputs."""
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def accuracy_better(self) -> Direction:
        """Which values of `accuracy` are better, by its metric."""
        return self.metric_direction or ("lower" if self.metric in _OLD_ERRORS else "higher")

    @property
    def accuracy_drop(self) -> float | None:
        """By how much `accuracy` is worse than the source model's; negative where it is better.

        Of an error (`mse`) that is its increase. None where either is not known.
        """
        if self.accuracy is None or self.accuracy_source_model is None:
            return None
        lost = self.accuracy_source_model - self.accuracy
        return -lost if self.accuracy_better == "lower" else lost


_OLD_ERRORS = ("mse", "mae")
"""The metrics of which lower was better before a variant stored its metric's direction."""


# --- measuring ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Dose:
    """How much to measure; the numbers and their reasons are in docs/measurement.md."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    launches: int = 5
    min_inferences: int = 100
    min_seconds: float = 0.15
    max_seconds: float = 10.0
    warmup_seconds: float = 0.5
    warmup_min_inferences: int = 3
    warmup_max_inferences: int = 300
    warmup_max_seconds: float = 10.0
    memory_launches: int = 1
    scenario: Scenario = "single"
    period_ms: float | None = None
    """Between the scheduled starts of two frames; of a stream only."""
    sustained_minutes: float = 10.0
    """How long a sustained launch measures, whatever `min_seconds` and `max_seconds` say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """What is held while a device is measured; docs/measurement.md has the reasons.

    Rows say what could not be held (`uncontrolled`, `hot_start`).
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    pin: bool = True
    """Pin the frequency governor and place launches on the fastest processors, where allowed."""
    thermal: Thermal = "cool"
    """`cool` waits for the idle temperature before each launch, `none` does not, and `soak` heats
    the device to a plateau first and measures there."""


DEFAULT_CONDITIONS = Conditions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """What a row must hold; an absent key is not checked."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    max_accuracy_drop: float | None = None
    """Absolute, on the host, against the source model. Of an error (`mse`) its increase."""
    min_agreement: float = 0.95
    min_delegated: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no number: a kind (the row's status) and the reason in words."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """This variant on this device with these options and this dose.

    A variant that could not be built is carried as its Failure, so that the cell still has
    exactly one outcome.
    """

    model: str
    recipe: str
    target: str
    device: str
    threads: int
    variant: Variant | Failure
    dose: Dose = Dose()
    accept: Accept = Accept()
    seed: int = 0
    check_inputs: str | None = None
    """An .npz of up to 64 real inputs (arrays by input name) for the check before timing."""
    flags: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """Identity inside a run: the same plan gives the same ids, so a run can be resumed."""
        text = "\0".join((self.model, self.recipe, self.target, self.device, str(self.threads)))
        return hashlib.sha256(text.encode()).hexdigest()[:12]


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOrder:
    """One launch to make: everything the agent is told. Data, decided before anything runs."""

    cell_id: str
    kind: Kind
    block: int
    position: int
    variant_digest: str
    target: str
    threads: int
    dose: Dose
    inner_loop: int = 1
    seed: int = 0
    runtime: str | None = None
    """Import name of the runtime to use, or NAME=VERSION; None takes the agent's first."""
    delegate: str | None = None
    """Path or soname of a delegate library on the device; None for what the runtime brings."""
    delegate_options: Mapping[str, str] = field(default_factory=dict)
    processors: tuple[int, ...] = ()
    """Processors to run on, by number; empty leaves it to the device's scheduler."""
    timeout_seconds: float = 120.0

    @property
    def launch_id(self) -> str:
        """Identity inside a run."""
        return f"{self.cell_id}-{self.kind}-{self.block}-{self.position}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """Equally long columns of one series: time on the device's clock, value, inferences averaged.

    `at_ns` is array('q'), `value` array('d'), `count` array('l'-compatible 'q').
    """

    series: str
    at_ns: array[int]
    value: array[float]
    count: array[int]

    @classmethod
    def of(cls, series: str, values: Iterable[float], count: int = 1) -> Self:
        """Make the samples of a program that names no times: they are numbered from 0.

        `count` is how many inferences each value averages.
        """
        column = array("d", values)
        at_ns, counts = array("q", range(len(column))), array("q", [count] * len(column))
        return cls(series=series, at_ns=at_ns, value=column, count=counts)

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmup:
    """The warm-up of one launch, apart from its samples."""

    inferences: int
    seconds: float
    steady: bool
    """Medians of the last two windows differed by at most 2 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Covariates:
    """What the device was like at one moment; null where it has no such sensor."""

    temperature_c: float | None = None
    frequency_mhz: float | None = None
    governor: str | None = None
    throttled: int | None = None
    """Bits of `vcgencmd get_throttled`."""
    thermal_status: int | None = None
    """Android `dumpsys thermalservice`: 0 none, 1 light, ... 6 shutdown."""
    load_1m: float | None = None
    power_mw: float | None = None
    """What the board draws, by its own sensors (tegrastats)."""
    seconds_at_mhz: Mapping[str, float] | None = None
    """Since boot, by frequency of the fastest processor: the kernel's time in state. What a launch
    ran at is the difference between after and before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """What a delegate runs on, in its driver's words."""

    name: str
    type: str = ""
    """`discrete GPU`, `integrated GPU`, `CPU`, ...; empty where the driver does not say."""
    driver: str = ""
    """Its name and version, or the interface it was reached by (`Vulkan`)."""


TimedPart = Literal["invoke", "run", "run+read"]
"""What one sample of latency covers: a call that ends when the work is done (`invoke`), one that only
hands the work over (`run`), or the handing over and the reading of every output (`run+read`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """What ran where in one launch, and how it is known; harness.devices.delegation judges it."""

    delegate: str
    """`xnnpack`, `edgetpu`, `gpu`, `none`, ..."""
    delegated_ops: int | None = None
    """Operators of the file that it took; on an accelerator those of the CPU's own delegate are not counted."""
    total_ops: int | None = None
    partitions: int | None = None
    left: tuple[str, ...] = ()
    """Operators left on the CPU, by name."""
    evidence: str = ""
    """Kinds of evidence with what each said, joined by `; ` (harness.devices.delegation.KINDS)."""
    fully: bool | None = None
    """What the runtime's `is_fully_accelerated` said; None where it was not asked."""
    clock: TimedPart = "invoke"
    library: str | None = None
    """The delegate library and what it says of its version."""
    settings: str | None = None
    """What the delegate may do, in words: `float16 allowed`, `float32, shader cache /var/tmp/x`."""
    handed_ns: int | None = None
    """The handing over of one inference to an accelerator that works while the caller goes on, timed apart
    from the samples; the least of a few."""
    whole_ns: int | None = None
    """The same inferences until the last output was read."""
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One question to a device and its answer, as both ends' monotonic clocks saw them.

    The four timestamps of NTP (RFC 5905, section 8), T1 to T4.
    """

    sent_ns: int
    """On the host's clock (`time.monotonic_ns`)."""
    arrived_ns: int
    """On the device's clock."""
    answered_ns: int
    """On the device's clock."""
    received_ns: int
    """On the host's clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """How a device's monotonic clock maps to the host's at one moment: the best of some exchanges."""

    at_host_ns: int
    """When it was read, on the host's monotonic clock."""
    offset_ns: int
    """The device's clock minus the host's. Each counts from its own machine's boot, so years are usual."""
    uncertainty_ns: int
    """The most that `offset_ns` may be off: half of the round trip, and the drift during it."""
    round_trip_ns: int
    """Of the exchange it is from, without the time that the device took to answer."""
    exchanges: int
    """How many were made, that one included."""
    drift_ppm: float | None = None
    """How much faster the device's clock runs; null until it is known to 10 ppm."""

    @property
    def at_ns(self) -> int:
        """When it was read, on the device's clock."""
        return self.at_host_ns + self.offset_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeWindow:
    """When the timed part of a launch ran: from before its first timed inference to after its last.

    Load, first inference and warm-up are outside of it; they are inside the process's window.
    A host's stamps mean something until the host restarts; samples' `at_ns` are on the device's clock.
    """

    start_ns: int
    """On the device's monotonic clock, as are the other times without `host` in their names."""
    end_ns: int
    start_host_ns: int
    """On the host's monotonic clock (`time.monotonic_ns`), never before the launch was asked for."""
    end_host_ns: int
    """Never after its answer came."""
    uncertainty_ns: int
    """The most that either of the two host times may be off (harness.devices.clocks says when)."""
    process_start_ns: int | None = None
    """Just before the process was started; null if the device does not report it."""
    process_end_ns: int | None = None
    """Just after it had ended."""
    stepped: bool = False
    """The device's clock stepped or ran over 500 ppm off; the uncertainty covers both readings."""
    clocks: tuple[Clock, ...] = ()
    """The readings it was mapped with, before and after the launch. Empty if the device's clock could not be
    read: then the launch's own command and answer were the only exchange."""
    answered_utc: str | None = None
    """When the answer came, by the host's wall clock (ISO 8601). For finding the place in a log only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """One process on the device: cold numbers, samples, covariates before and after."""

    id: str
    cell_id: str
    kind: Kind
    block: int
    position: int
    seed: int
    runtime: str
    """Name and version."""
    delegation: Delegation
    wall_ns: int
    """Process start to exit, on the device's monotonic clock."""
    load_ns: int | None = None
    first_ns: int | None = None
    warmup: Warmup | None = None
    inner_loop: int = 1
    inferences: int = 0
    drift: float | None = None
    """ln(median of last third / median of first third)."""
    cpu_share: float | None = None
    """Thread time over wall time of the measured part; None of a stream and on an accelerator, which wait."""
    involuntary_switches: int | None = None
    summary: Literal["median", "mean"] | None = None
    """Which figure the only sample of latency is, where the device's tool tells no single inferences."""
    missed_deadlines: int | None = None
    """Frames of a stream that were not done a period after their scheduled start."""
    before: Covariates = Covariates()
    after: Covariates = Covariates()
    window: TimeWindow | None = None
    """Of timed launches whose device reports its times."""
    flags: tuple[str, ...] = ()
    samples: tuple[Samples, ...] = ()
    """Stored apart (Parquet); empty when a launch is read back from its journal line."""

    @classmethod
    def of(cls, order: LaunchOrder, **measured: Any) -> Self:  # noqa: ANN401 - fields of this class
        """Make the launch that an order asked for; `measured` are the fields that the order lacks."""
        return cls(
            id=order.launch_id,
            cell_id=order.cell_id,
            kind=order.kind,
            block=order.block,
            position=order.position,
            seed=order.seed,
            **measured,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Push:
    """A file that was sent, and what it took."""

    digest: str
    file_bytes: int
    travelled_bytes: int
    """As the device counted what arrived; fewer than the file's where it was packed."""
    codec: str | None
    seconds: float
    """From packing until the device has confirmed that it is whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a cell: launches, or a Failure. Never both, never neither."""

    cell: Cell
    launches: tuple[Launch, ...] = ()
    failure: Failure | None = None
    agreement: Agreement | None = None
    """The device's outputs against the host's, same file."""

    def __post_init__(self) -> None:
        """Hold the promise of the docstring."""
        if bool(self.launches) == (self.failure is not None):
            message = "an outcome has launches or a failure, never both, never neither"
            raise ValueError(message)


# --- plans -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """One model of a plan with what applies to it."""

    source: ModelSource
    recipes: tuple[Recipe, ...]
    devices: tuple[str, ...]
    """Selectors as written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """What a gate judges and by which limits: the [gate] table of a plan."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = FINITE
    metrics: tuple[str, ...] = ("latency", "size", "accuracy")
    """Judged; the others are printed."""
    margin: _Share = 0.05
    """Relative: PASS is surely less than this much worse."""
    min_effect: _Share = 0.02
    """Relative: REGRESSION is at least this much worse."""
    max_pairs: Annotated[int, Ge(2)] = 20
    budget_seconds: Annotated[float, Ge(1)] = 300.0
    """Of a contest, not of the whole gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A range of numbers, both ends in it; whole ends may mean whole numbers (the step says)."""

    low: float
    high: float

    def __str__(self) -> str:
        """Write it as a plan does: `0.3..0.9`."""
        return f"{self.low}..{self.high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """Alternatives, two or more, no two alike."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        """Write it as a plan does: `4|8`."""
        return "|".join(written(value) for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What every point of a search's answer holds; KB and MB are 10^3 and 10^6 bytes."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = FINITE
    max_accuracy_drop: _NotNegative | None = None
    """Absolute, on the host, against the source model. Of an error (`mse`) its increase."""
    min_accuracy: _Share | None = None
    max_size_kb: _NotNegative | None = None
    max_size_zstd_kb: _NotNegative | None = None
    max_latency_ms: _NotNegative | None = None
    """Of latency_p50_ms."""
    max_peak_rss_mb: _NotNegative | None = None

    def given(self) -> dict[str, float]:
        """Return those that are given, by name."""
        named = asdict(self)
        return {name: limit for name, limit in named.items() if limit is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to search: the [search] table of a plan."""

    space: tuple[Recipe, ...]
    """Values of the recipes' parameters may be Between or OneOf."""
    model: str | None
    objectives: tuple[str, ...]
    constraints: Constraints
    device: str
    trials: int
    processes: int
    accuracy_better: Direction = "higher"
    """By the metric of the model's data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A plan.toml after the door: every path absolute, every recipe parsed."""

    path: Path | None
    digest: str
    """sha256 of the plan's meaning (canonical JSON), not of its spelling."""
    models: tuple[PlannedModel, ...]
    threads: tuple[int, ...] = (1,)
    seed: int = 0
    patience_seconds: float = PATIENCE_SECONDS
    conditions: Conditions = DEFAULT_CONDITIONS
    dose: Dose = Dose()
    accept: Accept = Accept()
    gate: GateRules = GateRules()
    search: Search | None = None
    text: Mapping[str, Any] = field(default_factory=dict)
    """The plan as read, for the record."""


def written(value: object) -> str:
    """Write a parameter's value as a recipe has it, which is as TOML has it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(written(item) for item in value) + "]"
    return str(value)
