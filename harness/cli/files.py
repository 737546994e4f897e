"""The commands init, inspect and recipes."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.cli import completion
from harness.cli.option_names import naming_options
from harness.cli.shared import (
    HostMemoryOption,
    HostSecondsOption,
    JsonOption,
    TrustOption,
    app,
    print_json,
)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="Write into this folder.")] = Path()) -> None:
    """Write a commented plan.toml and farm.toml to start from.

    Example: edge-harness init my-bench
    """
    from harness.config import plans

    for path in plans.init(folder):
        typer.echo(f"wrote {path}")
    if folder.resolve() != Path.cwd():
        # Commands without a plan read the farm of the current folder.
        typer.echo(f"next: `{shlex.join(['cd', str(folder)])}`, where all commands find them")


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .tflite file.")],
    payload: Annotated[
        bool, typer.Option("--payload", help="Show its size in each codec; takes seconds per MB.")
    ] = False,
    old: Annotated[
        Path | None, typer.Option(help="Show the size of a delta to this older version.")
    ] = None,
    trust_model: TrustOption = False,
    host_seconds: HostSecondsOption = None,
    host_memory_mb: HostMemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show operators, inputs, outputs and sizes of a .tflite file.

    Show its sparsity too, and the operators that this host's delegate takes.

    Example: edge-harness inspect model.tflite --payload --old model-before.tflite
    """
    from harness import api
    from harness.present import screen

    del trust_model  # inspecting loads no code; taken so that a script can pass it to every command
    host = {"seconds": host_seconds, "memory_mb": host_memory_mb}
    with naming_options([file]):
        found = api.inspect(file, host=host)
        if payload or old is not None:
            found["payload"] = api.payload(file, old, host=host)
    if as_json:
        print_json(found)
    else:
        taken = found.pop("payload", {})
        screen.inspection(found)
        screen.inspection(
            {key: value for key, value in taken.items() if key not in found and value}
        )


@app.command()
def recipes(
    name: Annotated[
        str | None,
        typer.Argument(help="Explain the parameters of a step.", autocompletion=completion.steps),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the steps of recipes with their parameters.

    A recipe is one or more steps joined by `>`.

    Example: edge-harness recipes prune
    """
    from harness import api
    from harness.present import screen

    found = api.recipes(name)
    if as_json:
        print_json({"recipes": found})
    elif name:
        (step,) = found
        screen.out(f"{step['name']}: {step['summary']}; {_ends(step)}")
        if step["parameters"]:
            screen.records(
                [{**item, "default": json.dumps(item["default"])} for item in step["parameters"]]
            )
    else:
        screen.records(
            [
                {
                    "name": step["name"],
                    "summary": step["summary"],
                    "parameters": ", ".join(item["name"] for item in step["parameters"]),
                }
                for step in found
            ]
        )
        screen.out("`edge-harness recipes NAME` explains the parameters of a step")


def _ends(step: Mapping[str, Any]) -> str:
    needs = f"; needs {' and '.join(step['needs'])} data" if step["needs"] else ""
    return f"from {', '.join(step['takes'])} to {step['gives']}{needs}"
