"""Commands that build and measure."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion, ending
from harness.cli.ci import CiOptions, CiReporting
from harness.cli.ending import DONE, NO
from harness.cli.option_names import naming_options, read_shape
from harness.cli.shared import (
    DeviceOption,
    FarmOption,
    GithubOption,
    HostMemoryOption,
    HostSecondsOption,
    JsonOption,
    JUnitOption,
    ResultsOption,
    SummaryOption,
    TrustOption,
    WaitOption,
    YesKeyOption,
    app,
    finish,
    key_question,
    print_json,
    print_lines,
    progress,
    reports,
)

_IN_JSON = ("sha256", "notes", "reason")


class Scenario(StrEnum):
    """The order and timing of inferences."""

    SINGLE = "single"
    STREAM = "stream"
    OFFLINE = "offline"
    SUSTAINED = "sustained"


@app.command()
def demo(results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Run a demo on an embedded model and this machine.

    It needs no other hardware.

    Example: edge-harness demo
    """
    from harness import api
    from harness import demo as embedded

    with embedded.plan_and_farm() as (path, farm):
        # Its files are gone after the demo, so no command could continue the run.
        plan = replace(api.read_plan(path), path=None)
        started = api.run(plan, farm=farm, results=results, progress=progress(quiet=as_json))
        code = finish(started, as_json=as_json)
    typer.echo(f"wrote {api.report(started.id, results=results)}", err=as_json)
    raise typer.Exit(code)


