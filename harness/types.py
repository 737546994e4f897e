"""The data types of edge-harness: frozen, keyword-only dataclasses of the standard library.

Every class has one meaning. Units are in the field names; times from a clock are in nanoseconds,
times that a person writes in seconds. This module imports no other module of edge-harness, so all
can import it. The limits of a plan's numbers are annotations of the fields (annotated-types), which
pydantic checks when a file is loaded. A class that is stored with a run has no limits here, so that
old runs stay readable if a limit changes.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from annotated_types import Ge, Le

Kind = Literal["timed", "memory", "bare", "accuracy", "cpu"]
"""The purpose of a launch. A timed launch never measures memory, and a memory launch is never timed. `cpu`
is a short launch of the same file on the processor, to compare an accelerator's time with."""

Scenario = Literal["single", "stream", "offline", "sustained"]
"""The order and timing of inferences in a timed launch (docs/measurement.md, Scenarios)."""

Thermal = Literal["cool", "none", "soak"]

Cache = Literal["warm", "cold"]
"""The state of the runtime's caches before a launch: compiled GPU programs, a compiled NPU program,
packed weights. `cold`: empty, and written in the launch; `warm`: written by an earlier launch."""

Direction = Literal["lower", "higher"]
"""Which values of a column or a metric are better."""

FORBID_UNKNOWN: dict[str, str] = {"extra": "forbid"}
"""Configuration of pydantic: an unknown key is refused and not ignored."""

FINITE: dict[str, Any] = {"extra": "forbid", "allow_inf_nan": False}
"""Configuration of pydantic: unknown keys, NaN and infinities are refused."""

_Share = Annotated[float, Ge(0), Le(1)]
_NotNegative = Annotated[float, Ge(0)]


PATIENCE_SECONDS = 120.0
"""How long to wait for a device that went away, by default: a board boots in 20-60 s, and longer if it
checks a large card first."""


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
    """An accelerator of a class of device, and the target that selects it."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    name: str
    target: str
    external_delegate: str | None = None
    """Path or soname of the delegate library on the device, with the two entry points of TFLite's
    external delegates; null if the runtime itself has the delegate (`gpu`)."""
    options: Mapping[str, str] = field(default_factory=dict)
    """The options that are passed to the library when it is loaded, by its own names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThermalPolicy:
    """When a launch may start on this class of device (docs/measurement.md, step 1)."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    gate: bool = True
    within_celsius: float = 2.0
    max_wait_seconds: float = 300.0
    hot_celsius: float | None = None
    """Launches at this temperature or above are flagged `hot`; null if there is no such limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Detect:
    """The criteria by which `add` recognises this class; all given keys must match."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    machine: tuple[str, ...] = ()
    """Values of `uname -m`; one must match."""
    model: tuple[str, ...] = ()
    """Substrings of the device-tree model (or board name); one must match."""
    usb: tuple[str, ...] = ()
    """USB vendor:product ids; one must match."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """A class of device: its hardware, runtimes and targets."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    name: str
    title: str
    arch: str
    chip: str | None = None
    cores: tuple[CoreGroup, ...] = ()
    memory_mb: tuple[int, ...] = ()
    """The memory sizes of this class, MB of 10^6 bytes."""
    runtimes: tuple[str, ...] = ()
    targets: tuple[str, ...] = ("xnnpack",)
    default_target: str = "xnnpack"
    """The target of a recipe without `@target`, unless the file itself determines it."""
    dialect: str | None = None
    """The dialect of its devices, unless the farm has one; None for that of the address."""
    accelerators: tuple[Accelerator, ...] = ()
    xnnpack: bool = True
    """Whether the CPU path must be XNNPACK; launches without it are flagged."""
    sensors: tuple[str, ...] = ()
    thermal: ThermalPolicy = ThermalPolicy()
    detect: Detect = Detect()
    verified: str = "none"
    """`none`, `emulated` or `hardware (run, date)`."""
    sources: Mapping[str, str] = field(default_factory=dict)
    """The source of each fact of hardware: field name to document."""
    notes: str = ""


