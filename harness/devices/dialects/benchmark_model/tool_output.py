"""Read the log of both programs named `benchmark_model`: numbers, refusals and errors.

Formats: LiteRT tflite/tools/benchmark/benchmark_model.cc, litert/tools/benchmark_litert_model.h and
xla/tsl/util/stats_calculator.h; older lines from public issues (tensorflow#43541, XNNPACK#999). A
line that starts like one of these and continues otherwise is an unknown format and is named.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NoReturn

from harness.devices.dialects.benchmark_model.report import NS_PER_MS, NS_PER_US, ToolReport

_LOGCAT = re.compile(
    r"^\d\d-\d\d \d\d:\d\d:\d\d\.\d+\s+(?P<pid>\d{1,10})\s+\d+ (?P<level>[VDIWEF]) (?P<tag>[^:]*): ?"
)
_PREFIX = re.compile(
    r"^(?:(?P<level>INFO|VERBOSE|WARN|WARNING|ERROR): ?)?(?:\[[\w./-]{1,80}:\d{1,6}\] ?)?"
)
_IS_ERROR = "ERROR: "
_N = r"(?P<{}>[0-9.]+(?:e[+-]?\d+)?|-?nan|inf)"
_STAT = re.compile(r"([a-z0-9]+)=([^ ()]+)(\(all same\))?(?: |$)")
_CLASSIC = re.compile(
    r"^Inference timings in us: Init: "
    + _N.format("init")
    + ", First inference: "
    + _N.format("first")
    + r", Warmup \(avg\): "
    + _N.format("warmup")
    + r", Inference \(avg\): "
    + _N.format("avg")
    + "$"
)
_OLD = re.compile(
    r"^Average inference timings in us: Warmup: "
    + _N.format("warmup")
    + ", Init: "
    + _N.format("init")
    + ", (?:no stats|Inference): "
    + _N.format("avg")
    + "$"
)
_NUMBER = re.compile(r"(?P<value>-?[0-9.]+(?:e[+-]?\d+)?)(?P<rest>.*)$")
_BLOCK = {
    "Model initialization:": ("init", " ms"),
    "Warmup (first):": ("first", " ms"),
    "Warmup (avg):": ("warmup", " ms"),
    "Inference (avg):": ("avg", " ms"),
    "Inference (min):": ("min", " ms"),
    "Inference (max):": ("max", " ms"),
    "Inference (std):": ("std", ""),
    "Peak memory:": ("peak", " MB"),
}
"""LiteRT's block of results: the start of a line, our name of the value, its unit."""
_BLOCK_RUNS = re.compile(r"^ ms \((\d{1,9}) runs\)$")
_PEAK = re.compile(
    r"^Overall peak memory footprint \(MB\) via periodic monitoring: ([0-9.]+(?:e[+-]?\d+)?)$"
)
_ERROR = re.compile(r"^ERROR: |\b(?:Failed to|Cannot|cannot|Could not|not allocate)\b")
_LINKER = re.compile(
    r"CANNOT LINK EXECUTABLE|error while loading shared libraries|library \"[^\"]+\" not found"
)
STARTED = "STARTING!"
UNCONSUMED = "Unconsumed cmdline flags:"
STAND_IN = "STAND-IN"
"""The mark of a program that plays the vendor's (tests/standins); its rows are `simulated`."""

MAX_LINE_CHARACTERS = 4_000
_KEYS = frozenset(("count", "first", "curr", "min", "max", "avg", "std", "p5", "median", "p95"))
_KEPT_LINES = 8
_MB = 1 << 20


class UnknownFormat(ValueError):
    """A line of the log is not of a known format; the text has the line."""


@dataclass(slots=True, kw_only=True)
class ToolLog:
    """What one log has."""

    started: bool = False
    report: ToolReport | None = None
    """None if the log ends before the results."""
    unconsumed: str | None = None
    """The flags that the program does not know and ignored."""
    missing_library: str | None = None
    """The line of the dynamic linker."""
    errors: tuple[str, ...] = ()
    """The last lines that report an error, without prefixes."""
    last: str = ""
    """The last line that is not empty."""
    stand_in: bool = False


@dataclass(slots=True)
class _State:
    """The values found so far."""

    log: ToolLog = field(default_factory=ToolLog)
    stats: list[Mapping[str, float]] = field(default_factory=list)
    summary: dict[str, float] = field(default_factory=dict)
    block: dict[str, float] = field(default_factory=dict)
    block_runs: dict[str, int] = field(default_factory=dict)
    peak_mb: float | None = None
    errors: list[str] = field(default_factory=list)


def lines_of(text: str) -> list[str]:
    """Return the log's lines without prefixes other than `ERROR: `.

    A phone's log has lines of other processes too: those of the process that logged `STARTING!`
    are kept.
    """
    raw = [line[:MAX_LINE_CHARACTERS].rstrip() for line in text.splitlines()]
    stamped = [(_LOGCAT.match(line), line) for line in raw]
    pid = next(
        (mark["pid"] for mark, line in stamped if mark and line[mark.end() :].strip() == STARTED),
        None,
    )
    kept = []
    for mark, line in stamped:
        if mark is not None and pid is not None and mark["pid"] != pid:
            continue
        bare = line[mark.end() :] if mark is not None else line
        prefix = _PREFIX.match(bare)
        assert prefix is not None
        is_error = prefix["level"] == "ERROR" or (mark is not None and mark["level"] == "E")
        kept.append(_IS_ERROR * is_error + bare[prefix.end() :])
    return kept