@app.command()
def bench(
    models: Annotated[list[Path], typer.Argument(help=".tflite files (or models, with --recipe).")],
    on: Annotated[
        list[str] | None,
        typer.Option(
            "--on", help="Measure on this URI or device.", autocompletion=completion.devices
        ),
    ] = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe", help="Build with this recipe [as_is].", autocompletion=completion.steps
        ),
    ] = None,
    threads: Annotated[
        list[int] | None, typer.Option("--threads", min=1, help="Use this many threads.")
    ] = None,
    launches: Annotated[
        int | None, typer.Option("--launches", min=1, help="Make this many launches per row.")
    ] = None,
    scenario: Annotated[
        Scenario | None, typer.Option("--scenario", help="Run inferences in this scenario.")
    ] = None,
    period_ms: Annotated[
        float | None, typer.Option("--period-ms", help="Start a stream's frames at this period.")
    ] = None,
    training: Annotated[
        str | None, typer.Option("--training", help="Train with this .npz.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="Calibrate with this .npz, or `random`.")
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option("--evaluation", help="Evaluate accuracy with this .npz.")
    ] = None,
    trust_model: TrustOption = False,
    host_seconds: HostSecondsOption = None,
    host_memory_mb: HostMemoryOption = None,
    farm: FarmOption = None,
    yes_key: YesKeyOption = None,
    wait: WaitOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure files without a plan or a farm file.

    Example: edge-harness bench model.tflite --on ssh://pi@10.0.0.7
    """
    from harness import api

    with naming_options(models):
        run = api.bench(
            models,
            on=on or ["this-machine"],
            recipes=recipe or ["as_is"],
            threads=threads or [1],
            dose={
                "launches": launches,
                "scenario": scenario and str(scenario),
                "period_ms": period_ms,
            },
            data={"training": training, "calibration": calibration, "evaluation": evaluation},
            host={"seconds": host_seconds, "memory_mb": host_memory_mb},
            trust_model=trust_model,
            farm=farm,
            trust=key_question(yes_key),
            results=results,
            wait=wait,
            progress=progress(quiet=as_json),
        )
    raise typer.Exit(finish(run, as_json=as_json))


@app.command()
@reports
def run(
    plan: Annotated[Path, typer.Argument(help="plan.toml")],
    farm: FarmOption = None,
    device: DeviceOption = None,
    recipe: Annotated[
        list[str] | None,
        typer.Option(
            "--recipe",
            help="Measure only this recipe; repeatable.",
            autocompletion=completion.recipes,
        ),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            "--resume",
            help="Finish this stored run of the same plan.",
            autocompletion=completion.runs,
        ),
    ] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Measure failed cells again; needs --resume.")
    ] = False,
    other_device: Annotated[
        bool,
        typer.Option("--other-device", help="Resume on a changed device, as rows of its own."),
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the cells; build and measure nothing.")
    ] = False,
    wait: WaitOption = None,
    trust_model: TrustOption = False,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    github: GithubOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build and measure every variant of a plan; print the table.

    Example: edge-harness run plan.toml --device bench-pi
    """
    from harness import api
    from harness.present import screen

    if dry_run:
        ending.deliver()
        read = api.read_plan(plan)
        known = api.read_farm(farm, read)
        if known.path is not None:
            print_lines(f"devices of {known.name}")
        cells = api.decide(
            read,
            farm=known,
            devices=device or (),
            recipes=recipe or (),
            resume=resume,
            retry_failed=retry_failed,
            results=results,
        )
        if as_json:
            print_json({"cells": cells})
        else:
            screen.records([{k: v for k, v in cell.items() if k != "reason"} for cell in cells])
            for cell in cells:
                if cell["reason"]:
                    place = f"{cell['model']} {cell['recipe']} on {cell['device']}"
                    screen.out(f"{place}: {cell['status']}: {cell['reason']}")
        raise typer.Exit(NO if any(cell["reason"] for cell in cells) else DONE)
    options = CiOptions(junit=junit, summary=summary, github=github)
    with CiReporting("run", options=options, plan=plan, results=results) as reporting:
        ending.deliver()
        started = api.run(
            api.read_plan(plan, trust_model=trust_model),
            farm=farm,
            devices=device or (),
            recipes=recipe or (),
            resume=resume,
            retry_failed=retry_failed,
            other_device=other_device,
            results=results,
            wait=wait,
            progress=progress(quiet=as_json),
        )
        reporting.run_id = started.id
        code = finish(started, as_json=as_json, on_measured=reporting.complete)
    raise typer.Exit(code)


@app.command()
def optimize(
    model: Annotated[Path, typer.Argument(help=".keras, .h5, SavedModel folder or .tflite")],
    recipe: Annotated[
        list[str],
        typer.Option(
            "--recipe",
            help="Build with this recipe; repeatable.",
            autocompletion=completion.steps,
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="Write the files to this folder.")],
    target: Annotated[
        str | None, typer.Option("--target", help="Build for this target, as xnnpack or gpu.")
    ] = None,
    training: Annotated[
        str | None, typer.Option("--training", help="Train with this .npz.")
    ] = None,
    calibration: Annotated[
        str | None, typer.Option("--calibration", help="Calibrate with this .npz, or `random`.")
    ] = None,
    evaluation: Annotated[
        str | None, typer.Option("--evaluation", help="Evaluate accuracy with this .npz.")
    ] = None,
    metric: Annotated[
        str | None, typer.Option("--metric", help="Score with this metric, as top5 or mse [top1].")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option("--shape", help="Fix an input's shape: 1,224,224,3 or NAME=1,49,10."),
    ] = None,
    signature: Annotated[
        str | None, typer.Option("--signature", help="Convert this signature of a SavedModel.")
    ] = None,
    allow_flex: Annotated[
        bool, typer.Option("--allow-flex", help="Allow operators of full TensorFlow in the file.")
    ] = False,
    trust_model: TrustOption = False,
    host_seconds: HostSecondsOption = None,
    host_memory_mb: HostMemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build and check variants of a model without measuring.

    Example: edge-harness optimize model.keras --recipe int8 --calibration cal.npz --out built
    """
    from harness import api
    from harness.present import screen

    with naming_options([model]):
        built = api.optimize(
            model,
            recipes=recipe,
            out=out,
            target=target,
            training=training,
            calibration=calibration,
            evaluation=evaluation,
            metric=metric,
            shape=read_shape(shape or ()),
            signature=signature,
            allow_flex=allow_flex,
            host={"seconds": host_seconds, "memory_mb": host_memory_mb},
            trust_model=trust_model,
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
