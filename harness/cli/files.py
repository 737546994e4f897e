"""Commands about files: start a plan, look into a model, list the recipes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    pass

from harness.cli.shared import JsonOption, app, print_json


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path()) -> None:
    """Write a commented plan.toml and farm.toml to start from.

    Example: edge-harness init my-bench
    """
    from harness.config import plans

    for path in plans.init(folder):
        typer.echo(f"wrote {path}")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .tflite file.")],
    payload: Annotated[
        bool, typer.Option("--payload", help="Its size under every codec; takes seconds a MB.")
    ] = False,
    old: Annotated[
        Path | None, typer.Option(help="An older version: also the size of the change from it.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show operators, inputs and outputs, sizes, sparsity, and what this host's delegate takes.

    Example: edge-harness inspect model.tflite --payload --old model-before.tflite
    """
    from harness import api, screen

    found = api.inspect(file)
    if payload or old is not None:
        found["payload"] = api.payload(file, old)
    if as_json:
        print_json(found)
    else:
        taken = found.pop("payload", {})
        screen.inspection(found)
        screen.inspection(
            {key: value for key, value in taken.items() if key not in found and value}
        )


@app.command()
def recipes(as_json: JsonOption = False) -> None:
    """List the known steps with their parameters; a recipe is steps joined by `>`.

    Example: edge-harness recipes --json
    """
    from harness import api, screen

    found = api.recipes()
    if as_json:
        print_json({"recipes": found})
    else:
        screen.records([{**row, "parameters": _parameters(row["parameters"])} for row in found])


def _parameters(found: list[dict[str, Any]]) -> str:
    return ", ".join(f"{p['name']}={json.dumps(p['default'])}" for p in found)
