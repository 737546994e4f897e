"""Make text from devices and files harmless for a terminal and a CI system's log."""

from __future__ import annotations

import json
import re
import unicodedata

_COMMAND = re.compile(r"(?<!\S)(:|##)(:|\[)")

_MAX_PATH = 400

_BREAKS = "\n\r\t\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""The line boundaries of `str.splitlines`, and the tab."""


def clean(value: object) -> str:
    """Make a text from a device harmless on a terminal: one line without control characters.

    Characters of the categories Cc, Cf, Cs, Co and Cn are removed (escape sequences, text direction,
    lone surrogates). A blank is inserted into commands to a CI system (`::error::`, `##[group]`),
    because GitHub executes them at the start of a line of a log.
    """
    text = str(value)
    if "::" in text or "##[" in text:
        text = _COMMAND.sub(r"\1 \2", text)
    if text.isascii() and text.isprintable():
        return text
    kept = (
        " " if char in _BREAKS else "" if unicodedata.category(char)[0] == "C" else char
        for char in text
    )
    return "".join(kept).strip()


def counted(count: int, noun: str) -> str:
    """Write a number with its noun: `1 cell`, `2 launches`."""
    plural = "es" if noun.endswith(("ch", "s")) else "s"
    return f"{count:,} {noun}{plural if count != 1 else ''}"


def clean_lines(text: str) -> str:
    """Clean a text line by line, and keep the indentation of each line."""
    lines = (clean(line.strip()) for line in text.splitlines())
    indents = (line[: len(line) - len(line.lstrip(" "))] for line in text.splitlines())
    return "\n".join(indent + line for indent, line in zip(indents, lines, strict=True))


def clipped(text: str, length: int = 120) -> str:
    """Shorten a text of the user's for a message, in its middle, and escape what is invisible."""
    if len(text) > length:
        half = (length - 3) // 2
        text = f"{text[:half]}...{text[-half:]}"
    return _visible(text)


def file_name(path: object) -> str:
    """Format a path for a message: bytes that are not UTF-8 escaped, a long path shortened."""
    text = str(path)
    try:
        data = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that is no byte of a file name
        data = text.encode("utf-8", "backslashreplace")
    shown = data.decode("utf-8", "backslashreplace")
    return _visible(shown if len(shown) <= _MAX_PATH else f"{shown[:_MAX_PATH]}...")


def _visible(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def escaped(text: str) -> str:
    """Escape the invisible characters of a JSON document that would affect a terminal.

    These are control characters beyond ASCII, text direction and lone surrogates; JSON itself
    escapes the other control characters.
    """
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return "".join(_harmless(char) for char in text)


def _harmless(char: str) -> str:
    if char == "\n" or unicodedata.category(char)[0] != "C":
        return char
    return json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"
