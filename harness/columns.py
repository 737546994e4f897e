"""Every column of a row, as data: its meaning, unit, better direction and format.

The table, the screen, the page, the exports, search, pick and the gate read this registry, so a new
column needs one entry here and one function in `harness/records/table/sources.py`. `show`, csv and
json have these names in this order. Units are in the names, and MB is 10^6 bytes.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from harness.types import Direction

NS_PER_MS = 1e6
BYTES_PER_MB = 1e6
BYTES_PER_KB = 1e3

Kind = Literal["text", "list", "number"]

Known = Literal["always", "answered", "measured", "judged"]
"""The rows in which a column can have a value: `always` in every row, `answered` not in a row that is
pending or failed, `measured` only if the status is `ok` or `partial`, `judged` also if the accuracy on
the host is why the row failed. In other rows it is null."""

Noise = Literal["exact", "launches", "pooled"]
"""`exact`: a repeated measurement gives the same value. `launches`: each launch has its own value, and
their spread gives the confidence of a comparison. `pooled`: noisy, without a value per launch."""

Form = Literal["text", "usual", "milliseconds", "decimals", "bytes", "rate", "accuracy", "share"]
"""The format of a value in tables for people: `usual` is a text that is left out if it is the usual
one; `decimals` has `digits` decimals; `bytes` kB or MB; `rate` three significant digits or more;
`share` four decimals."""

When = Literal["always", "known", "differs", "unusual"]
"""When a printed table has the column: always, if any row has a value, if rows differ in it, or if any
row has another value than the usual one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """The format of a column in tables for people."""

    title: str
    form: Form = "text"
    digits: int = 0
    usual: str = ""
    place: int = 500
    """The order from left to right; equal ones are in the registry's order."""
    rank: int = 0
    """If the page is too narrow, columns of a higher rank are left out first; 0 never is."""
    when: When = "known"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One column of a row."""

    name: str
    help: str
    """The meaning, in one line."""
    kind: Kind = "number"
    unit: str = ""
    """The unit of the value in a row; empty for text, counts and shares."""
    base_unit: str = ""
    """The unit in the stored records and in the gate."""
    scale: float = 1
    """Base units per unit: 1e6 ns per millisecond."""
    better: Direction | None = None
    by_metric: bool = False
    """Whether the row's metric decides which values are better; `better` is for rows without one."""
    known: Known = "measured"
    noise: Noise = "exact"
    low: str | None = None
    """The column of the low end of the 95 % interval."""
    high: str | None = None
    """The column of the high end."""
    of: str | None = None
    """The column of the total, for a column that counts a part of it."""
    exports: Mapping[str, str] = field(default_factory=dict)
    """The name in each of other tools' formats: `bmf`, `github`, `gbench`, `pyperf`."""
    gate: str | None = None
    """The name as a metric of the gate."""
    comparatives: tuple[str, str] = ("larger", "smaller")
    """The gate's adjectives for a worse and for a better value."""
    searched: Literal["host", "device"] | None = None
    """Where a search gets it: on the host as soon as the file is built, or on the device by measuring.
    None: a search cannot use it."""
    look: Look | None = None
    """None: the column is not in tables for people."""

    @property
    def exact(self) -> bool:
        """Whether a repeated measurement gives the same value."""
        return self.noise == "exact"


def _text(name: str, help_: str, *, known: Known = "always", look: Look | None = None) -> Column:
    return Column(name=name, help=help_, kind="text", known=known, look=look)


