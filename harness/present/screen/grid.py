"""Print columns of text under a rule, fitted to the terminal's width; styled on a terminal only.

rich has tables too, but its import takes a quarter of the time of a short command, and a thousand
rows take it a second.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO
from unicodedata import combining, east_asian_width

GAP = 2
"""Blanks between two columns."""

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_ASCII = str.maketrans({"±": "+-", "…": "...", "─": "-"})
_USUAL_WIDTH = 80


@dataclass(frozen=True, slots=True, kw_only=True)
class GridColumn:
    """A column: its title, its texts from the top, and their style."""

    title: str
    texts: Sequence[str]
    numeric: bool = False
    """Aligned to the right; folded only if all other columns have their minimum width."""
    style: Callable[[str], str] | None = None
    """From a text to a key of the styles: bold, dim, red, green, yellow."""

    @property
    def width(self) -> int:
        """The width of the widest text, in terminal cells."""
        return max(map(cells, (self.title, *self.texts)))


def write(columns: Sequence[GridColumn], stream: IO[str], width: int | None = None) -> None:
    """Write the columns under their titles and a rule, in at most `width` cells if given."""
    widths = _narrowed(columns, width)
    styled = has_styles(stream)
    _write_row([(column.title, "bold") for column in columns], columns, widths, stream, styled)
    print_line("─" * (sum(widths) + GAP * (len(widths) - 1)), stream)
    for texts in zip(*(column.texts for column in columns), strict=True):
        row = [
            (text, column.style(text) if column.style else "")
            for text, column in zip(texts, columns, strict=True)
        ]
        _write_row(row, columns, widths, stream, styled)


def print_line(text: str, stream: IO[str]) -> None:
    """Write one line without trailing blanks, in characters that the stream can encode."""
    stream.write(carried(text.rstrip(), stream) + "\n")


def carried(text: str, stream: IO[str]) -> str:
    """Return the text with characters replaced that the stream's encoding does not have."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def style(text: str, name: str) -> str:
    """Return the text with a terminal style; unchanged for an empty name."""
    return f"\x1b[{_CODES[name]}m{text}\x1b[0m" if name else text


def has_styles(stream: IO[str]) -> bool:
    """Whether the stream is a terminal with styles and NO_COLOR is not set."""
    if os.environ.get("NO_COLOR"):
        return False
    return stream.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


def terminal_width(stream: IO[str]) -> int | None:
    """Return the width of a terminal in cells; None for a pipe or a file."""
    if not stream.isatty():
        return None
    if os.environ.get("COLUMNS", "").isdecimal():
        return int(os.environ["COLUMNS"])
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except OSError:
        return _USUAL_WIDTH


def cells(text: str) -> int:
    """Count the terminal cells of a text: two per wide character, none per combining accent."""
    if text.isascii():
        return len(text)
    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in {"W", "F"} else 1 for char in text
    )


def folded(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` cells, at blanks if there are any."""
    if cells(text) <= width:
        return [text]
    lines, line = [], ""
    for piece in text.split(" "):
        longer = f"{line} {piece}" if line else piece
        if cells(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *parts, line = _parts(piece, width)
        lines += parts
    return [*lines, line]


def _parts(text: str, width: int) -> list[str]:
    parts, part = [], ""
    for char in text:
        if part and cells(part + char) > width:
            parts.append(part)
            part = ""
        part += char
    return [*parts, part]


def _narrowed(columns: Sequence[GridColumn], width: int | None) -> list[int]:
    """Return the widths of the columns; the widest are narrowed to fit, numeric columns last."""
    widths = [column.width for column in columns]
    available = None if width is None else width - GAP * (len(columns) - 1)
    for numeric in (False, True):
        kind = [i for i, column in enumerate(columns) if column.numeric is numeric]
        while (
            available is not None and sum(widths) > available and any(widths[i] > 1 for i in kind)
        ):
            widths[max(kind, key=lambda i: widths[i])] -= 1
    return widths


def _write_row(
    row: Iterable[tuple[str, str]],
    columns: Sequence[GridColumn],
    widths: Sequence[int],
    stream: IO[str],
    styled: bool,  # noqa: FBT001 - private to this module
) -> None:
    texts, styles = zip(*row, strict=True)
    parts = [folded(text, width) for text, width in zip(texts, widths, strict=True)]
    for number in range(max(map(len, parts))):
        line = []
        for part, column, width, name in zip(parts, columns, widths, styles, strict=True):
            text = part[number] if number < len(part) else ""
            blanks = " " * (width - cells(text))
            shown = style(text, name) if styled and text else text
            line.append(blanks + shown if column.numeric else shown + blanks)
        print_line((" " * GAP).join(line), stream)
