"""Print lines, records and checks. Nothing here depends on the columns of a row."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any, Protocol

from harness.present.screen import grid
from harness.printable import clean

_LONG_TEXT = 60
_CHECK_INDENT = " " * len("  fail  ")
_FIX = "          fix: "
_MIN_DETAIL = 20

_STYLES = {
    "ok": "green",
    "pass": "green",
    "ready": "green",
    "partial": "yellow",
    "warn": "yellow",
    "pending": "dim",
    "absent": "dim",
    "skip": "dim",
}


class CheckLine(Protocol):
    """A check of `doctor`."""

    @property
    def status(self) -> str:
        """One of pass, warn, fail, skip."""

    def plain(self) -> dict[str, Any]:
        """Return name, status, detail and the command that fixes it, as in `doctor --json`."""


def records(plain: Sequence[Mapping[str, Any]], *, file: IO[str] | None = None) -> None:
    """Print records as a table; the keys are the columns, and empty columns are left out."""
    if not plain:
        out("nothing", file=file)
        return
    keys = list(dict.fromkeys(key for record in plain for key in record))
    kept = [key for key in keys if any(record.get(key) not in (None, "", []) for record in plain)]
    numeric = {
        key for key in kept if all(isinstance(record.get(key), (int, float)) for record in plain)
    }
    columns = [
        grid.GridColumn(
            title=key,
            texts=[_short(record.get(key)) for record in plain],
            numeric=key in numeric,
            style=status_style if key == "status" else None,
        )
        for key in kept
    ]
    stream = sys.stdout if file is None else file
    grid.write(columns, stream, grid.terminal_width(stream))


def record(plain: Mapping[str, Any], *, file: IO[str] | None = None) -> None:
    """Print one record, one line per value; nested records are indented."""
    for line in _record_lines(plain):
        out(line, file=file)


def inspection(found: Mapping[str, Any], *, file: IO[str] | None = None) -> None:
    """Print the results of `inspect`; lists of records as tables."""
    for key, value in found.items():
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            out(f"{key}:", file=file)
            records(value, file=file)
        else:
            record({key: value}, file=file)


def checks(found: Mapping[str, Sequence[CheckLine]], *, file: IO[str] | None = None) -> None:
    """Print the checks of every device, with the details and fixes that they have."""
    stream = sys.stdout if file is None else file
    styled = grid.has_styles(stream)
    width = grid.terminal_width(stream)
    available = None if width is None else max(_MIN_DETAIL, width - len(_CHECK_INDENT))
    for device, made in found.items():
        name = clean(device)
        grid.print_line(grid.style(name, "bold") if styled else name, stream)
        for check in made:
            plain = check.plain()
            status = f"{clean(check.status):5}"
            line = clean(plain.pop("name", ""))
            if detail := plain.pop("detail", None):
                line += f": {clean(detail)}"
            first, *rest = grid.folded(line, available) if available else [line]
            shown = grid.style(status, status_style(check.status)) if styled else status
            grid.print_line(f"  {shown} {first}", stream)
            for part in rest:
                grid.print_line(_CHECK_INDENT + part, stream)
            for text in _fix_lines(plain, width):
                grid.print_line(text, stream)


def _fix_lines(plain: Mapping[str, Any], width: int | None) -> list[str]:
    """Return the lines of a check's fix: its command on a line of its own, prose folded.

    A command is not folded: it is copied as it stands.
    """
    whole, fix = plain.get("mend"), plain.get("fix") or {}
    if not whole:
        return []
    command = fix.get("command") or fix.get("root_command") or ""
    before, _, after = whole.partition(command) if command and command in whole else (whole, "", "")
    parts = [(before, True), (command if command in whole else "", False), (after, True)]
    available = None if width is None else max(_MIN_DETAIL, width - len(_FIX))
    lines: list[str] = []
    for text, is_prose in parts:
        shown = clean(text).strip("; ") if is_prose else clean(text)
        if shown:
            lines += grid.folded(shown, available) if is_prose and available else [shown]
    return [(_FIX if number == 0 else " " * len(_FIX)) + line for number, line in enumerate(lines)]


def out(text: str, *, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print lines of text, each cleaned, in characters that the stream can encode.

    On a terminal, or with `width`, a long line is folded between words.
    """
    stream = sys.stdout if file is None else file
    available = width or grid.terminal_width(stream)
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip(" "))]
        whole = indent + clean(line.strip())
        parts = [whole] if available is None else grid.folded(whole, available, indent + "  ")
        for part in parts:
            stream.write(grid.carried(part, stream) + "\n")
    stream.flush()


def status_style(status: str) -> str:
    """Return the style of a status: green if it is good, red for a failure."""
    return _STYLES.get(status, "red")


def _short(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_short(item) for item in value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_short(item)}" for key, item in value.items() if item is not None)
    return clean(value)


def _record_lines(plain: Mapping[str, Any], indent: str = "") -> Iterable[str]:
    for key, value in plain.items():
        text = _short(value)
        if isinstance(value, Mapping) and value and len(text) > _LONG_TEXT:
            yield f"{indent}{key}:"
            yield from _record_lines(value, indent + "  ")
        elif isinstance(value, (list, tuple)) and len(text) > _LONG_TEXT:
            yield f"{indent}{key}:"
            yield from (f"{indent}  {_short(item)}" for item in value)
        elif value not in (None, "", [], (), {}):
            yield f"{indent}{key}: {text}"
