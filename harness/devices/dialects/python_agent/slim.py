"""Python source as it travels: the same program on the same lines, without what only readers need.

Comments, docstrings, annotations and all but one blank a level stay at home: more than a third of the
agent's zip. A traceback from a device still has the lines of the sources.
"""

from __future__ import annotations

import io
import tokenize
from keyword import iskeyword

FORM = b"without comments, docstrings and annotations, one blank a level"
"""Names what is done; part of what a digest of the sources stands for."""

_BEFORE_STATEMENTS = (tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT)


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
