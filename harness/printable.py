"""Text from devices and files, made harmless for a terminal and for a CI system's log."""

from __future__ import annotations

import json
import re
import unicodedata

_COMMAND = re.compile(r"(?<!\S)(:|##)(:|\[)")

_BREAKS = "\n\r\t\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"
"""Everything that `str.splitlines` takes for the end of a line, and the tab."""


def clean(value: object) -> str:
    """Make a text that came from a device harmless on a terminal: one line, no control characters.

    Categories Cc, Cf, Cs, Co and Cn go (escape sequences, text direction, lone surrogates). A word
    that begins as a command to a CI system (`::error::`, `##[group]`) is taken apart: GitHub obeys it
    wherever a line of a log begins with it.
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


def clean_lines(text: str) -> str:
    """Clean a text line by line; how far a line is indented stays."""
    lines = (clean(line.strip()) for line in text.splitlines())
    indents = (line[: len(line) - len(line.lstrip(" "))] for line in text.splitlines())
    return "\n".join(indent + line for indent, line in zip(indents, lines, strict=True))


def escaped(text: str) -> str:
    """Escape in a JSON document what a terminal would obey and no person would see.

    Control characters beyond ASCII, text direction, lone surrogates; JSON escapes the others itself.
    """
    if text.isascii():
        return text.replace("\x7f", "\\u007f")
    return "".join(_harmless(char) for char in text)


def _harmless(char: str) -> str:
    if char == "\n" or unicodedata.category(char)[0] != "C":
        return char
    return json.dumps(char)[1:-1] if char != "\x7f" else "\\u007f"