UNKNOWN_PROFILE = "unknown"
"""The profile of a device that was named by its address and has not been contacted yet."""


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
    """The dialect's name; None for that of the profile or the address (harness.devices.opening)."""
    transport_options: Mapping[str, Any] = field(default_factory=dict)
    """The options of the transport, which harness.protocols.TransportPlugin declares."""
    dialect_options: Mapping[str, Any] = field(default_factory=dict)
    """The options of the dialect."""
    delegate_options: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Options by target, which override those of the profile: `{ edgetpu = { device = "usb:1" } }`."""
    meter: str | None = None
    meter_options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def selector(self) -> str:
        """How a command line selects it: by name, or by address if no farm file has it."""
        return self.address if self.profile == UNKNOWN_PROFILE else self.name


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """A TFLite runtime on a device."""

    name: str
    """The import name: `ai_edge_litert`, `tflite_runtime` or `tensorflow`."""
    version: str
    numpy: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """The facts that a device reports in `hello`; None if it does not report one."""

    identity: str
    """The hash of the machine id or board serial; reboots and new addresses do not change it."""
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
    """The device's wall clock minus ours; too small by the travel time of the answer."""
    governor: str | None = None
    temperature_c: float | None = None
    load_1m: float | None = None
    free_bytes: int | None = None
    accelerators: tuple[str, ...] = ()
    sensors: tuple[str, ...] = ()
    python_bits: int | None = None
    """32 or 64: a 32-bit Python on a 64-bit kernel needs other wheels than `machine` suggests."""
    usable_cores: int | None = None
    """The number of processors that the agent may run on."""
    processors: tuple[int, ...] = ()
    """The numbers of these processors, the fastest first."""
    throttled: int | None = None
    """Bits of `vcgencmd get_throttled`, as in :class:`Covariates`."""
    unpacks: tuple[str, ...] = ()
    """The codecs that the device can unpack files from."""
    usb: tuple[str, ...] = ()
    """The vendor:product ids of connected USB devices."""
    runtime_problems: tuple[str, ...] = ()
    """Installed runtimes that cannot be imported, with the reason."""


