"""Commands that ask a stored run for a decision."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli.shared import DONE, NO, JsonOption, ResultsOption, RunArgument, app, print_json


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
    from harness import api, screen

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
