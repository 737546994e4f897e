"""Read the log that the vendor's benchmark_model writes with --enable_op_profiling.

Format: LiteRT tools/benchmark and tensorflow/core/util/stats_calculator; logs of issues
tensorflow#42507, #53138, #56301 and XNNPACK#999. A section has a line of `=` with its title, a line
of column names in brackets, and a line per operator, split by tabs or, in a phone's log, by blanks.
The columns differ by version ([start] was removed), so they are found by name. The parser ignores
the rest of the log; a log without operators gives none and never raises an error.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

_LOGCAT = re.compile(r"^\d\d-\d\d \d\d:\d\d:\d\d\.\d+\s+\d+\s+\d+ [VDIWEF] [^:]*: ?")
_PREFIX = re.compile(r"^(?:INFO|VERBOSE|WARNING): ?")
_RULE = re.compile(r"={3,}")
_COLUMN = re.compile(r"\[([^\[\]]*)\]")
_NUMBER = re.compile(r"^[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?%?$")
_AVERAGE = re.compile(r"\bavg=([0-9.eE+-]+)")
_INFERENCE = re.compile(r"\bInference(?: \(avg\))?: ([0-9.eE+-]+)")
_POSITION = re.compile(r"^\[(?P<name>.*)\](?::(?P<position>\d+))?$|^(?P<plain>.*?):(?P<at>\d+)$")

_MAX_LINE_LENGTH = 4_000
"""Characters read per line; a longer line is no part of the format."""

_RUN_ORDER = "run order"
_INITIALISATION = "Initialization"
_DELEGATE = "Delegate internal"
_INSIDE = "Delegate/"
_AVG, _FIRST, _CALLED, _NAME = "avg ms", "first", "times called", "name"


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolOperator:
    """One line of the run order."""

    type: str
    name: str
    """Name without brackets and position."""
    node: int | None
    """The node's number in the graph; null if the log has none."""
    avg_ns: float
    """Average time per inference."""
    first_ns: float | None
    inside: bool
    """Whether it is a delegate's own operator, whose time the delegate's line includes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ToolProfile:
    """The times in one log."""

    operators: tuple[ToolOperator, ...]
    """In the order of the log, which is the order of execution outside a delegate."""
    inference_avg_ns: float | None
    """The tool's own average per inference, with profiling."""


def parse(log: str) -> ToolProfile:
    """Read a log; unknown lines are ignored."""
    lines = [_PREFIX.sub("", _LOGCAT.sub("", line[:_MAX_LINE_LENGTH])) for line in log.splitlines()]
    return ToolProfile(operators=tuple(_operators(lines)), inference_avg_ns=_average(lines))


def _operators(lines: Iterable[str]) -> Iterable[ToolOperator]:
    """Yield the operators of the run-order sections of regular runs."""
    title, initialising, inside = "", False, False
    columns: list[str] = []
    for line in lines:
        section = _section(line)
        if section:
            title, columns = section, []
        elif "Profiling Info" in line:
            initialising, inside = _INITIALISATION in line, _DELEGATE in line
            title = ""
        elif line.strip().startswith(_DELEGATE):
            inside, title = True, ""
        elif title == _RUN_ORDER and not initialising:
            if not columns:
                columns = _columns(line)
                continue
            found = _operator(line, columns, inside=inside)
            if found is not None:
                yield found
            elif not line.strip():
                title = ""


def _section(line: str) -> str:
    """Return the title between two rules of `=` in lower case; empty if the line has none."""
    parts = _RULE.split(line)
    return parts[1].strip().lower() if len(parts) > 2 else ""  # noqa: PLR2004 - both rules


def _columns(line: str) -> list[str]:
    names = [name.strip().lower() for name in _COLUMN.findall(line)]
    usable = len(names) > 1 and names[0] == "node type" and _AVG in names
    return names if usable else []


def _operator(line: str, columns: Sequence[str], *, inside: bool) -> ToolOperator | None:
    """Read a line by the columns; None if it is not an operator."""
    numeric = [name for name in columns[1:] if name != _NAME]
    cells = _cells(line, len(numeric))
    if cells is None:
        return None
    kind, numbers, rest = cells
    values = dict(zip(numeric, numbers, strict=True))
    average = values[_AVG]
    if not kind or not math.isfinite(average) or average < 0:
        return None
    name, node = _named(rest)
    first = values.get(_FIRST)
    return ToolOperator(
        type=kind,
        name=name,
        node=node,
        avg_ns=average * 1e6,
        first_ns=first * 1e6 if first is not None and math.isfinite(first) else None,
        inside=inside or name.startswith(_INSIDE),
    )


def _cells(line: str, count: int) -> tuple[str, list[float], str] | None:
    """Split a line into its type, `count` numbers in a row, and the rest."""
    cells = [cell.strip() for cell in line.split("\t") if cell.strip()]
    if len(cells) <= count:
        cells = line.split()
    for start in range(1, len(cells) - count + 1):
        wanted = cells[start : start + count]
        if all(_NUMBER.match(cell) for cell in wanted):
            numbers = [float(cell.removesuffix("%")) for cell in wanted]
            return " ".join(cells[:start]), numbers, " ".join(cells[start + count :])
    return None


def _named(text: str) -> tuple[str, int | None]:
    """Split `[name]:3` into the name and the node's number."""
    found = _POSITION.match(text)
    if not found:
        return text, None
    if found["plain"] is not None:
        return found["plain"], _integer(found["at"])
    return found["name"], _integer(found["position"])


def _integer(digits: str | None) -> int | None:
    # A number of ten or more digits is no node, and int() raises for very long ones.
    return int(digits) if digits and len(digits) < 10 else None  # noqa: PLR2004


def _average(lines: Iterable[str]) -> float | None:
    """Return the average inference in ns, from the summary, else from the last timing line (us)."""
    last: float | None = None
    for line in lines:
        summary = _INFERENCE.search(line) if "nference timings in us" in line else None
        if summary and (value := _positive(summary.group(1))) is not None:
            return value * 1e3
        timing = _AVERAGE.search(line) if "count=" in line else None
        if timing and "Memory" not in line:
            last = _positive(timing.group(1)) or last
    return None if last is None else last * 1e3


def _positive(digits: str) -> float | None:
    try:
        value = float(digits)
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None