ALL: tuple[Column, ...] = (
    Column(
        name="run",
        help="id of the stored run",
        kind="text",
        known="always",
        exports={"pyperf": "edge_run"},
    ),
    _text("model", "name of the model", look=Look(title="model", place=10, when="always")),
    _text("recipe", "how the file was made", look=Look(title="recipe", place=20, when="always")),
    Column(
        name="variant",
        help="sha256 of the file",
        kind="text",
        known="always",
        exports={"pyperf": "edge_variant"},
    ),
    _text(
        "target",
        "the requested target: xnnpack, gpu, edgetpu, ...",
        look=Look(title="target", place=40, rank=8, when="differs"),
    ),
    _text("device", "name of the device", look=Look(title="device", place=30, when="always")),
    Column(
        name="threads",
        help="threads of the runtime",
        known="always",
        look=Look(title="thr", place=50, rank=4, when="differs"),
    ),
    Column(
        name="runtime",
        help="name and version of the runtime on the device",
        kind="text",
        known="answered",
        exports={"pyperf": "edge_runtime"},
    ),
    Column(
        name="delegate",
        help="the delegate that was made",
        kind="text",
        known="answered",
        exports={"pyperf": "edge_delegate"},
    ),
    _text(
        "status",
        "ok, partial, pending, damaged, or the kind of failure",
        look=Look(title="status", place=70, when="always"),
    ),
    _text("reason", "why the status is not ok"),
    Column(
        name="latency_p50_ms",
        help="latency of one inference: the median of the launches' medians",
        unit="ms",
        base_unit="ns",
        scale=NS_PER_MS,
        better="lower",
        noise="launches",
        low="latency_p50_low_ms",
        high="latency_p50_high_ms",
        exports={"bmf": "latency", "github": "latency p50"},
        gate="latency",
        comparatives=("slower", "faster"),
        searched="device",
        look=Look(title="p50 ms", form="milliseconds", place=80, when="always"),
    ),
    Column(
        name="latency_p50_low_ms",
        help="lower end of its 95 % interval over launches; null under 3 launches",
        unit="ms",
        base_unit="ns",
        scale=NS_PER_MS,
        better="lower",
        noise="pooled",
    ),
    Column(
        name="latency_p50_high_ms",
        help="upper end of its 95 % interval over launches; null under 3 launches",
        unit="ms",
        base_unit="ns",
        scale=NS_PER_MS,
        better="lower",
        noise="pooled",
    ),
    Column(
        name="latency_p90_ms",
        help="90th percentile of latency; pooled over launches, null under 36 samples",
        unit="ms",
        base_unit="ns",
        scale=NS_PER_MS,
        better="lower",
        noise="pooled",
        exports={"bmf": "latency-p90"},
        searched="device",
        look=Look(title="p90 ms", form="milliseconds", place=90, rank=2),
    ),
    Column(
        name="latency_p99_ms",
        help="99th percentile of latency; pooled over launches, null under 368 samples",
        unit="ms",
        base_unit="ns",
        scale=NS_PER_MS,
        better="lower",
        noise="pooled",
        exports={"bmf": "latency-p99"},
        searched="device",
        look=Look(title="p99 ms", form="milliseconds", place=100, rank=6),
    ),
    Column(
        name="load_ms",
        help="time from opening the file to allocated tensors",
        unit="ms",
        base_unit="ns",
        scale=NS_PER_MS,
        better="lower",
        noise="launches",
        exports={"bmf": "load-time", "github": "load", "gbench": "load_ms"},
        gate="load",
        comparatives=("slower", "faster"),
        searched="device",
        look=Look(title="load ms", form="milliseconds", place=140, rank=9),
    ),
    Column(
        name="first_ms",
        help="time of the first inference of a launch",
        unit="ms",
        base_unit="ns",
        scale=NS_PER_MS,
        better="lower",
        noise="launches",
        exports={"bmf": "first-inference", "gbench": "first_ms"},
        gate="first",
        comparatives=("slower", "faster"),
        searched="device",
        look=Look(title="first ms", form="milliseconds", place=150, rank=10),
    ),
    Column(name="launches", help="timed launches"),
    Column(name="inferences", help="timed inferences of all launches"),
    Column(
        name="peak_rss_mb",
        help="largest resident memory of a process with the model, runtime included",
        unit="MB",
        base_unit="B",
        scale=BYTES_PER_MB,
        better="lower",
        noise="launches",
        exports={"bmf": "peak-memory", "github": "peak memory", "gbench": "peak_rss_mb"},
        gate="memory",
        searched="device",
        look=Look(title="peak MB", form="decimals", digits=1, place=160, rank=3),
    ),
    Column(
        name="model_memory_mb",
        help="`peak_rss_mb` minus the peak of a process without a model",
        unit="MB",
        base_unit="B",
        scale=BYTES_PER_MB,
        better="lower",
        noise="pooled",
        exports={"bmf": "model-memory", "gbench": "model_memory_mb"},
        searched="device",
        look=Look(title="model MB", form="decimals", digits=1, place=170, rank=11),
    ),
    Column(
        name="size_bytes",
        help="size of the file",
        unit="bytes",
        base_unit="B",
        better="lower",
        known="always",
        exports={"bmf": "file-size", "github": "size", "gbench": "size_bytes"},
        gate="size",
        searched="host",
        look=Look(title="size", form="bytes", place=180, rank=1),
    ),
    Column(
        name="size_zstd_bytes",
        help="size of the file compressed with zstd",
        unit="bytes",
        base_unit="B",
        better="lower",
        known="always",
        searched="host",
    ),
    Column(
        name="delegated_ops",
        help="operators of the file that ran on the delegate",
        better="higher",
        known="answered",
        of="total_ops",
        look=Look(title="delegated", place=200, rank=7),
    ),
    Column(name="total_ops", help="operators of the file", known="answered"),
    Column(
        name="partitions",
        help="parts of the graph on the delegate; each further one adds a switch to the CPU and back",
        better="lower",
        known="answered",
    ),
    _text("evidence", "evidence of which operators ran on the delegate", known="answered"),
    Column(
        name="accuracy",
        help="value of the plan's metric over the evaluation data",
        better="higher",
        by_metric=True,
        known="judged",
        exports={"bmf": "accuracy", "github": "accuracy", "gbench": "accuracy"},
        gate="accuracy",
        comparatives=("less accurate", "more accurate"),
        searched="host",
        look=Look(title="accuracy", form="accuracy", place=190, rank=1),
    ),
    _text("accuracy_source", "where `accuracy` was measured: host", known="judged"),
    Column(
        name="accuracy_host",
        help="value of the plan's metric on the host, also in failed rows",
        better="higher",
        by_metric=True,
        known="always",
    ),
    Column(
        name="energy_mj",
        help="energy of one inference",
        unit="mJ",
        better="lower",
        noise="pooled",
        low="energy_low_mj",
        high="energy_high_mj",
    ),
    Column(
        name="energy_low_mj",
        help="lower end of its 95 % interval",
        unit="mJ",
        better="lower",
        noise="pooled",
    ),
    Column(
        name="energy_high_mj",
        help="upper end of its 95 % interval",
        unit="mJ",
        better="lower",
        noise="pooled",
    ),
    _text("energy_source", "the meter that energy was read from", known="measured"),
    Column(name="ticks", help="cycles of one inference on a microcontroller", better="lower"),
    Column(
        name="arena_bytes",
        help="tensor arena on a microcontroller",
        unit="bytes",
        base_unit="B",
        better="lower",
    ),
    Column(
        name="flash_bytes",
        help="flash on a microcontroller",
        unit="bytes",
        base_unit="B",
        better="lower",
    ),
    Column(
        name="ram_bytes",
        help="memory on a microcontroller",
        unit="bytes",
        base_unit="B",
        better="lower",
    ),
    Column(
        name="temperature_max_c",
        help="highest temperature before or after a timed launch",
        unit="°C",
        base_unit="°C",
        better="lower",
        noise="pooled",
    ),
    Column(
        name="flags",
        help="limitations of the row: emulated, uncontrolled, unsteady, ...",
        kind="list",
        known="always",
        look=Look(title="flags", place=900, rank=5),
    ),
    _text(
        "scenario",
        "order and timing of inferences: single, stream, offline, sustained",
        look=Look(title="scenario", form="usual", usual="single", place=60, rank=1),
    ),
    Column(
        name="throughput_per_s",
        help="inferences per second (scenario offline)",
        unit="1/s",
        base_unit="1/s",
        better="higher",
        noise="pooled",
        exports={"bmf": "throughput", "gbench": "throughput_per_s"},
        look=Look(title="inf/s", form="rate", place=110, rank=1),
    ),
    Column(
        name="missed_deadlines",
        help="frames that were not done one period after their start (scenario stream)",
        better="lower",
        noise="pooled",
        exports={"gbench": "missed_deadlines"},
        look=Look(title="missed", form="decimals", place=120, rank=1),
    ),
    Column(
        name="sustained_ratio",
        help="p50 of the last minute over that of the first (scenario sustained)",
        better="lower",
        noise="pooled",
        exports={"gbench": "sustained_ratio"},
        look=Look(title="last/first", form="decimals", digits=3, place=130, rank=1),
    ),
    _text("verdict", "whether the accelerator ran the model: VALID, SUSPECT, INVALID"),
    _text("verdict_reason", "reason of the verdict"),
    Column(
        name="agreement",
        help="share of inputs with the same class on the device as on the host",
        better="higher",
        known="always",
        exports={"bmf": "agreement", "gbench": "agreement"},
        look=Look(title="agree", form="share", usual="1.0000", place=195, rank=1, when="unusual"),
    ),
    Column(
        name="output_error",
        help="relative error of the device's outputs against the host's: ||device - host|| / ||host||",
        better="lower",
        known="always",
    ),
    _text(
        "conditions",
        "launches that were throttled, under voltage or hot: `throttled (3 of 5 launches)`",
    ),
    _text(
        "cache",
        "state of the runtime's caches before a launch: warm or cold; null if the plan sets none",
        look=Look(title="cache", place=65, rank=3),
    ),
    _text("adapter", "adapter of a GPU delegate, as its driver reports it", known="answered"),
)


