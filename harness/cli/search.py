"""The command search: find the best recipes and parameters."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from harness.cli import ending
from harness.cli.ending import AWAY, INVALID_INPUT
from harness.cli.shared import (
    FarmOption,
    JsonOption,
    ResultsOption,
    SuspectOption,
    TrustOption,
    WaitOption,
    app,
    print_json,
    print_lines,
    printing,
)

if TYPE_CHECKING:
    from harness.analysis.search import SearchResult
    from harness.events import Event

_WIDTH = 79


@app.command()
def search(
    plan: Annotated[Path, typer.Argument(help="plan.toml with a [search] table.")],
    resume: Annotated[
        str | None,
        typer.Option("--resume", help="Continue a search: its id, a prefix, or `latest`."),
    ] = None,
    include_suspect: SuspectOption = False,
    farm: FarmOption = None,
    trust_model: TrustOption = False,
    wait: WaitOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Search recipes and parameters for the best variants.

    Exit 1 if no recipe holds the constraints, with the one that failed and by how much.

    Example: edge-harness search plan.toml
    """
    from harness import api
    from harness.errors import HarnessError, Unreachable
    from harness.records.table.trust import OPTION

    read = api.read_plan(plan, trust_model=trust_model)
    searching = api.search(
        read,
        farm=farm,
        resume=resume,
        include_suspect=include_suspect,
        results=results,
        wait=wait,
    )
    given = {"--farm": farm, "--results": results}
    more = [part for name, value in given.items() if value for part in (name, str(value))]
    more += [OPTION] if include_suspect else []
    command = shlex.join(["edge-harness", "search", str(plan), *more, "--resume", searching.id])
    resumption = f"finished trials are kept; `{command}` continues"
    ending.advise(resumption)
    if not as_json:
        typer.echo(f"search {searching.id} in {searching.job.folder}", err=True)
    try:
        if as_json:
            found = searching.finish()
        else:
            found = searching.finish(lambda event: _show(event, searching.columns))
    except KeyboardInterrupt as error:
        error.add_note(resumption)
        raise
    except Unreachable as error:
        print_lines(f"edge-harness: {error}\n{resumption}")
        raise typer.Exit(AWAY) from None
    except HarnessError as error:
        error.add_note(resumption)
        raise
    with printing(f"search {searching.id} is stored; `{command}` prints its result"):
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


def _show(event: Event, columns: Sequence[str]) -> None:
    """Print a line per trial; a terminal also shows the recipe that is under way."""
    from harness.analysis.search import TrialEnded, TrialStarted
    from harness.present import screen

    if isinstance(event, TrialStarted):
        _show_line(event.recipe)
    elif isinstance(event, TrialEnded):
        _show_line("")
        if not event.again:
            screen.out(event.text(columns), file=sys.stderr)


def _show_line(text: str) -> None:
    """Show a line that the next one replaces, on a terminal only."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r{text[:_WIDTH]:<{_WIDTH}}\r")
        sys.stderr.flush()
