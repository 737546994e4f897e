"""The commands pick and export."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion
from harness.cli.ending import DONE, NO
from harness.cli.shared import (
    DamageReport,
    JsonOption,
    ResultsOption,
    RunArgument,
    SuspectOption,
    app,
    print_json,
    print_lines,
)
from harness.errors import StoreError


class ExportFormat(StrEnum):
    """The formats of exports; the keys of harness.present.report.exports.FORMATS."""

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
    minimize: Annotated[
        str | None,
        typer.Option(
            "--minimize",
            help="Minimize a column that is better if lower.",
            autocompletion=completion.columns,
        ),
    ] = None,
    maximize: Annotated[
        str | None,
        typer.Option(
            "--maximize",
            help="Maximize a column that is better if higher.",
            autocompletion=completion.columns,
        ),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where",
            help="Require 'COLUMN<=VALUE' (also < >= > == !=); repeatable.",
            autocompletion=completion.columns,
        ),
    ] = None,
    emulated: Annotated[
        bool, typer.Option("--emulated", help="Include emulated and simulated rows.")
    ] = False,
    include_suspect: SuspectOption = False,
    anyway: Annotated[
        bool, typer.Option("--anyway", help="Allow the worse direction of a column.")
    ] = False,
    min_delegated: Annotated[
        float | None,
        typer.Option(
            "--min-delegated", help="Include partial rows with this delegated share [the plan's]."
        ),
    ] = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Pick the best row of a run under constraints.

    Print the reason and the probability that it is the best. Exit 1 if no row meets the constraints,
    or if a row is damaged.

    Example: edge-harness pick latest --where 'accuracy>=0.85' --minimize latency_p50_ms
    """
    from harness import api
    from harness.present import screen

    damage = DamageReport()
    found = api.pick(
        run,
        minimize=minimize,
        maximize=maximize,
        where=where or (),
        emulated=emulated,
        include_suspect=include_suspect,
        anyway=anyway,
        min_delegated=min_delegated,
        results=results,
        on_read=damage,
    )
    if as_json:
        print_json(found.plain())
    else:
        screen.records(found.shown())
        screen.out(found.reason)
    damage.exit(DONE if found.winner is not None else NO)


@app.command()
def export(
    run: RunArgument,
    form: Annotated[
        ExportFormat, typer.Option("--format", help="Write this format; see docs/exports.md.")
    ],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to this file [stdout].")
    ] = None,
    emulated: Annotated[
        bool, typer.Option("--emulated", help="Include emulated and simulated rows.")
    ] = False,
    include_suspect: SuspectOption = False,
    results: ResultsOption = None,
) -> None:
    """Export a run for trends, test reports or step summaries. Exit 1 if a row is damaged.

    Example: edge-harness export latest --format junit -o report.xml
    """
    from harness import api
    from harness.present.report.exports import encoded

    damage = DamageReport()
    try:
        text = api.export(
            run,
            form.value,
            output,
            emulated=emulated,
            include_suspect=include_suspect,
            results=results,
            on_read=damage,
        )
    except StoreError as error:
        if not damage.has_damaged_rows:
            raise
        # Without its damaged rows, the run has nothing that this format can express.
        print_lines(f"edge-harness: {error}")
        damage.exit()
    if output is None:
        typer.echo(encoded(text), nl=False)
    else:
        typer.echo(f"wrote {output}")
    damage.exit()
