"""Print the rows of a run, and a comparison of runs, as tables."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, Any

from harness.present.screen import grid
from harness.present.screen.printing import out, status_style
from harness.records.table import Row, display
from harness.records.table.display import TableColumn


def table(rows: Sequence[Row], *, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print the rows of a run in the terminal's width, and why some have no numbers.

    Columns that do not fit are left out by rank and named below the table. To a pipe or a file all
    columns are printed.
    """
    if not rows:
        out("no rows", file=file)
        return
    stream = sys.stdout if file is None else file
    available = width or grid.terminal_width(stream)
    columns = display.columns(rows)
    texts = {column.title: [display.clean(column.text(row)) for row in rows] for column in columns}
    shown, hidden = list(columns), list[TableColumn]()
    if available is not None:
        needed = {
            title: grid.GAP + max(map(grid.cells, (title, *column)))
            for title, column in texts.items()
        }
        shown, hidden = _fitting(columns, needed, available + grid.GAP)
    printed = [
        grid.GridColumn(
            title=column.title,
            texts=texts[column.title],
            numeric=column.numeric,
            style=status_style if column.title == "status" else None,
        )
        for column in shown
    ]
    grid.write(printed, stream, available)
    if hidden:
        names = ", ".join(column.title for column in hidden)
        out(f"not shown because the terminal is too narrow: {names}", file=file)
    for line in display.explained(rows):
        out(line, file=file)


def comparison(rows: Sequence[Row], *, file: IO[str] | None = None) -> None:
    """Print a comparison of :func:`harness.records.table.compare`: one line per key and run."""
    titles = ("model", "recipe", "device", "thr", "run", "status", "p50 ms", "ratio", "95 %", "")
    texts: list[list[str]] = []
    last: tuple[Any, ...] | None = None
    for row in rows:
        key = tuple(row[name] for name in ("model", "recipe", "device", "threads", "target"))
        low, high = row["ratio_low"], row["ratio_high"]
        texts.append(
            [
                *([str(value) for value in key[:4]] if key != last else [""] * 4),
                row["run"],
                row["status"],
                display.milliseconds(row["latency_p50_ms"]),
                display.number(row["ratio"], 3),
                f"{low:.3f}-{high:.3f}" if low is not None else "",
                row["difference"] or "",
            ]
        )
        last = key
    columns = [
        grid.GridColumn(
            title=title,
            texts=[display.clean(row[index]) for row in texts],
            numeric=title in {"thr", "p50 ms", "ratio", "95 %"},
            style=status_style if title == "status" else None,
        )
        for index, title in enumerate(titles)
    ]
    stream = sys.stdout if file is None else file
    grid.write(columns, stream, grid.terminal_width(stream))


def _fitting(
    columns: Iterable[TableColumn], needed: Mapping[str, int], width: int
) -> tuple[list[TableColumn], list[TableColumn]]:
    """Leave columns out, highest rank first, until the rest fits; texts may still be folded."""
    shown, hidden = list(columns), list[TableColumn]()
    while sum(needed[column.title] for column in shown) > width:
        most = max(shown, key=lambda column: column.rank)
        if most.rank == 0:
            break
        shown.remove(most)
        hidden.append(most)
    return shown, hidden
