"""What the shell completes: runs, devices, recipes, profiles and columns, from the user's own files.

A completion never fails: where something cannot be read, it offers nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from harness.config.farm import Farm

Completion = Callable[[typer.Context, str], list[str]]


def _completion(offered: Callable[[typer.Context], Iterable[str]]) -> Completion:
    """Make a completion of a function that returns all values."""

    def complete(ctx: typer.Context, incomplete: str) -> list[str]:
        from harness.errors import HarnessError

        try:
            return [value for value in offered(ctx) if value.startswith(incomplete)]
        except (HarnessError, OSError):
            return []

    return complete


@_completion
def runs(ctx: typer.Context) -> Iterable[str]:
    """Return the ids of the stored runs, newest first, and `latest`."""
    from harness import api

    found = [row["id"] for row in api.runs(results=_path(ctx, "results"))]
    return [*found, "latest"] if found else []


@_completion
def devices(ctx: typer.Context) -> Iterable[str]:
    """Return the names of the farm's devices, then `profile:P` and `tag:T`."""
    farm = _farm(ctx)
    profiles = dict.fromkeys(f"profile:{one.profile}" for one in farm.devices.values())
    tags = dict.fromkeys(f"tag:{tag}" for one in farm.devices.values() for tag in one.tags)
    return [*farm.devices, *profiles, *tags]


@_completion
def device_names(ctx: typer.Context) -> Iterable[str]:
    """Return the names of the farm's devices."""
    return _farm(ctx).devices


@_completion
def profiles(_: typer.Context) -> Iterable[str]:
    """Return the names of the device profiles."""
    from harness.config import profiles as known

    return known.load_all()


@_completion
def steps(_: typer.Context) -> Iterable[str]:
    """Return the names of the steps of recipes."""
    return _steps()


@_completion
def recipes(ctx: typer.Context) -> Iterable[str]:
    """Return the recipes of the plan if one is given, else the names of the steps."""
    plan = _plan(ctx)
    if plan is None:
        return _steps()
    from harness import api

    models = api.read_plan(plan).models
    return dict.fromkeys(recipe.name for model in models for recipe in model.recipes)


@_completion
def columns(_: typer.Context) -> Iterable[str]:
    """Return the columns of numbers."""
    from harness import columns as known

    return [column.name for column in known.ALL if column.kind == "number"]


def _steps() -> Iterable[str]:
    from harness import plugins

    return plugins.names("harness.steps")


def _farm(ctx: typer.Context) -> Farm:
    from harness.config import farm

    return farm.load(_path(ctx, "farm"), _plan(ctx))


def _plan(ctx: typer.Context) -> Path | None:
    """Return the plan that was typed already; before a value of an option it is an extra argument."""
    extra = next((Path(word) for word in ctx.args if word.endswith(".toml")), None)
    return _path(ctx, "plan") or extra


def _path(ctx: typer.Context, name: str) -> Path | None:
    """Return a path that was typed already."""
    value = ctx.params.get(name)
    return Path(value).expanduser() if value else None
