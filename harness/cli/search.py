"""The command search: find the best recipes and parameters."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli.shared import (
    AWAY,
    INVALID_INPUT,
    FarmOption,
    JsonOption,
    ResultsOption,
    app,
    print_json,
    print_lines,
)

if TYPE_CHECKING:
    from harness.analysis.search import SearchResult, TrialEnded, TrialStarted

_WIDTH = 79


@app.command()
def search(
    plan: Annotated[Path, typer.Argument(help="plan.toml with a [search] table.")],
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Continue a search: its id, a unique prefix, or `latest`."),
    ] = None,
    farm: FarmOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search recipes and parameters for the best variants.

    Exit 1 if no variant meets the constraints; print the one that failed and by how much.

    Example: edge-harness search plan.toml
    """
    from harness import api
    from harness.errors import Unreachable

    searching = api.search(plan, farm=farm, resume=resume, results=results)
    resumption = (
        f"finished trials are kept; edge-harness search {plan} --resume {searching.id} continues"
    )
    if not as_json:
        typer.echo(f"search {searching.id} in {searching.job.folder}", err=True)
    try:
        if as_json:
            found = searching.finish()
        else:
            found = searching.finish(lambda event: _print_ended(event, searching.columns), _show)
    except KeyboardInterrupt:
        typer.echo(resumption, err=True)
        raise
    except Unreachable as error:
        print_lines(f"edge-harness: {error}\n{resumption}")
        raise typer.Exit(AWAY) from None
    _print(found, as_json=as_json)
    raise typer.Exit(found.exit_code)


def _print(found: SearchResult, *, as_json: bool) -> None:
    from harness.present import screen

    if as_json:
        print_json(found.plain())
    elif found.front:
        screen.records(found.rows())
        screen.out(f"plans of these points: {found.path / 'points'}")
    for note in found.notes:
        screen.out(f"note: {note}", file=sys.stderr)
    failed = found.exit_code == INVALID_INPUT
    screen.out(found.reason, file=sys.stderr if as_json or failed else sys.stdout)


def _show(event: TrialStarted) -> None:
    """Show the current trial, on a terminal only; the next line overwrites it."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{event.recipe[:_WIDTH]:<{_WIDTH}}\r")
        sys.stderr.flush()


def _print_ended(event: TrialEnded, columns: Sequence[str]) -> None:
    from harness.present import screen

    if sys.stderr.isatty():
        sys.stderr.write(f"\r{'':<{_WIDTH}}\r")
    if not event.again:
        screen.out(event.text(columns), file=sys.stderr)