# --- models, recipes and variants --------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DataSource:
    """The data of a model: absolute paths, `random`, or `file.py:generator`."""

    training: str | None = None
    calibration: str | None = None
    evaluation: str | None = None
    metric: str = "top1"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSource:
    """A model of the user, from which variants are built."""

    name: str
    path: Path
    data: DataSource = DataSource()
    shape: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    """Shapes for dynamic dimensions, by input name (`*` for a single input)."""
    signature: str | None = None
    allow_flex: bool = False
    trust: bool = False
    """Whether the user trusts whoever made the file, so that code in it may run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepCall:
    """One step of a recipe with its parameters, as data."""

    name: str
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Format the step as in a plan: `prune(sparsity=0.5)`."""
        if not self.parameters:
            return self.name
        inside = ", ".join(f"{key}={written(value)}" for key, value in self.parameters.items())
        return f"{self.name}({inside})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A name and ordered steps, `prune(sparsity=0.5) > int8`, optionally for one target."""

    name: str
    """The text in the plan and the rows, with the target if the plan names one."""
    steps: tuple[StepCall, ...]
    target: str | None = None

    @property
    def chain(self) -> str:
        """The steps in canonical form; equal chains build equal files."""
        return " > ".join(str(step) for step in self.steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tensor:
    """An input or output of a .tflite file."""

    name: str
    shape: tuple[int, ...]
    """The dimensions; -1 for a dynamic one."""
    dtype: str
    scale: float | None = None
    zero_point: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """The agreement of two files' outputs on the same inputs."""

    samples: int
    top1: float | None
    """Share of inputs with the same arg-max; null if there are no classes."""
    relative_error: float
    """||a - b|| / ||b|| over all outputs, b the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfCheck:
    """What the outputs of a device show by themselves, without a reference.

    harness.devices.delegation judges it.
    """

    inferences: int
    inputs: int
    """Different inputs."""
    outputs: int
    """Different outputs, all tensors together."""
    repeats: int
    """Inferences whose input ran before."""
    unlike: int = 0
    """Repeats with another output than the first time."""
    shift: int | None = None
    """Every output is that of the input this many inferences before; None if that is not so."""
    copied: str | None = None
    """The output that repeats an input's bytes in every inference."""
    not_finite: int = 0
    """Inferences with a NaN, or with only infinite values, in an output."""
    metric: str | None = None
    """The metric of `score`; None if there are no labels, or too few to judge by."""
    score: float | None = None
    """The metric over the labelled inputs among them."""
    chance: float | None = None
    """The probability of a score at least as good if outputs and labels had nothing to do with each other."""
    expected: tuple[str, ...] = ()
    """Findings that the reference's outputs have too, or that the file explains: they are no fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compiled:
    """The report of a vendor's compiler about a file, checked against the compiled file."""

    compiler: str
    """The name and version that it prints."""
    mapped_ops: int | None = None
    """Operators of the original file that it mapped to the accelerator."""
    total_ops: int | None = None
    left: Mapping[str, str] = field(default_factory=dict)
    """Operators left on the CPU, by name, with the compiler's reason."""
    subgraphs: int | None = None
    on_chip_bytes: int | None = None
    """Bytes of weights in the accelerator's memory."""
    off_chip_bytes: int | None = None
    """Bytes of weights that are sent to the accelerator with every inference."""
    source: str = ""
    """The source of the report: the log's name, or `stdout`."""
    contradiction: str | None = None
    """The contradiction between the report and the compiled file, if there is one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Uncompiled:
    """The input file of a vendor's compiler, which the host can run in place of the compiled file."""

    path: Path
    digest: str
    """sha256 of the file, hexadecimal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """The file that a recipe built from a model for a target, and its facts on the host."""

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
    """The value of `metric` on the host over the plan's evaluation data: a share or an error."""
    accuracy_low: float | None = None
    """The low end of the metric's 95 % interval over samples, if it has one."""
    accuracy_high: float | None = None
    """The high end."""
    accuracy_samples: int | None = None
    accuracy_source_model: float | None = None
    """The float file's accuracy on the same samples."""
    metric: str | None = None
    metric_direction: Direction | None = None
    """None in old runs, which do not store it: see `accuracy_better`."""
    agreement: Agreement | None = None
    """The agreement with the source model, on real inputs if the plan gives any."""
    build_seconds: float | None = None
    compiled: Compiled | None = None
    """The compiler's report for a compiled file, if its log exists."""
    uncompiled: Uncompiled | None = None
    """The input of the compile step, if both files have the same inputs and outputs."""
    notes: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()

    @property
    def accuracy_better(self) -> Direction:
        """Which values of `accuracy` are better, by its metric."""
        return self.metric_direction or ("lower" if self.metric in _OLD_ERRORS else "higher")

    @property
    def accuracy_drop(self) -> float | None:
        """The loss of `accuracy` against the source model; negative if it is better.

        For an error (`mse`) it is the increase. None if either value is unknown.
        """
        if self.accuracy is None or self.accuracy_source_model is None:
            return None
        lost = self.accuracy_source_model - self.accuracy
        # 0.9 - 0.88 is 0.020000000000000018 in binary, which is no more than 0.02.
        largest = max(abs(self.accuracy_source_model), abs(self.accuracy)) or 1.0
        lost = round(lost, _EXACT_DIGITS - math.floor(math.log10(largest)))
        return -lost if self.accuracy_better == "lower" else lost


_EXACT_DIGITS = 12
"""Decimal digits of an accuracy that count in a difference of two."""

_OLD_ERRORS = ("mse", "mae")
"""The metrics with lower values better in old runs, which do not store the direction."""


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
    """The time between the scheduled starts of two frames; only for a stream."""
    sustained_minutes: float = 10.0
    """How long a sustained launch measures; `min_seconds` and `max_seconds` do not apply."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """The conditions during a measurement; docs/measurement.md has the reasons.

    Rows are flagged if a condition could not be applied (`uncontrolled`, `hot_start`).
    """

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    pin: bool = True
    """Pin the frequency governor and place launches on the fastest processors, if allowed."""
    thermal: Thermal = "cool"
    """`cool` waits for the idle temperature before each launch, `none` does not wait, and `soak` heats
    the device to a constant temperature first."""


DEFAULT_CONDITIONS = Conditions()


@dataclass(frozen=True, slots=True, kw_only=True)
class Accept:
    """The limits of a row; an absent key is not checked."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    max_accuracy_drop: float | None = None
    """Absolute, on the host, against the source model; for an error (`mse`) the increase."""
    min_agreement: float = 0.95
    min_delegated: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why there is no number: a kind (the row's status) and the reason as text."""

    kind: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A variant on a device with options and a dose.

    If the variant could not be built, the cell has its Failure, so that it still has exactly one
    outcome.
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
    check_labels: str | None = None
    """An .npz of their labels (arrays by name), for a file without a reference on the host."""
    check_metric: str | None = None
    """The metric that scores outputs by `check_labels`."""
    flags: tuple[str, ...] = ()
    cache: Cache | None = None
    """The state of the runtime's caches; None for a runtime without caches, as in old runs."""

    @property
    def id(self) -> str:
        """The cell's id in a run; the same plan gives the same ids, so a run can be resumed."""
        text = "\0".join((self.model, self.recipe, self.target, self.device, str(self.threads)))
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def lost_accuracy(self) -> float | None:
        """The drop on the host if it is over `accept.max_accuracy_drop`; else None."""
        limit = self.accept.max_accuracy_drop
        if limit is None or isinstance(self.variant, Failure):
            return None
        drop = self.variant.accuracy_drop
        return drop if drop is not None and drop > limit else None


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchOrder:
    """The order of one launch: all inputs of the agent, decided as data before anything runs."""

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
    """Import name of the runtime to use, or NAME=VERSION; None for the agent's first."""
    delegate: str | None = None
    """Path or soname of a delegate library on the device; None for the runtime's own delegate."""
    delegate_options: Mapping[str, str] = field(default_factory=dict)
    processors: tuple[int, ...] = ()
    """The numbers of the processors to run on; if empty, the device's scheduler chooses."""
    timeout_seconds: float = 120.0
    limits: Mapping[str, int] = field(default_factory=dict)
    """The largest random integer of each input that holds indices, by tensor name."""
    cache: Cache | None = None

    @property
    def launch_id(self) -> str:
        """The launch's id in a run."""
        return f"{self.cell_id}-{self.kind}-{self.block}-{self.position}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Samples:
    """The columns of one series, of equal length: time on the device's clock, value, inferences averaged.

    `at_ns` is array('q'), `value` array('d'), `count` array('l'-compatible 'q').
    """

    series: str
    at_ns: array[int]
    value: array[float]
    count: array[int]

    @classmethod
    def of(cls, series: str, values: Iterable[float], count: int = 1) -> Self:
        """Make the samples of a program that reports no times; the times are 0, 1, 2, ...

        `count` is the number of inferences that each value averages.
        """
        column = array("d", values)
        at_ns, counts = array("q", range(len(column))), array("q", [count] * len(column))
        return cls(series=series, at_ns=at_ns, value=column, count=counts)

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.value)


@dataclass(frozen=True, slots=True, kw_only=True)
class Warmup:
    """The warm-up of one launch, which is not in its samples."""

    inferences: int
    seconds: float
    steady: bool
    """Whether the medians of the last two windows differed by at most 2 %."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Covariates:
    """The state of a device at one moment; null if it has no such sensor."""

    temperature_c: float | None = None
    frequency_mhz: float | None = None
    governor: str | None = None
    throttled: int | None = None
    """Bits of `vcgencmd get_throttled`."""
    max_mhz: float | None = None
    """The frequency limit of the fastest processor (`scaling_max_freq`), which thermal protection lowers."""
    cooling: int | None = None
    """The highest state of the kernel's cooling devices that slow processors; 0 if none does."""
    thermal_status: int | None = None
    """Android `dumpsys thermalservice`: 0 none, 1 light, ... 6 shutdown."""
    load_1m: float | None = None
    power_mw: float | None = None
    """The board's power, by its own sensors (tegrastats)."""
    seconds_at_mhz: Mapping[str, float] | None = None
    """The time since boot at each frequency of the fastest processor: the kernel's time in state. The
    difference between after and before gives the frequencies of a launch."""
    battery_percent: int | None = None
    battery_c: float | None = None
    charging: bool | None = None
    """Whether a phone has external power; its charging heats it."""
    screen_on: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapter:
    """The hardware of a GPU delegate, as its driver reports it."""

    name: str
    type: str = ""
    """`discrete GPU`, `integrated GPU`, `CPU`, ...; empty if the driver does not report it."""
    driver: str = ""
    """The driver's name and version, or the interface to it (`Vulkan`)."""


TimedPart = Literal["invoke", "run", "run+read"]
"""The part of an inference that a latency sample measures: a call that returns when the work is done
(`invoke`), only the asynchronous enqueue (`run`), or the enqueue and the reading of all outputs
(`run+read`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delegation:
    """The operators that the delegate ran in one launch, with the evidence.

    harness.devices.delegation judges it.
    """

    delegate: str
    """`xnnpack`, `edgetpu`, `gpu`, `none`, ..."""
    delegated_ops: int | None = None
    """Operators of the file on the delegate; for an accelerator without those on the CPU's delegate."""
    total_ops: int | None = None
    partitions: int | None = None
    left: tuple[str, ...] = ()
    """Operators left on the CPU, by name."""
    left_why: Mapping[str, str] = field(default_factory=dict)
    """By operator, the cause that the log gives, with what to change if that is known."""
    evidence: str = ""
    """Kinds of evidence, each with its text, joined by `; ` (harness.devices.delegation.KINDS)."""
    fully: bool | None = None
    """The result of the runtime's `is_fully_accelerated`; None if it was not called."""
    clock: TimedPart = "invoke"
    library: str | None = None
    """The delegate library and the version that it reports."""
    settings: str | None = None
    """The delegate's settings, as text: `float16 allowed`, `float32, shader cache /var/tmp/x`."""
    handed_ns: int | None = None
    """The asynchronous enqueue of one inference on an accelerator, timed separately from the samples; the
    minimum of a few."""
    whole_ns: int | None = None
    """The same inferences including the reading of the last output."""
    adapter: Adapter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Exchange:
    """One request to a device and its answer, with times on the monotonic clocks of both sides.

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
    """The offset of a device's monotonic clock to the host's at one moment, from the best exchange."""

    at_host_ns: int
    """The time of the reading, on the host's monotonic clock."""
    offset_ns: int
    """The device's clock minus the host's. Each starts at its machine's boot, so the offset can be years."""
    uncertainty_ns: int
    """The maximum error of `offset_ns`: half of the round trip, and the drift during it."""
    round_trip_ns: int
    """The round trip of the exchange, without the time in the device."""
    exchanges: int
    """The number of exchanges, including this one."""
    drift_ppm: float | None = None
    """How much faster the device's clock runs; null until it is known to 10 ppm."""

    @property
    def at_ns(self) -> int:
        """The time of the reading, on the device's clock."""
        return self.at_host_ns + self.offset_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeWindow:
    """The time of the timed part of a launch: from its first timed inference to its last.

    Load, first inference and warm-up are not in it; they are in the process's window. The host's
    times are valid until the host restarts. The samples' `at_ns` are on the device's clock.
    """

    start_ns: int
    """On the device's monotonic clock, like the other times without `host` in their names."""
    end_ns: int
    start_host_ns: int
    """On the host's monotonic clock (`time.monotonic_ns`); never before the request was sent."""
    end_host_ns: int
    """On the host's monotonic clock; never after the answer was received."""
    uncertainty_ns: int
    """The maximum error of each of the two host times (see harness.devices.clocks)."""
    process_start_ns: int | None = None
    """Just before the process was started; null if the device does not report it."""
    process_end_ns: int | None = None
    """Just after the process ended."""
    stepped: bool = False
    """Whether the device's clock stepped or was over 500 ppm off; the uncertainty covers both readings."""
    clocks: tuple[Clock, ...] = ()
    """The clock readings before and after the launch, which gave the host times. Empty if the device's clock
    could not be read: then the request and answer of the launch were the only exchange."""
    answered_utc: str | None = None
    """The time of the answer on the host's wall clock (ISO 8601); only for finding it in a log."""


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
    """The runtime's name and version."""
    kernel: str | None = None
    """The release of the device's kernel; null if the agent does not report it."""
    usable_cores: int | None = None
    delegation: Delegation
    wall_ns: int
    """From the start of the process to its exit, on the device's monotonic clock."""
    load_ns: int | None = None
    first_ns: int | None = None
    warmup: Warmup | None = None
    inner_loop: int = 1
    inferences: int = 0
    drift: float | None = None
    """ln(median of last third / median of first third)."""
    cpu_share: float | None = None
    """Thread time over wall time of the measured part; None for a stream or an accelerator, which wait."""
    involuntary_switches: int | None = None
    summary: Literal["median", "mean"] | None = None
    """The statistic in the only latency sample, if the device's tool reports no single inferences."""
    missed_deadlines: int | None = None
    """Frames of a stream that were not done one period after their scheduled start."""
    before: Covariates = Covariates()
    after: Covariates = Covariates()
    window: TimeWindow | None = None
    """The time of a timed launch, if the device reports it."""
    left_running: tuple[str, ...] = ()
    """Processes that this launch or earlier ones left running beside it: `name (pid 1234)`.

    The first eight; of more, the last item is their number: `3 more`."""
    flags: tuple[str, ...] = ()
    samples: tuple[Samples, ...] = ()
    """Stored separately (Parquet); empty in a launch that is read from its journal line."""

    @classmethod
    def of(cls, order: LaunchOrder, **measured: Any) -> Self:  # noqa: ANN401 - fields of this class
        """Make the launch of an order; `measured` has the fields that are not in the order."""
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
    """The transfer of a file to a device."""

    digest: str
    file_bytes: int
    travelled_bytes: int
    """The bytes that the device received; fewer than `file_bytes` if the file was packed."""
    codec: str | None
    seconds: float
    """The time from packing until the device confirmed the complete file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PushProgress:
    """How far the transfer of a file to a device is."""

    name: str
    """The file's name, or its digest."""
    arrived_bytes: int
    file_bytes: int
    """Of the bytes that travel: fewer than the file has if it is packed."""
    bytes_per_second: float
    """Of the last seconds; 0 if it is not known yet."""

    @property
    def seconds_left(self) -> float | None:
        """The time until the file has arrived at this speed; None if nothing moves."""
        if self.bytes_per_second <= 0:
            return None
        return (self.file_bytes - self.arrived_bytes) / self.bytes_per_second


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The result of a cell: either launches or a Failure."""

    cell: Cell
    launches: tuple[Launch, ...] = ()
    failure: Failure | None = None
    agreement: Agreement | None = None
    """The agreement of the device's outputs with the host's for the same file."""
    selfcheck: SelfCheck | None = None
    """What the device's outputs show without the host's."""

    def __post_init__(self) -> None:
        """Check that there are either launches or a failure."""
        if bool(self.launches) == (self.failure is not None):
            message = "an outcome has either launches or a failure"
            raise ValueError(message)


# --- plans -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedModel:
    """One model of a plan with its recipes and devices."""

    source: ModelSource
    recipes: tuple[Recipe, ...]
    devices: tuple[str, ...]
    """Selectors as written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRules:
    """The judged metrics and limits of a gate: the [gate] table of a plan."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = FINITE
    metrics: tuple[str, ...] = ("latency", "size", "accuracy")
    """The judged metrics; the others are only printed."""
    margin: _Share = 0.05
    """Relative: PASS is significantly less than this much worse."""
    min_effect: _Share = 0.02
    """Relative: REGRESSION is at least this much worse."""
    max_pairs: Annotated[int, Ge(2), Le(100_000)] = 20
    budget_seconds: Annotated[float, Ge(1), Le(604_800)] = 300.0
    """The time limit of each comparison, not of the whole gate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A range of numbers including both ends; with integer ends it may mean integers (by step)."""

    low: float
    high: float

    def __str__(self) -> str:
        """Format it as in a plan: `0.3..0.9`."""
        return f"{self.low}..{self.high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """Two or more different alternatives."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        """Format it as in a plan: `4|8`."""
        return "|".join(written(value) for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """The constraints of every point of a search's result; KB and MB are 10^3 and 10^6 bytes."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = FINITE
    max_accuracy_drop: _NotNegative | None = None
    """Absolute, on the host, against the source model; for an error (`mse`) the increase."""
    min_accuracy: _Share | None = None
    max_size_kb: _NotNegative | None = None
    max_size_zstd_kb: _NotNegative | None = None
    max_latency_ms: _NotNegative | None = None
    """The limit of latency_p50_ms."""
    max_peak_rss_mb: _NotNegative | None = None

    def given(self) -> dict[str, float]:
        """Return the given constraints, by name."""
        named = asdict(self)
        return {name: limit for name, limit in named.items() if limit is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """The [search] table of a plan."""

    space: tuple[Recipe, ...]
    """The recipes; values of their parameters may be Between or OneOf."""
    model: str | None
    objectives: tuple[str, ...]
    constraints: Constraints
    device: str
    trials: int
    processes: int
    accuracy_better: Direction = "higher"
    """The better direction of the metric of the model's data."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HostLimits:
    """The limits of what runs on this host for a model: the [host] table of a plan."""

    seconds: float = 120.0
    """Time without progress after which a job is ended; ten times the first build's are added."""
    memory_mb: int = 4_096
    """Resident memory of a worker and its child processes together, in units of 1,000,000 bytes."""
    training_seconds: float = 86_400.0
    """Time of a step that trains. Its memory is limited to three quarters of the machine's."""

    @property
    def memory_bytes(self) -> int:
        """The memory in bytes."""
        return self.memory_mb * 1_000_000


DEFAULT_HOST = HostLimits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A checked plan.toml: every path is absolute, every recipe is parsed."""

    path: Path | None
    digest: str
    """sha256 of the plan's meaning (canonical JSON), not of its text."""
    models: tuple[PlannedModel, ...]
    threads: tuple[int, ...] = (1,)
    cache: Cache | None = None
    seed: int = 0
    patience_seconds: float = PATIENCE_SECONDS
    conditions: Conditions = DEFAULT_CONDITIONS
    dose: Dose = Dose()
    accept: Accept = Accept()
    gate: GateRules = GateRules()
    search: Search | None = None
    host: HostLimits = DEFAULT_HOST
    text: Mapping[str, Any] = field(default_factory=dict)
    """The plan as it was read, for the record."""


def written(value: object) -> str:
    """Format a parameter's value as in a recipe, which is TOML."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(written(item) for item in value) + "]"
    return str(value)
