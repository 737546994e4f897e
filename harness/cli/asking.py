"""Commands that ask a stored run for a decision, or hand it to those who decide."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli.shared import DONE, NO, JsonOption, ResultsOption, RunArgument, app, print_json


class ExportFormat(StrEnum):
    """What a run can be exported as; the same words as harness.present.report.exports.FORMATS."""

    BMF = "bmf"
    GITHUB = "github"
    JUNIT = "junit"
    PYPERF = "pyperf"
    GBENCH = "gbench"
    CSV = "csv"
    SUMMARY = "summary"


@app.command()
def pick(
    run: RunArgument,
    minimize: Annotated[str, typer.Option("--minimize", help="A column of numbers.")],
    where: Annotated[
        list[str] | None,
        typer.Option("--where", help="'COLUMN<=VALUE'; also < >= > == !=. All must hold."),
    ] = None,
    emulated: Annotated[
        bool, typer.Option("--emulated", help="Emulated and simulated rows may win.")
    ] = False,
    min_delegated: Annotated[
        float | None,
        typer.Option(
            "--min-delegated", help="Share of operators a partial row needs [default: the plan's]."
        ),
    ] = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Name the best row under hard constraints, why, and how sure that is; exit 1 for none.

    Example: edge-harness pick latest --where 'accuracy>=0.85' --minimize latency_p50_ms
    """
    from harness import api
    from harness.present import screen

    found = api.pick(
        run,
        minimize=minimize,
        where=where or (),
        emulated=emulated,
        min_delegated=min_delegated,
        results=results,
    )
    if as_json:
        print_json(found.plain())
    else:
        screen.records(found.shown(minimize))
        screen.out(found.reason)
    raise typer.Exit(DONE if found.winner is not None else NO)


@app.command()
def export(
    run: RunArgument,
    form: Annotated[ExportFormat, typer.Option("--format", help="Who reads it: docs/exports.md.")],
    output: Annotated[Path | None, typer.Option("-o", "--output", help="FILE [stdout].")] = None,
    emulated: Annotated[
        bool, typer.Option("--emulated", help="Emulated and simulated rows are numbers too.")
    ] = False,
    results: ResultsOption = None,
) -> None:
    """Write a run in the format of another tool: trends, test reports, step summaries.

    Example: edge-harness export latest --format junit -o report.xml
    """
    from harness import api
    from harness.present.report.exports import encoded

    text = api.export(run, form.value, output, emulated=emulated, results=results)
    if output is None:
        typer.echo(encoded(text), nl=False)
    else:
        typer.echo(f"wrote {output}")
