"""Convert texts, paths and choices of the command line without pydantic.

typer converts every value with pydantic, also values that are not given, and its import takes as
long as `edge-harness --help`. Plain values are converted here exactly as typer does; typer converts
all others and reports invalid ones.
"""

from __future__ import annotations

import os
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any

from typer.core import TyperCommand, TyperGroup


class LightCommand(TyperCommand):
    """A command that converts plain values without pydantic."""

    def invoke(self, ctx: Any) -> Any:  # noqa: ANN401 - from typer's bundled click, or click
        """Run the command; typer would lose the notes of Ctrl-C and take EOFError for Ctrl-C."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            from harness.cli.shared import print_notes

            print_notes(error)
            raise
        except EOFError as error:
            message = f"unexpected end of a file: {error}"
            raise RuntimeError(message) from error

    def get_params(self, ctx: Any) -> Any:  # noqa: ANN401 - from typer's bundled click, or click
        """Return the parameters with the light conversion."""
        return _lightened(super().get_params(ctx))


class LightGroup(TyperGroup):
    """A group that converts the plain values of its own options without pydantic."""

    def get_params(self, ctx: Any) -> Any:  # noqa: ANN401 - from typer's bundled click, or click
        """Return the parameters with the light conversion."""
        return _lightened(super().get_params(ctx))


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