@functools.cache
def by_name() -> Mapping[str, Column]:
    """Return every column by name, in the registry's order."""
    return {column.name: column for column in ALL}


def get(name: str) -> Column:
    """Return a column; raises KeyError for a name that rows do not have."""
    return by_name()[name]


def names() -> tuple[str, ...]:
    """Return the names of all columns, in order."""
    return tuple(by_name())


def nearest(name: str) -> str | None:
    """Return the column that a wrong name probably means; None if none is near.

    A column's title in tables counts (`p50 ms`), a part of its name (`p50`), and a misspelling.
    """
    import difflib

    wanted = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    titles = {
        re.sub(r"[^a-z0-9]+", "_", one.look.title.lower()): one.name for one in ALL if one.look
    }
    if wanted in titles:
        return titles[wanted]
    starts = [known for known in names() if wanted and known.startswith(wanted)]
    parts = [known for known in names() if wanted and f"_{wanted}_" in f"_{known}_"]
    near = difflib.get_close_matches(wanted, names(), n=1)
    return next(iter([*starts, *parts, *near]), None)


def exported(form: str) -> Iterator[tuple[str, Column]]:
    """Yield the columns of an export format with their names in it."""
    for column in ALL:
        if form in column.exports:
            yield column.exports[form], column


@functools.cache
def gate_metrics() -> Mapping[str, Column]:
    """Return the columns that the gate compares, by metric."""
    return {column.gate: column for column in ALL if column.gate is not None}


