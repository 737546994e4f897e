"""The agent as one file: a zip that Python runs, named by the digest of its sources.

Comments, docstrings and annotations stay at home, and all but one blank a level: they are more than a third of the zip. What is left
stands on the same lines, so that a traceback from a device is one of the sources.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import tokenize
import zipfile
from collections.abc import Mapping
from keyword import iskeyword
from pathlib import Path

from harness import assets

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o644 << 16
_FORM = b"without comments, docstrings and annotations, one blank a level"
"""Part of the digest: what is done to the sources is in the zip too."""
_BEFORE_STATEMENTS = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


def agent_zip() -> tuple[Path, str]:
    """Return the zip of the Linux agent and its digest, packing it where it is not cached.

    The same sources give the same digest everywhere and the same bytes with the same zlib: names
    are sorted and times fixed. The file is `<cache>/agents/<digest>.zip`.
    """
    sources = _sources(assets.agents() / "python_tflite")
    digest = _digest(sources)
    target = assets.cache_folder() / "agents" / f"{digest}.zip"
    if not target.is_file():
        _write(sources, target)
    return target, digest


def _sources(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}


def slim(source: str) -> str:
    """Return Python source without comments, docstrings and annotations, every statement on its line.

    By tokens and not by `ast`, which fails in CPython 3.11 where several threads parse at once.
    """
    lines = source.splitlines()
    before: tokenize.TokenInfo | None = None
    held: tokenize.TokenInfo | None = None
    levels, annotations = _Levels(lines), _Annotations(lines)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        levels.see(token)
        annotations.see(token)
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip()
        elif token.type != tokenize.NL:
            if held is not None and token.type == tokenize.NEWLINE:
                _blank(lines, held)
            starts = before is None or before.type in _BEFORE_STATEMENTS
            held = token if token.type == tokenize.STRING and starts else None
            before = token
    annotations.drop()
    return "\n".join(levels.lowered()) + "\n"


class _Annotations:
    """Where annotations stand: of arguments and returns, and of variables that are given a value.

    One that goes over several lines stays.
    """

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._found: list[tuple[int, int, int]] = []
        self._begin: tuple[int, int, int] | None = None
        """Row, column and depth in brackets."""
        self._statement: list[str] = []
        self._depth = 0
        self._lambdas = 0

    def see(self, token: tokenize.TokenInfo) -> None:
        """Take the next token of the source."""
        word = token.string
        if token.type in _BEFORE_STATEMENTS:
            self._statement, self._begin, self._lambdas = [], None, 0
            return
        if token.type in (tokenize.NL, tokenize.COMMENT):
            return
        if self._begin is not None:
            self._end(token)
        self._depth += (word in tuple("([{")) - (word in tuple(")]}"))
        self._lambdas += word == "lambda"
        if word == ":" and self._lambdas:
            self._lambdas -= 1
        elif self._begin is None and self._opens(token):
            self._begin = (*token.start, self._depth)
        self._statement.append(word)

    def _opens(self, token: tokenize.TokenInfo) -> bool:
        """Tell whether an annotation begins with this token."""
        is_def = self._statement[:1] == ["def"]
        if token.string == "->":
            return is_def and self._depth == 0
        if token.string != ":" or token.type != tokenize.OP:
            return False
        if is_def:
            return self._depth == 1
        target = [word for word in self._statement if word != "."]
        return (
            self._depth == 0
            and bool(target)
            and all(word.isidentifier() and not iskeyword(word) for word in target)
        )

    def _end(self, token: tokenize.TokenInfo) -> None:
        """Close the annotation that is open where this token ends it."""
        if self._begin is None:
            return
        row, column, depth = self._begin
        is_def = self._statement[:1] == ["def"]
        enders = (",", "=", ")") if depth else (":",) if is_def else ("=",)
        if self._depth != depth or token.string not in enders:
            return
        if row == token.start[0]:
            self._found.append((row - 1, column, token.start[1]))
        self._begin = None

    def drop(self) -> None:
        """Take them out of the lines, the last of a line first."""
        for row, begin, end in reversed(self._found):
            line = self._lines[row]
            blank = " " if line[end] == "=" else ""
            self._lines[row] = line[:begin].rstrip() + blank + line[end:]


class _Levels:
    """How deep each line stands; a line inside a string stays as it is."""

    def __init__(self, lines: list[str]) -> None:
        self._lines = lines
        self._level = 0
        self._of: dict[int, int] = {}
        self._inside: set[int] = set()

    def see(self, token: tokenize.TokenInfo) -> None:
        """Take the next token of the source."""
        self._level += (token.type == tokenize.INDENT) - (token.type == tokenize.DEDENT)
        (first, _), (last, _) = token.start, token.end
        self._of.setdefault(first - 1, self._level)
        if token.type == tokenize.DEDENT:
            self._of[first - 1] = self._level
        if token.type == tokenize.STRING:
            self._inside.update(range(first, last))

    def lowered(self) -> list[str]:
        """Return the lines, indented by one blank a level."""
        return [
            line if row in self._inside else (" " * self._of.get(row, 0) + line.lstrip()).rstrip()
            for row, line in enumerate(self._lines)
        ]


def _blank(lines: list[str], string: tokenize.TokenInfo) -> None:
    """Leave an empty string where a docstring was: a body may hold nothing else."""
    (first, column), (last, _) = string.start, string.end
    lines[first - 1 : last] = [f'{" " * column}""', *[""] * (last - first)]


def _digest(sources: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(_FORM)
    for name, text in sources.items():
        digest.update(f"{name}\0{len(text)}\0".encode())
        digest.update(text)
    return digest.hexdigest()


def _write(sources: Mapping[str, bytes], target: Path) -> None:
    """Write the zip whole or not at all: two controllers may start at the same time."""
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=target.parent, prefix=".agent-")
    try:
        with os.fdopen(handle, "wb") as file, zipfile.ZipFile(file, "w") as archive:
            for name, text in sources.items():
                entry = zipfile.ZipInfo(name, _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = _MODE
                entry.create_system = 3
                archive.writestr(entry, slim(text.decode()), compresslevel=9)
        Path(part).replace(target)
    finally:
        Path(part).unlink(missing_ok=True)