def read(text: str) -> ToolLog:
    """Read a log; raises UnknownFormat with the line that has another format than the known ones."""
    state = _State()
    log = state.log
    for line in lines_of(text):
        if not line.strip():
            continue
        log.last = line.strip()
        _read_line(line.strip(), state)
    log.errors = tuple(state.errors[-_KEPT_LINES:])
    log.report = _report(state)
    return log


def _read_line(line: str, state: _State) -> None:
    log = state.log
    if STAND_IN in line:
        log.stand_in = True
    if line == STARTED:
        log.started = True
    elif line.startswith(UNCONSUMED):
        log.unconsumed = line.removeprefix(UNCONSUMED).strip()
    elif not _read_numbers(line, state):
        if _LINKER.search(line):
            log.missing_library = line
        if _LINKER.search(line) or _ERROR.search(line):
            state.errors.append(line)


def _read_numbers(line: str, state: _State) -> bool:
    """Read a line of results; return whether it is one."""
    if line.startswith("count="):
        state.stats.append(_stats(line))
    elif line.startswith("Inference timings in us"):
        state.summary = _matched(_CLASSIC, line)
    elif line.startswith("Average inference timings in us"):
        state.summary = _matched(_OLD, line)
    elif line.startswith("Overall peak memory footprint"):
        state.peak_mb = _peak(line)
    elif any(line.startswith(start) for start in _BLOCK):
        _read_block(line, state)
    else:
        return False
    return True


def _unknown(line: str, why: str = "") -> NoReturn:
    raise UnknownFormat(f"{line[:200]!r}{why and f' ({why})'}")


def _stats(line: str) -> Mapping[str, float]:
    """Read `count=50 first=.. avg=..`, `count=50 curr=123(all same)`, `count=0` and their endings."""
    found: dict[str, float] = {}
    place = 0
    for match in _STAT.finditer(line):
        if match.start() != place:
            break
        place = match.end()
        key = match[1]
        if key not in _KEYS or key in found:
            _unknown(line, f"the value {key}")
        found[key] = _number(match[2], line)
        if match[3] and key != "curr":
            _unknown(line, f"{key} with (all same)")
    if place != len(line) or "count" not in found:
        _unknown(line)
    if found["count"] != int(found["count"]):
        _unknown(line, "count is no whole number")
    return found


def _number(text: str, line: str) -> float:
    try:
        value = float(text)
    except ValueError:
        _unknown(line, f"{text[:40]!r} is no number")
    # 0 / 0 of a run without inferences; such a run has no result below.
    if math.isinf(value):
        _unknown(line, "infinite")
    return value


def _matched(pattern: re.Pattern[str], line: str) -> dict[str, float]:
    match = pattern.match(line)
    if match is None:
        _unknown(line)
    return {name: _number(text, line) for name, text in match.groupdict().items()}


def _peak(line: str) -> float | None:
    match = _PEAK.match(line)
    if match is None:
        _unknown(line)
    return _number(match[1], line)


def _read_block(line: str, state: _State) -> None:
    """Read a line of LiteRT's results, such as `Inference (avg):      1.23 ms (50 runs)`."""
    start = next(one for one in _BLOCK if line.startswith(one))
    name, unit = _BLOCK[start]
    match = _NUMBER.match(line[len(start) :].strip())
    if match is None:
        _unknown(line)
    runs = _BLOCK_RUNS.match(match["rest"])
    if runs is not None and name in ("warmup", "avg"):
        state.block_runs[name] = int(runs[1])
    elif match["rest"] != unit:
        _unknown(line)
    state.block[name] = _number(match["value"], line)


def _report(state: _State) -> ToolReport | None:
    """Return the report; None if the log ends before the results."""
    if not state.summary and "avg" not in state.block:
        return None
    measured = next((one for one in reversed(state.stats)), {})
    warmup = state.stats[-2] if len(state.stats) > 1 else {}
    from_block: dict[str, float] = {
        name: state.block[name] * NS_PER_MS for name in state.block if name not in ("std", "peak")
    }
    # A cut log may have only a part of the block.
    values = {name: us * NS_PER_US for name, us in state.summary.items()} | from_block
    runs = int(measured["count"]) if measured else state.block_runs.get("avg", 0)
    first = values.get("first", warmup.get("first", 0.0) * NS_PER_US)
    peak = state.block.get("peak", state.peak_mb)
    # The line of statistics is in microseconds, LiteRT's block only in hundredths of a millisecond.
    report = ToolReport(
        source="log",
        runs=runs,
        avg_ns=_us(measured, "avg", "curr") or values["avg"],
        median_ns=_us(measured, "median"),
        min_ns=_us(measured, "min", "curr") or values.get("min"),
        max_ns=_us(measured, "max", "curr") or values.get("max"),
        p5_ns=_us(measured, "p5"),
        p95_ns=_us(measured, "p95"),
        init_ns=values.get("init"),
        first_ns=first or None,
        warmup_runs=int(warmup["count"]) if warmup else state.block_runs.get("warmup"),
        warmup_avg_ns=values.get("warmup"),
        peak_bytes=peak * _MB if peak is not None and peak > 0 else None,
    )
    problem = report.problem()
    if problem is not None:
        raise UnknownFormat(f"the results contradict each other: {problem}")
    return report


def _us(stats: Mapping[str, float], *names: str) -> float | None:
    """Return the first of these values of a line of statistics, in ns."""
    found = next((stats[name] for name in names if name in stats), None)
    return None if found is None else found * NS_PER_US


def last_errors(log: ToolLog) -> str:
    """Return the lines that say why a run failed, else its last line."""
    return (
        "; ".join(_unique(one.removeprefix(_IS_ERROR) for one in log.errors))
        or log.last
        or "it printed nothing"
    )


def _unique(lines: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(line[:300] for line in lines))
