"""What a person sees on a terminal. Everything a device said is cleaned before it is printed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Protocol

from harness.present.screen.progress import Progress
from harness.records.table import Row, display
from harness.records.table.display import Shown

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

MIN_PIPED_WIDTH = 120
__all__ = [
    "Check",
    "Progress",
    "checks",
    "comparison",
    "inspection",
    "out",
    "record",
    "records",
    "table",
]

_CELL_PADDING = 2
_LONG_TEXT = 60

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
_ASCII = str.maketrans({"±": "+-", "…": "..."})


class Check(Protocol):
    """A doctor's check, as `doctor --json` has it."""

    @property
    def status(self) -> str:
        """One of pass, warn, fail, skip."""

    def plain(self) -> dict[str, Any]:
        """Return name, status, detail and the command that mends it."""


def table(rows: Sequence[Row], *, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print the rows of a run as wide as the terminal, and why some have no numbers.

    Columns that do not fit go by their rank and are named below. Into a pipe or a file all
    columns are printed.
    """
    if not rows:
        out("no rows", file=file)
        return
    console = _console(file, width)
    columns = display.columns(rows)
    needed = _widths(columns, rows)
    if not console.is_terminal and width is None:
        console.width = max(MIN_PIPED_WIDTH, sum(needed.values()))
    shown, hidden = _fitting(columns, needed, console.width)
    printed = _grid()
    for column in shown:
        printed.add_column(
            column.title,
            justify="right" if column.numeric else "left",
            no_wrap=column.numeric,
            overflow="fold",
        )
    for row in rows:
        printed.add_row(
            *(
                _styled(column.text(row), row["status"] if column.title == "status" else None)
                for column in shown
            )
        )
    _print(console, printed)
    if hidden:
        names = ", ".join(column.title for column in hidden)
        out(f"not shown for want of width: {names}", file=file)
    for line in display.explained(rows):
        out(line, file=file)


def comparison(rows: Sequence[Row], *, file: IO[str] | None = None) -> None:
    """Print what :func:`harness.records.table.compare` gives: a line for every run of every question."""
    titles = ("model", "recipe", "device", "thr", "run", "status", "p50 ms", "ratio", "95 %", "")
    texts: list[list[str]] = []
    last: tuple[Any, ...] | None = None
    for row in rows:
        key = tuple(row[name] for name in ("model", "recipe", "device", "threads", "target"))
        low, high = row["ratio_low"], row["ratio_high"]
        texts.append(
            [
                *([str(word) for word in key[:4]] if key != last else [""] * 4),
                row["run"],
                row["status"],
                display.milliseconds(row["latency_p50_ms"]),
                display.number(row["ratio"], 3),
                f"{low:.3f}-{high:.3f}" if low is not None else "",
                row["difference"] or "",
            ]
        )
        last = key
    _print_texts(titles, texts, {"thr", "p50 ms", "ratio", "95 %"}, file)


def records(plain: Sequence[Mapping[str, Any]], *, file: IO[str] | None = None) -> None:
    """Print any records as a table; keys are the columns, empty ones are left out."""
    if not plain:
        out("nothing", file=file)
        return
    keys = list(dict.fromkeys(key for record in plain for key in record))
    kept = [key for key in keys if any(record.get(key) not in (None, "", []) for record in plain)]
    numeric = {
        key for key in kept if all(isinstance(record.get(key), (int, float)) for record in plain)
    }
    texts = [[_short(record.get(key)) for key in kept] for record in plain]
    _print_texts(kept, texts, numeric, file)


def record(plain: Mapping[str, Any], *, file: IO[str] | None = None) -> None:
    """Print one record, a line for every value, what is inside another indented."""
    for line in _lines(plain):
        out(line, file=file)


def inspection(found: Mapping[str, Any], *, file: IO[str] | None = None) -> None:
    """Print what `inspect` found in a file; lists of records as tables."""
    for key, value in found.items():
        if isinstance(value, (list, tuple)) and value and isinstance(value[0], Mapping):
            out(f"{key}:", file=file)
            records(value, file=file)
        else:
            record({key: value}, file=file)


def checks(found: Mapping[str, Sequence[Check]], *, file: IO[str] | None = None) -> None:
    """Print the checks of every device; what is not passed with its detail and its remedy."""
    from rich.text import Text

    console = _console(file, None)
    for device, made in found.items():
        _print(console, Text(display.clean(device), style="bold"))
        for check in made:
            plain = check.plain()
            line = Text("  ")
            line.append(f"{display.clean(check.status):5}", style=_style(check.status))
            line.append(f" {display.clean(plain.pop('name', ''))}")
            for key in ("detail", "mend"):
                if value := plain.get(key):
                    text = display.clean(value)
                    line.append(f"\n          {key}: {text}" if key != "detail" else f": {text}")
            _print(console, line)


def out(text: str, *, file: IO[str] | None = None) -> None:
    """Print lines of text, each cleaned, in characters that the stream can carry."""
    stream = sys.stdout if file is None else file
    for line in text.splitlines():
        indent = line[: len(line) - len(line.lstrip(" "))]
        stream.write(_carried(indent + display.clean(line.strip()), stream) + "\n")
    stream.flush()


# --- inside ------------------------------------------------------------------------------------


def _console(file: IO[str] | None, width: int | None) -> Console:
    from rich.console import Console

    return Console(
        file=sys.stdout if file is None else file,
        width=width,
        highlight=False,
        markup=False,
        emoji=False,
        soft_wrap=False,
    )


def _print(console: Console, what: Table | Any) -> None:  # noqa: ANN401 - anything rich prints
    """Print through a capture, so that an ASCII terminal gets what it can show."""
    with console.capture() as capture:
        console.print(what)
    stream = console.file
    for line in capture.get().splitlines():
        stream.write(_carried(line.rstrip(), stream) + "\n")


def _print_texts(
    titles: Sequence[str],
    texts: Sequence[Sequence[str]],
    numeric: set[str],
    file: IO[str] | None,
) -> None:
    """Print texts as a table; into a pipe it is as wide as it needs to be."""
    from rich.cells import cell_len

    console = _console(file, None)
    if not console.is_terminal:
        widths = (max(map(cell_len, column)) for column in zip(titles, *texts, strict=True))
        console.width = max(MIN_PIPED_WIDTH, sum(width + _CELL_PADDING for width in widths))
    printed = _grid()
    for title in titles:
        right = title in numeric
        printed.add_column(
            title, justify="right" if right else "left", no_wrap=right, overflow="fold"
        )
    for row in texts:
        printed.add_row(
            *(
                _styled(text, text if title == "status" else None)
                for title, text in zip(titles, row, strict=True)
            )
        )
    _print(console, printed)


def _carried(text: str, stream: IO[str]) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def _grid() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))


def _styled(text: object, status: object = None) -> Any:  # noqa: ANN401 - rich is imported late
    from rich.text import Text

    return Text(display.clean(text), style="" if status is None else _style(str(status)))


def _style(status: str) -> str:
    return _STYLES.get(status, "red")


def _widths(columns: Sequence[Shown], rows: Sequence[Row]) -> dict[str, int]:
    from rich.cells import cell_len

    return {
        column.title: _CELL_PADDING
        + max(cell_len(text) for text in (column.title, *(column.text(row) for row in rows)))
        for column in columns
    }


def _fitting(
    columns: Iterable[Shown], needed: Mapping[str, int], width: int
) -> tuple[list[Shown], list[Shown]]:
    """Leave columns out, highest rank first, until the rest fits; words may still be folded."""
    shown, hidden = list(columns), list[Shown]()
    while sum(needed[column.title] for column in shown) > width:
        most = max(shown, key=lambda column: column.rank)
        if most.rank == 0:
            break
        shown.remove(most)
        hidden.append(most)
    return shown, hidden


def _short(value: object) -> str:
    if value is None:
        return display.NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, (list, tuple)):
        return ", ".join(_short(item) for item in value)
    if isinstance(value, Mapping):
        return " ".join(f"{key}={_short(item)}" for key, item in value.items() if item is not None)
    return display.clean(value)


def _lines(plain: Mapping[str, Any], indent: str = "") -> Iterable[str]:
    for key, value in plain.items():
        text = _short(value)
        if isinstance(value, Mapping) and value and len(text) > _LONG_TEXT:
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        elif isinstance(value, (list, tuple)) and len(text) > _LONG_TEXT:
            yield f"{indent}{key}:"
            yield from (f"{indent}  {_short(item)}" for item in value)
        elif value not in (None, "", [], (), {}):
            yield f"{indent}{key}: {text}"
