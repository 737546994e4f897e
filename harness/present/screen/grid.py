"""Print columns of text under a rule, fitted to the terminal's width; styled on a terminal only.

Texts are folded between words. If the columns are too wide even then, each row is printed as a
paragraph of titles and texts.

rich has tables too, but its import takes a quarter of the time of a short command, and a thousand
rows take it a second.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import IO
from unicodedata import combining, east_asian_width

GAP = 2
"""Blanks between two columns."""

_CODES = {"bold": "1", "dim": "2", "red": "31", "green": "32", "yellow": "33"}
_ASCII = str.maketrans({"±": "+-", "…": "...", "─": "-"})
_USUAL_WIDTH = 80
_INDENT = "  "
_NOTHING = "-"
"""The text of a value that is not known."""
_WORD = re.compile(r"`[^`]+`[^ ]*|[^ ]+")
"""A word; a command in backquotes is one, so that it can be copied."""


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

    @property
    def word_width(self) -> int:
        """The width of the widest word, in terminal cells: the column's minimum."""
        words = (word for text in (self.title, *self.texts) for word in _WORD.findall(text))
        return max(map(cells, words), default=0)


def write(columns: Sequence[GridColumn], stream: IO[str], width: int | None = None) -> None:
    """Write the columns under their titles and a rule, in at most `width` cells if given.

    If even the longest words of the columns do not fit, write a paragraph per row.
    """
    styled = has_styles(stream)
    widths = _narrowed(columns, width)
    if widths is None:
        _write_paragraphs(columns, stream, width or _USUAL_WIDTH, styled=styled)
        return
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


def folded(text: str, width: int, indent: str = "") -> list[str]:
    """Break a text into lines of at most `width` cells between words; further lines are indented.

    A word that is longer than a line is broken.
    """
    if cells(text) <= width:
        return [text]
    start = text[: len(text) - len(text.lstrip(" "))][: max(0, width - 2)]
    lines, line = [], start
    for piece in _pieces(text, width):
        longer = f"{line} {piece}" if line.strip() else line + piece
        if cells(longer) <= width:
            line = longer
            continue
        if line.strip():
            lines.append(line)
        room = indent[: max(0, width - 2)] if lines else line
        if cells(piece) <= width < cells(room + piece):
            room = ""
        *parts, line = _parts(piece, width - cells(room))
        lines += [room + part for part in parts]
        line = room + line
    return [*lines, line]


def _pieces(text: str, width: int) -> list[str]:
    """Split a text into words; a command in backquotes that is longer than a line is split too."""
    found: list[str] = []
    for word in _WORD.findall(text):
        found += [word] if cells(word) <= width else word.split(" ")
    return found


def _parts(text: str, width: int) -> list[str]:
    parts, part = [], ""
    for char in text:
        if part and cells(part + char) > width:
            parts.append(part)
            part = ""
        part += char
    return [*parts, part]


def fits(columns: Sequence[GridColumn], width: int) -> bool:
    """Whether the columns can be written in `width` cells without breaking a word."""
    return sum(column.word_width for column in columns) + GAP * (len(columns) - 1) <= width


def _narrowed(columns: Sequence[GridColumn], width: int | None) -> list[int] | None:
    """Return the widths of the columns; the widest are narrowed to fit, numeric columns last.

    None if their words are too wide.
    """
    widths = [column.width for column in columns]
    if width is None:
        return widths
    if not fits(columns, width):
        return None
    least = [column.word_width for column in columns]
    available = width - GAP * (len(columns) - 1)
    for numeric in (False, True):
        kind = [i for i, column in enumerate(columns) if column.numeric is numeric]
        while sum(widths) > available and any(widths[i] > least[i] for i in kind):
            able = [i for i in kind if widths[i] > least[i]]
            widths[max(able, key=lambda i: widths[i])] -= 1
    return widths


def _write_paragraphs(
    columns: Sequence[GridColumn], stream: IO[str], width: int, *, styled: bool
) -> None:
    """Write each row as `title text` pairs, folded between the pairs; empty texts are left out."""
    if not any(column.texts for column in columns):
        print_line(" ".join(column.title for column in columns), stream)
    for texts in zip(*(column.texts for column in columns), strict=True):
        lines = [""]
        for column, text in zip(columns, texts, strict=True):
            if not text or text == _NOTHING:
                continue
            pair = f"{column.title} {text}".strip()
            longer = f"{lines[-1]}{' ' * GAP}{pair}" if lines[-1].strip() else lines[-1] + pair
            if cells(longer) <= width:
                lines[-1] = longer
            else:
                room = _INDENT if lines[0] else ""
                start = folded(room + pair, width, _INDENT * 2)
                lines = [*lines, *start] if lines[0] else start
        for number, line in enumerate(lines):
            print_line(style(line, "bold") if styled and number == 0 else line, stream)


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
