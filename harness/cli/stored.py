"""Commands that read stored runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from harness.cli import completion
from harness.cli.shared import (
    DamageReport,
    Format,
    FormatOption,
    JsonOption,
    ResultsOption,
    RunArgument,
    SuspectOption,
    app,
    print_json,
    print_lines,
)


@app.command()
def runs(results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """List the stored runs, newest first.

    Example: edge-harness runs
    """
    from harness import api, assets
    from harness.present import screen

    found = api.runs(results=results)
    if as_json:
        print_json({"runs": found})
    elif found:
        screen.records(found)
    else:
        folder = results or assets.results_folder()
        screen.out(
            f"no runs in {folder}"
            if folder.is_dir()
            else f"there is no folder {folder}, so no runs"
        )


@app.command()
def show(
    run: RunArgument,
    form: FormatOption = Format.TABLE,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the table of a stored run. Exit 1 if a row is damaged.

    Example: edge-harness show latest --format markdown
    """
    from harness import api
    from harness.present import screen

    damage = DamageReport()
    found = api.show(run, results=results, on_read=damage)
    match Format.JSON if as_json else form:
        case Format.TABLE:
            screen.table(found.rows)
            screen.out("\n".join(found.lines))
            if found.gate is not None:
                screen.gate(found.gate)
        case Format.MARKDOWN:
            from harness.present.report import markdown

            text = markdown.markdown(found.rows, found.lines)
            if found.gate is not None:
                from harness.present.report.exports import summary

                text = f"{summary.judged(found.gate)}{text}"
            typer.echo(text, nl=False)
        case Format.CSV:
            from harness.present.report import plain

            typer.echo(plain.to_csv(found.rows), nl=False)
        case Format.JSON:
            print_json(found.plain())
    damage.exit()


@app.command()
def compare(
    runs_: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [RUN...]", help="Runs to compare.", autocompletion=completion.runs
        ),
    ],
    form: FormatOption = Format.TABLE,
    include_suspect: SuspectOption = False,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare runs, with intervals or "below noise". Exit 1 if a row is damaged.

    Example: edge-harness compare 20260101-kws latest
    """
    from harness import api
    from harness.present import screen
    from harness.present.report import markdown, plain
    from harness.records.table import COMPARED
    from harness.records.table.compare import left_out

    damage = DamageReport()
    rows = api.compare(runs_, include_suspect=include_suspect, results=results, on_read=damage)
    match Format.JSON if as_json else form:
        case Format.TABLE:
            screen.comparison(rows)
        case Format.MARKDOWN:
            typer.echo(markdown.records(rows, COMPARED), nl=False)
        case Format.CSV:
            typer.echo(plain.to_csv(rows, COMPARED), nl=False)
        case Format.JSON:
            print_json({"rows": [row.plain() for row in rows]})
    if lines := left_out(rows):
        print_lines("\n".join(lines))
    damage.exit()


@app.command()
def report(
    run: RunArgument,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Write to this file [report.html].")
    ] = None,
    results: ResultsOption = None,
) -> None:
    """Write one self-contained HTML page of a run. Exit 1 if a row is damaged.

    Example: edge-harness report latest -o page.html
    """
    from harness import api

    damage = DamageReport()
    typer.echo(f"wrote {api.report(run, output, results=results, on_read=damage)}")
    damage.exit()