def base_unit_of(metric: str) -> str | None:
    """Return the base unit of a gate metric; None for a share, a count or an unknown name."""
    column = gate_metrics().get(metric)
    return column.base_unit or None if column else None


def better_of(metric: str) -> Direction | None:
    """Return which values of a gate metric are better; None for an unknown name."""
    column = gate_metrics().get(metric)
    return column.better if column else None


def markdown() -> str:
    """Return the table of docs/columns.md."""
    heads = ("Column", "What it is", "Unit", "Better", "Has a value in rows that are", "Noise")
    rows = [
        (
            f"`{column.name}`",
            column.help,
            column.unit or "-",
            "by the metric" if column.by_metric else column.better or "-",
            _KNOWN[column.known],
            _NOISE[column.noise] if column.kind == "number" else "-",
        )
        for column in ALL
    ]
    rule = tuple("---" for _ in heads)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (heads, rule, *rows)) + "\n"


_KNOWN: Mapping[Known, str] = {
    "always": "of any status",
    "answered": "answered by the device",
    "measured": "`ok` or `partial`",
    "judged": "`ok` or `partial`, or refused for its accuracy",
}
_NOISE: Mapping[Noise, str] = {
    "exact": "none",
    "launches": "seen between launches",
    "pooled": "not known per launch",
}

if __name__ == "__main__":
    print(markdown(), end="")  # noqa: T201 - for docs/columns.md
