"""Read the Edge TPU compiler's account: its stdout, or the .log file beside a compiled model.

    account = read(text)
    account.mapped_ops, account.left, account.off_chip_bytes

The compiler's source is closed and its text changed between versions, so each value has a pattern and all
other text is ignored; a value that is not found is None. Examples of its text: google-coral/edgetpu issues
60, 356, 393, 427, 490, 537, 671.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from harness.printable import counted

MAPPED = "Mapped to Edge TPU"
CUSTOM = "CUSTOM"
"""The log's common name for all custom operators."""

_MAX_LINE_CHARACTERS = 1_000
"""Longer lines are cut; real lines are short."""

_SIZE = r"([0-9.]{1,20}) ?(B|KiB|MiB|GiB)\b"
_BYTES = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_VERSION = re.compile(r"Edge TPU Compiler version (\S+)")
_ROW = re.compile(r"([A-Za-z][\w:.-]*)[ \t]{2,}(\d{1,9})[ \t]{2,}(\S.*)")
_ON_CHIP = re.compile(r"On-chip memory used for caching[^:\n]*: ?" + _SIZE)
_OFF_CHIP = re.compile(r"Off-chip memory used for streaming[^:\n]*: ?" + _SIZE)
_NUMBERS = {
    "subgraphs": re.compile(r"Number of Edge TPU subgraphs: ?(\d{1,9})\b"),
    "total": re.compile(r"Total number of operations: ?(\d{1,9})\b"),
    "edgetpu": re.compile(r"Number of operations that will run on Edge TPU: ?(\d{1,9})\b"),
    "cpu": re.compile(r"Number of operations that will run on CPU: ?(\d{1,9})\b"),
}
_REFUSALS = (
    "Model not quantized",
    "only supports static-sized tensors",
    "Model failed in Tflite interpreter",
    "Invalid model",
    "large activation tensors",
)
"""Texts of refusals that every attempt repeats, the most specific first."""

_FAILURES = re.compile(
    r"^(?:Compilation failed: .+|Internal compiler error.*|Invalid model.*|ERROR: .+)$",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """The compiler's own account of one compilation."""

    version: str | None = None
    rows: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """Number of operators by name and status; one name may have several statuses."""
    subgraphs: int | None = None
    stated_total: int | None = None
    stated_mapped: int | None = None
    stated_left: int | None = None
    on_chip_bytes: int | None = None
    off_chip_bytes: int | None = None
    refusal: str | None = None
    """A reason that another attempt would repeat."""
    failure: str | None = None
    """Any other reason for a failure."""

    @property
    def left(self) -> dict[str, str]:
        """The operators left on the CPU, by name, with all their statuses."""
        found: dict[str, list[str]] = {}
        for name, status in self.rows:
            if status != MAPPED:
                found.setdefault(name, []).append(status)
        return {name: ", ".join(statuses) for name, statuses in sorted(found.items())}

    @property
    def left_counts(self) -> Counter[str]:
        """The number of operators left on the CPU, by name."""
        found: Counter[str] = Counter()
        for (name, status), count in self.rows.items():
            if status != MAPPED:
                found[name] += count
        return found

    @property
    def mapped_ops(self) -> int | None:
        """Operators of the original file on the Edge TPU: from the table, else as stated."""
        if self.rows:
            return sum(count for (_, status), count in self.rows.items() if status == MAPPED)
        if self.stated_mapped is None and self.stated_left is None and self.refusal is None:
            return self.stated_total  # a fully mapped file has no lines per device
        return self.stated_mapped

    @property
    def total_ops(self) -> int | None:
        """Operators of the original file: from the table, else as stated."""
        return sum(self.rows.values()) if self.rows else self.stated_total


def read(text: str) -> Account:
    """Read stdout or a .log of any version; a text without known lines gives an empty account."""
    text = "\n".join(line[:_MAX_LINE_CHARACTERS].strip() for line in text.splitlines())
    rows: Counter[tuple[str, str]] = Counter()
    for line in text.splitlines():
        row = _ROW.fullmatch(line)
        if row is not None:
            rows[row[1], row[3]] += int(row[2])
    numbers = {key: _number(pattern, text) for key, pattern in _NUMBERS.items()}
    version = _VERSION.search(text)
    return Account(
        version=version.group(1) if version else None,
        rows=dict(rows),
        subgraphs=numbers["subgraphs"],
        stated_total=numbers["total"],
        stated_mapped=numbers["edgetpu"],
        stated_left=numbers["cpu"],
        on_chip_bytes=_size(_ON_CHIP, text),
        off_chip_bytes=_size(_OFF_CHIP, text),
        refusal=_refusal(text),
        failure=_failure(text),
    )


def contradiction(account: Account, operators: Mapping[str, int], compiled: str) -> str | None:
    """Return the contradiction between an account and a compiled file's operators; None if they agree.

    `operators` maps names to counts. `compiled` is the name of the operator that replaces the mapped ones.
    Files that Google compiled keep every unmapped operator under its name (google-coral/test_data), so names
    and counts must be equal.
    """
    inside = Counter({name: count for name, count in operators.items() if name != compiled})
    partitions = operators.get(compiled, 0)
    inconsistent = _inconsistent(account)
    if inconsistent:
        return inconsistent
    if account.mapped_ops and not partitions:
        return f"{counted(account.mapped_ops, 'operator')} mapped by the log, none in the file"
    if account.mapped_ops == 0 and partitions:
        return f"no operator mapped by the log, {partitions} {compiled} in the file"
    if account.subgraphs is not None and account.subgraphs != partitions:
        return f"{counted(account.subgraphs, 'subgraph')} by the log, {partitions} {compiled} in the file"
    if account.rows:
        return _difference(account.left_counts, inside)
    left = account.stated_left or 0
    if account.stated_total is not None and left != inside.total():
        return f"{counted(left, 'operator')} on the CPU by the log, {inside.total()} in the file"
    return None


def _inconsistent(account: Account) -> str | None:
    """Compare the table with the numbers stated above it."""
    for what, table, stated in (
        ("operations in total", account.total_ops, account.stated_total),
        ("operations on the Edge TPU", account.mapped_ops, account.stated_mapped),
        ("operations on the CPU", account.left_counts.total(), account.stated_left),
    ):
        if account.rows and stated is not None and table != stated:
            return f"{stated} {what} are stated and {table} are in the table"
    return None


def _difference(log: Counter[str], file: Counter[str]) -> str | None:
    """Compare the operators left on the CPU by the log and in the file, custom operators together."""
    names = set(log) | set(file)
    for name in sorted(names - {CUSTOM}):
        if name in log and log[name] != file[name]:
            return f"{log[name]} {name} left on the CPU by the log, {file[name]} in the file"
    unnamed = Counter({name: count for name, count in file.items() if name not in log})
    if unnamed.total() != log[CUSTOM]:
        listed = ", ".join(f"{name} x{count}" for name, count in sorted(unnamed.items())) or "none"
        return f"operators in the file that the log does not leave on the CPU: {listed}"
    return None


def _number(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    return int(found.group(1)) if found else None


def _size(pattern: re.Pattern[str], text: str) -> int | None:
    found = pattern.search(text)
    if found is None:
        return None
    try:
        return round(float(found.group(1)) * _BYTES[found.group(2)])
    except ValueError:  # 1.2.3MiB
        return None


def _refusal(text: str) -> str | None:
    for refusal in _REFUSALS:
        line = next((line.strip() for line in text.splitlines() if refusal in line), None)
        if line is not None:
            return line
    return None


def _failure(text: str) -> str | None:
    found = _FAILURES.search(text)
    return found.group(0).strip() if found else None
