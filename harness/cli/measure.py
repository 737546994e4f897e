"""Commands that build and measure."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.shared import (
    DONE,
    NO,
    DeviceOption,
    FarmOption,
    JsonOption,
    ResultsOption,
    WaitOption,
    YesKeyOption,
    app,
    finish,
    key_question,
    print_json,
    progress,
)

_IN_JSON = ("sha256", "notes", "reason")


class Scenario(StrEnum):
    """How inferences follow each other."""

    SINGLE = "single"
    STREAM = "stream"
    OFFLINE = "offline"
    SUSTAINED = "sustained"


@app.command()
def demo(results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Do the whole job on an embedded model and this machine; no hardware needed.

    Example: edge-harness demo
    """
    from harness import api
    from harness import demo as embedded

    with embedded.plan_and_farm() as (plan, farm):
        going = api.run(plan, farm=farm, results=results, progress=progress(quiet=as_json))
        code = finish(going, as_json=as_json)
    typer.echo(f"wrote {api.report(going.id, results=results)}", err=as_json)
    raise typer.Exit(code)


@app.command()
def bench(
    models: Annotated[list[Path], typer.Argument(help=".tflite files (or models, with --recipe).")],
    on: Annotated[list[str] | None, typer.Option("--on", help="A URI or a device's name.")] = None,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", help="Recipes [as_is].")] = None,
    threads: Annotated[list[int] | None, typer.Option("--threads", min=1)] = None,
    launches: Annotated[int | None, typer.Option("--launches", min=1)] = None,
    scenario: Annotated[
        Scenario | None, typer.Option("--scenario", help="How inferences follow each other.")
    ] = None,
    period_ms: Annotated[
        float | None, typer.Option("--period-ms", help="Of a stream: between two frames.")
    ] = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help=".npz or random")] = None,
    evaluation: Annotated[str | None, typer.Option("--evaluation", help=".npz")] = None,
    farm: FarmOption = None,
    yes_key: YesKeyOption = None,
    wait: WaitOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure files with no plan and no farm file at all.

    Example: edge-harness bench model.tflite --on ssh://pi@10.0.0.7
    """
    from harness import api

    run = api.bench(
        models,
        on=on or ["this-machine"],
        recipes=recipe or ["as_is"],
        threads=threads or [1],
        dose={"launches": launches, "scenario": scenario and str(scenario), "period_ms": period_ms},
        data={"calibration": calibration, "evaluation": evaluation},
        farm=farm,
        trust=key_question(yes_key),
        results=results,
        wait=wait,
        progress=progress(quiet=as_json),
    )
    raise typer.Exit(finish(run, as_json=as_json))


@app.command()
def run(
    plan: Annotated[Path, typer.Argument(help="plan.toml")],
    farm: FarmOption = None,
    device: DeviceOption = None,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", help="Only these.")] = None,
    resume: Annotated[str | None, typer.Option("--resume", help="A run to finish.")] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="With --resume: failed cells again.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the cells and stop.")] = False,
    wait: WaitOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build every variant of a plan, measure it on every device, print the table.

    Example: edge-harness run plan.toml --device bench-pi
    """
    from harness import api
    from harness.present import screen

    if dry_run:
        cells = api.decide(plan, farm=farm, devices=device or (), recipes=recipe or ())
        if as_json:
            print_json({"cells": cells})
        else:
            screen.records(cells)
        return
    going = api.run(
        plan,
        farm=farm,
        devices=device or (),
        recipes=recipe or (),
        resume=resume,
        retry_failed=retry_failed,
        results=results,
        wait=wait,
        progress=progress(quiet=as_json),
    )
    raise typer.Exit(finish(going, as_json=as_json))


@app.command()
def optimize(
    model: Annotated[Path, typer.Argument(help=".keras, .h5, SavedModel folder or .tflite")],
    recipe: Annotated[list[str], typer.Option("--recipe", help="One or more recipes.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the files.")],
    target: Annotated[str | None, typer.Option("--target", help="xnnpack, ...")] = None,
    training: Annotated[str | None, typer.Option("--training", help=".npz")] = None,
    calibration: Annotated[str | None, typer.Option("--calibration", help=".npz or random")] = None,
    evaluation: Annotated[str | None, typer.Option("--evaluation", help=".npz")] = None,
    as_json: JsonOption = False,
) -> None:
    """Build variants of one model into a folder, checked, without measuring them.

    Example: edge-harness optimize model.keras --recipe int8 --calibration cal.npz --out built
    """
    from harness import api
    from harness.present import screen

    built = api.optimize(
        model,
        recipes=recipe,
        out=out,
        target=target,
        training=training,
        calibration=calibration,
        evaluation=evaluation,
        progress=progress(quiet=as_json),
    )
    if as_json:
        print_json({"variants": built})
    else:
        screen.records([{k: v for k, v in row.items() if k not in _IN_JSON} for row in built])
        screen.out(
            "\n".join(f"{r['model']} {r['recipe']}: {r['reason']}" for r in built if r["reason"])
        )
    raise typer.Exit(NO if any(row["status"] != "ok" for row in built) else DONE)
