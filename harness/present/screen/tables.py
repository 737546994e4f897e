"""Print the rows of a run, and a comparison of runs, as tables."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import IO, Any

from harness.present.screen import grid
from harness.present.screen.printing import out, status_style
from harness.records.table import Row, display
from harness.records.table.display import TableColumn

_MAIN_RANK = 1
"""Columns up to this rank are the answer: they are never left out."""

_NAMED_ONCE = ("model", "device")


def table(rows: Sequence[Row], *, file: IO[str] | None = None, width: int | None = None) -> None:
    """Print the rows of a run in the terminal's width, and why some have no numbers.

    Columns that do not fit are left out by rank and named below the table; if the rest is still too
    wide, a model or device that is the same in every row is named there too. To a pipe or a file all
    columns are printed.
    """
    if not rows:
        out("no rows", file=file)
        return
    stream = sys.stdout if file is None else file
    available = width or grid.terminal_width(stream)
    columns = [(column, _printed(column, rows)) for column in display.columns(rows)]
    hidden: list[str] = []
    if available is not None:
        columns, hidden = _fitting(columns, available)
    grid.write([column for _, column in columns], stream, available)
    has_flags = any(column.column.kind == "list" for column, _ in columns)
    lines = [
        *hidden,
        *display.explained(rows),
        *display.evidence(rows),
        *display.legend(rows, has_flag_column=has_flags).splitlines(),
    ]
    for line in lines:
        out(line, file=file, width=available)


def _printed(column: TableColumn, rows: Sequence[Row]) -> grid.GridColumn:
    return grid.GridColumn(
        title=column.title,
        texts=[display.clean(column.text(row)) for row in rows],
        numeric=column.numeric,
        style=status_style if column.title == "status" else None,
    )


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
    out(
        "ratio: p50 over that of the first run; 95 %: its interval from the launches of both runs, "
        "not paired",
        file=file,
    )


_Columns = list[tuple[TableColumn, grid.GridColumn]]


def _fitting(columns: _Columns, width: int) -> tuple[_Columns, list[str]]:
    """Leave columns out until the rest fits; also return the lines that name them.

    First those of a rank above 1, highest first; then the model and the device if they are the same
    in every row. The rest is folded.
    """
    shown, left_out = list(columns), list[str]()
    while _width(shown) > width:
        most = max(shown, key=lambda one: one[0].rank)
        if most[0].rank <= _MAIN_RANK:
            break
        shown.remove(most)
        left_out.append(most[0].title)
    same = []
    for one in list(shown):
        column, printed = one
        if _width(shown) > width and column.title in _NAMED_ONCE and len(set(printed.texts)) == 1:
            shown.remove(one)
            same.append(f"{column.title} {printed.texts[0]}")
    lines = [f"in every row: {', '.join(same)}"] if same else []
    if left_out:
        titles = [column.title for column, _ in columns if column.title in left_out]
        lines.append(
            f"not shown because the terminal is too narrow: {', '.join(titles)} (`edge-harness show "
            "latest --format markdown` has every column)"
        )
    return shown, lines


def _width(columns: _Columns) -> int:
    return sum(printed.width for _, printed in columns) + grid.GAP * (len(columns) - 1)
