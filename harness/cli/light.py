"""Commands and their help: plain values are converted without pydantic, and help fits the terminal.

typer converts every value with pydantic, also values that are not given, and its import takes as
long as `edge-harness --help`. Plain values are converted here exactly as typer does; typer converts
all others and reports invalid ones.
"""

from __future__ import annotations

import os
import shutil
import textwrap
from collections.abc import Sequence
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from harness.cli import ending

HOLDS_SIGNALS = "holds_signals"
"""The attribute of a command's function that calls `ending.deliver` itself."""

_MAX_WIDTH = 80
_MIN_WIDTH = 20
_MIN_TEXT_WIDTH = 40
"""Explanations of options stand beside them if they have this width, else below them."""

_BELOW = 4

# typer may bundle click or use the installed one, so get click's classes from typer's.
_HelpFormatter: Any = typer.Context.formatter_class


class NarrowFormatter(_HelpFormatter):  # type: ignore[misc]  # from typer's bundled click, or click
    """Formats help in at most the terminal's width, also of a narrow one, without breaking words."""

    def __init__(self, **options: Any) -> None:  # noqa: ANN401 - click's own
        """Take the width of the terminal."""
        columns = min(shutil.get_terminal_size().columns, _MAX_WIDTH)
        super().__init__(**{**options, "width": max(columns - 2, _MIN_WIDTH)})

    def write_text(self, text: str) -> None:
        """Write paragraphs, folded between words."""
        margin = " " * self.current_indent
        folded = [
            "\n".join(_folded(paragraph, self.width, margin)) for paragraph in text.split("\n\n")
        ]
        self.write("\n\n".join(folded) + "\n")

    def write_dl(
        self, rows: Sequence[tuple[str, str]], col_max: int = 30, col_spacing: int = 2
    ) -> None:
        """Write names with their explanations: beside them, or below them if that is too narrow."""
        margin = " " * self.current_indent
        column = min(max((len(name) for name, _ in rows), default=0), col_max) + col_spacing
        is_beside = self.width - len(margin) - column >= _MIN_TEXT_WIDTH
        indent = margin + " " * (column if is_beside else _BELOW)
        for name, explanation in rows:
            lines = _folded(explanation, self.width, indent)
            if is_beside and lines and len(name) <= column - col_spacing:
                lines[0] = f"{margin}{name:<{column}}{lines[0].lstrip()}"
            elif len(margin + name) <= self.width:
                lines.insert(0, margin + name)
            else:
                lines = [*_folded(name.replace("|", " | "), self.width, margin), *lines]
            self.write("".join(f"{line}\n" for line in lines))


def _folded(text: str, width: int, margin: str) -> list[str]:
    """Fold a paragraph between words, not at hyphens: a command is copied as it stands."""
    return textwrap.wrap(
        text,
        width,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


class _Context(typer.Context):
    formatter_class = NarrowFormatter


class LightCommand(TyperCommand):
    """A command that converts plain values without pydantic."""

    context_class = _Context

    def get_short_help_str(self, limit: int = 0) -> str:
        """Return the first sentence of the help, never cut."""
        del limit
        return super().get_short_help_str(limit=1000)

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - from typer's bundled click, or click
        """Run the command; typer takes EOFError for Ctrl-C, and a broken pipe for an exit with 1.

        Stdout and stderr raise no OSError (harness.cli.ending), so it is the pipe of another process.
        A signal ends the command from here on, unless the command says from where.
        """
        if not getattr(self.callback, HOLDS_SIGNALS, False):
            ending.deliver()
        try:
            return super().invoke(ctx)
        except EOFError as error:
            message = f"unexpected end of a file: {error}"
            raise RuntimeError(message) from error
        except BrokenPipeError as error:
            message = f"the pipe to another process broke: {error}"
            raise RuntimeError(message) from error

    def get_params(self, ctx: Any) -> Any:  # noqa: ANN401 - from typer's bundled click, or click
        """Return the parameters with the light conversion."""
        return _lightened(super().get_params(ctx))


class LightGroup(TyperGroup):
    """A group that converts the plain values of its own options without pydantic."""

    context_class = _Context

    def get_params(self, ctx: Any) -> Any:  # noqa: ANN401 - from typer's bundled click, or click
        """Return the parameters with the light conversion."""
        return _lightened(super().get_params(ctx))

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - as above
        """Return the command; for an unknown one, suggest those that are close or called so elsewhere."""
        self.suggest_commands = False  # typer would suggest names that are alike by chance
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            text = getattr(error, "message", "")
            if args and text.startswith("No such command"):
                from harness.cli.suggestions import suggested

                near = " or ".join(f"'{one}'" for one in suggested(args[0], self.commands))
                error.message = f"{text.rstrip('.')}. Did you mean {near}?" if near else text  # type: ignore[attr-defined]
            raise


def converted(annotation: object, value: object) -> Any:  # noqa: ANN401 - the annotated type
    """Return the value as the command takes it; NotImplemented if typer must convert it."""
    if value is None:
        return None
    if annotation is str and type(value) is str:
        return value
    if annotation is Path and type(value) is str and "\0" not in value:
        path = Path(value)
        # typer refuses a path that exists and cannot be read.
        return path if os.access(path, os.R_OK) or not _exists(path) else NotImplemented
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return next((one for one in annotation if value in (one, one.value)), NotImplemented)
    return NotImplemented


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long, or a loop of links: the command reports it
        return False


def _lightened(parameters: Any) -> Any:  # noqa: ANN401 - as get_params
    for parameter in parameters:
        described = getattr(parameter, "type_descriptor", None)
        single = parameter.nargs == 1 and not getattr(parameter, "multiple", False)
        if described is not None and single and "process_value" not in vars(parameter):
            usual = parameter.process_value
            parameter.process_value = partial(_process, parameter, described.annotation, usual)
    return parameters


def _process(parameter: Any, annotation: object, usual: Any, context: Any, value: object) -> Any:  # noqa: ANN401
    """Act as click's Parameter.process_value: convert, refuse a missing value, call back."""
    found = converted(annotation, value)
    if found is NotImplemented or (found is None and parameter.required):
        return usual(context, value)
    return found if parameter.callback is None else parameter.callback(context, parameter, found)
