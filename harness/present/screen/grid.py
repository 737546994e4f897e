"""Columns of text under a rule, as wide as there is room; styled on a terminal only.

A library would do (rich has tables), but importing it takes a quarter of the time of a short
command, and a thousand rows a second.
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
class Column:
    """A column: its title, its texts from the top, and how they look."""

    title: str
    texts: Sequence[str]
    numeric: bool = False
    """To the right, and folded only where all other columns are as narrow as they can be."""
    style: Callable[[str], str] | None = None
    """From a text to a key of the styles: bold, dim, red, green, yellow."""

    @property
    def width(self) -> int:
        """The cells that the widest text takes."""
        return max(map(cells, (self.title, *self.texts)))


def write(columns: Sequence[Column], stream: IO[str], width: int | None = None) -> None:
    """Write the columns under their titles and a rule, in at most `width` cells where one is given."""
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
    """Write one line without blanks at its end, in characters that the stream can carry."""
    stream.write(carried(text.rstrip(), stream) + "\n")


def carried(text: str, stream: IO[str]) -> str:
    """Return the text in characters that the stream's encoding has."""
    encoding = getattr(stream, "encoding", None) or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text


def style(text: str, name: str) -> str:
    """Give a text a style of the terminal; none for an empty name."""
    return f"\x1b[{_CODES[name]}m{text}\x1b[0m" if name else text


def has_styles(stream: IO[str]) -> bool:
    """Whether styles belong there: a terminal that knows them, unless NO_COLOR is set."""
    if os.environ.get("NO_COLOR"):
        return False
    return stream.isatty() and os.environ.get("TERM", "dumb") not in {"dumb", "unknown"}


def terminal_width(stream: IO[str]) -> int | None:
    """Return how many cells a terminal is wide; None for a pipe or a file."""
    if not stream.isatty():
        return None
    if os.environ.get("COLUMNS", "").isdecimal():
        return int(os.environ["COLUMNS"])
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL_WIDTH
    except OSError:
        return _USUAL_WIDTH


def cells(text: str) -> int:
    """Count the cells that a text takes on a terminal: two for a wide character, none for an accent."""
    if text.isascii():
        return len(text)
    return sum(
        0 if combining(char) else 2 if east_asian_width(char) in {"W", "F"} else 1 for char in text
    )


def folded(text: str, width: int) -> list[str]:
    """Break a text into lines of at most `width` cells, at blanks where there are any."""
    if cells(text) <= width:
        return [text]
    lines, line = [], ""
    for word in text.split(" "):
        longer = f"{line} {word}" if line else word
        if cells(longer) <= width:
            line = longer
            continue
        if line:
            lines.append(line)
        *parts, line = _parts(word, width)
        lines += parts
    return [*lines, line]


def _parts(word: str, width: int) -> list[str]:
    parts, part = [], ""
    for char in word:
        if part and cells(part + char) > width:
            parts.append(part)
            part = ""
        part += char
    return [*parts, part]


def _narrowed(columns: Sequence[Column], width: int | None) -> list[int]:
    """Take from the widest columns what there is no room for, from the numbers last."""
    widths = [column.width for column in columns]
    room = None if width is None else width - GAP * (len(columns) - 1)
    for numeric in (False, True):
        kind = [i for i, column in enumerate(columns) if column.numeric is numeric]
        while room is not None and sum(widths) > room and any(widths[i] > 1 for i in kind):
            widths[max(kind, key=lambda i: widths[i])] -= 1
    return widths


def _write_row(
    row: Iterable[tuple[str, str]],
    columns: Sequence[Column],
    widths: Sequence[int],
    stream: IO[str],
    styled: bool,  # noqa: FBT001 - of this module alone
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
