"""The command line: words in, verbs of :mod:`harness.api`, a table or one JSON document out.

Thin and quick to start: everything heavy is imported by the command that needs it. The only place
that turns an error into a line and an exit code.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from harness.api import Run
    from harness.types import Outcome

DONE, NO, INCONCLUSIVE, NOT_ASKED, AWAY, OUR_FAULT, INTERRUPTED = 0, 1, 2, 3, 4, 70, 130

# typer carries its own click or uses the installed one; its base class is reached by its child.
USAGE_ERROR: Any = typer.BadParameter.__base__

app = typer.Typer(
    name="edge-harness",
    help="Turn a model into TFLite variants, measure them on real devices, get one honest table.\n\n"
    "Start with `edge-harness demo`, then `edge-harness init`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Format(StrEnum):
    """How a table is printed."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


ResultsOption = Annotated[
    Path | None,
    typer.Option(
        "--results", help="Folder of runs [default: $EDGE_HARNESS_RESULTS or results/runs]."
    ),
]
FarmOption = Annotated[
    Path | None,
    typer.Option(
        "--farm", help="farm.toml [default: beside the plan, then ~/.config/edge-harness]."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON document on stdout.")]
DeviceOption = Annotated[
    list[str] | None,
    typer.Option("--device", help="Only these: a name, profile:P, tag:T or any:N of SELECTOR."),
]
YesKeyOption = Annotated[
    str | None,
    typer.Option("--yes-key", help="Trust this host key fingerprint (SHA256:...) without asking."),
]


@app.command()
def demo(results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """Do the whole job on an embedded model and this machine; no hardware needed.

    Example: edge-harness demo
    """
    from harness import api
    from harness import demo as embedded

    with embedded.plan_and_farm() as (plan, farm):
        going = api.run(plan, farm=farm, results=results, progress=_progress(quiet=as_json))
        code = _finish(going, as_json=as_json)
    typer.echo(f"wrote {api.report(going.id, results=results)}", err=as_json)
    raise typer.Exit(code)


@app.command()
def bench(
    models: Annotated[list[Path], typer.Argument(help=".tflite files (or models, with --recipe).")],
    on: Annotated[list[str] | None, typer.Option("--on", help="A URI or a device's name.")] = None,
    recipe: Annotated[list[str] | None, typer.Option("--recipe", help="Recipes [as_is].")] = None,
    threads: Annotated[list[int] | None, typer.Option("--threads", min=1)] = None,
    launches: Annotated[int | None, typer.Option("--launches", min=1)] = None,
    farm: FarmOption = None,
    yes_key: YesKeyOption = None,
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
        launches=launches,
        farm=farm,
        trust=_key_question(yes_key),
        results=results,
        progress=_progress(quiet=as_json),
    )
    raise typer.Exit(_finish(run, as_json=as_json))


@app.command()
def add(
    uri: Annotated[str, typer.Argument(help="local:, ssh://user@host:port")],
    name: Annotated[str | None, typer.Option("--name", help="Its name in farm.toml.")] = None,
    yes_key: YesKeyOption = None,
    identity: Annotated[str | None, typer.Option("--identity", help="Private key file.")] = None,
    python: Annotated[str | None, typer.Option("--python", help="Python on the device.")] = None,
    farm: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Meet a device: check its host key, detect what it is, write the farm entry, run doctor.

    Example: edge-harness add ssh://pi@10.0.0.7 --name bench-pi
    """
    from harness import api, screen

    met = api.add(
        uri, name=name, identity=identity, python=python, farm=farm, trust=_key_question(yes_key)
    )
    if as_json:
        _print_json(met.plain())
    else:
        screen.out(met.text())
        screen.checks({met.device.name: met.checks})
    raise typer.Exit(NO if any(check.status == "fail" for check in met.checks) else DONE)


@app.command()
def init(folder: Annotated[Path, typer.Argument(help="Where to write them.")] = Path()) -> None:
    """Write a commented plan.toml and farm.toml to start from.

    Example: edge-harness init my-bench
    """
    from harness.config import plans

    for path in plans.init(folder):
        typer.echo(f"wrote {path}")


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
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Build every variant of a plan, measure it on every device, print the table.

    Example: edge-harness run plan.toml --device bench-pi
    """
    from harness import api, screen

    if dry_run:
        cells = api.decide(plan, farm=farm, devices=device or (), recipes=recipe or ())
        if as_json:
            _print_json({"cells": cells})
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
        progress=_progress(quiet=as_json),
    )
    raise typer.Exit(_finish(going, as_json=as_json))


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
    from harness import api, screen

    built = api.optimize(
        model,
        recipes=recipe,
        out=out,
        target=target,
        training=training,
        calibration=calibration,
        evaluation=evaluation,
        progress=_progress(quiet=as_json),
    )
    if as_json:
        _print_json({"variants": built})
    else:
        screen.records(built)
    raise typer.Exit(NO if any(row["status"] != "ok" for row in built) else DONE)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .tflite file.")], as_json: JsonOption = False
) -> None:
    """Show operators, inputs and outputs, sizes, sparsity, and what this host's delegate takes.

    Example: edge-harness inspect model.tflite
    """
    from harness import api, screen

    found = api.inspect(file)
    if as_json:
        _print_json(found)
    else:
        screen.inspection(found)


@app.command()
def devices(farm: FarmOption = None, as_json: JsonOption = False) -> None:
    """Ask every device of the farm who it is.

    Example: edge-harness devices
    """
    from harness import api, screen

    found = api.devices(farm=farm)
    if as_json:
        _print_json({"devices": found})
    else:
        screen.records(found)
    raise typer.Exit(NO if any(row["status"] != "ready" for row in found) else DONE)


@app.command()
def doctor(
    device: Annotated[list[str] | None, typer.Argument(help="Devices [all of the farm].")] = None,
    farm: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check everything a device must have, and give the command that mends what it lacks.

    Example: edge-harness doctor bench-pi
    """
    from harness import api, screen

    found = api.doctor(device or (), farm=farm)
    if as_json:
        _print_json({name: [check.plain() for check in checks] for name, checks in found.items()})
    else:
        screen.checks(found)
    failed = any(check.status == "fail" for checks in found.values() for check in checks)
    raise typer.Exit(NO if failed else DONE)


@app.command()
def profiles(
    name: Annotated[str | None, typer.Argument(help="One profile, in full.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the shipped classes of device, and whether each was ever verified on hardware.

    Example: edge-harness profiles raspberry_pi_5
    """
    from harness import api, screen

    found = api.profiles(name)
    if as_json:
        _print_json({"profiles": found})
    elif name:
        screen.record(found[0])
    else:
        screen.records(
            [
                {key: row[key] for key in ("name", "title", "arch", "targets", "verified")}
                for row in found
            ]
        )


@app.command()
def recipes(as_json: JsonOption = False) -> None:
    """List the known steps with their parameters; a recipe is steps joined by `>`.

    Example: edge-harness recipes --json
    """
    from harness import api, screen

    found = api.recipes()
    if as_json:
        _print_json({"recipes": found})
    else:
        screen.records([{**row, "parameters": _parameters(row["parameters"])} for row in found])


@app.command()
def runs(results: ResultsOption = None, as_json: JsonOption = False) -> None:
    """List the stored runs, newest first.

    Example: edge-harness runs
    """
    from harness import api, screen

    found = api.runs(results=results)
    if as_json:
        _print_json({"runs": found})
    else:
        screen.records(found)


RunArgument = Annotated[str, typer.Argument(help="A run's id, a unique prefix, or `latest`.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print it.")]


@app.command()
def show(
    run: RunArgument,
    form: FormatOption = Format.TABLE,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Print the table of a stored run.

    Example: edge-harness show latest --format markdown
    """
    from harness import api, screen
    from harness.report import markdown, plain

    stored = api.open_run(run, results=results)
    rows = api.rows(stored.id, results=results)
    match Format.JSON if as_json else form:
        case Format.TABLE:
            screen.table(rows)
        case Format.MARKDOWN:
            typer.echo(markdown.markdown(rows), nl=False)
        case Format.CSV:
            typer.echo(plain.to_csv(rows), nl=False)
        case Format.JSON:
            _print_json({"run": stored.id, "rows": rows})


@app.command()
def compare(
    runs_: Annotated[list[str], typer.Argument(metavar="RUN [RUN...]", help="Runs to compare.")],
    form: FormatOption = Format.TABLE,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Put runs side by side, with intervals; says "below noise" where it is.

    Example: edge-harness compare 20260101-kws latest
    """
    from harness import api, screen
    from harness.report import markdown, plain
    from harness.table import COMPARED

    rows = api.compare(runs_, results=results)
    match Format.JSON if as_json else form:
        case Format.TABLE:
            screen.comparison(rows)
        case Format.MARKDOWN:
            typer.echo(markdown.records(rows, COMPARED), nl=False)
        case Format.CSV:
            typer.echo(plain.to_csv(rows, COMPARED), nl=False)
        case Format.JSON:
            _print_json({"rows": rows})


@app.command()
def report(
    run: RunArgument,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="FILE.html")] = None,
    results: ResultsOption = None,
) -> None:
    """Write one self-contained HTML page of a run.

    Example: edge-harness report latest -o page.html
    """
    from harness import api

    typer.echo(f"wrote {api.report(run, output, results=results)}")


# --- shared ------------------------------------------------------------------------------------


def _progress(*, quiet: bool) -> Any:  # noqa: ANN401 - screen is imported late on purpose
    from harness import screen

    return screen.Progress(quiet=quiet)


def _finish(run: Run, *, as_json: bool) -> int:
    """Let a run go on to its end, print its rows, return the exit code."""
    from harness import screen

    outcomes: list[Outcome] = []
    with run:
        outcomes.extend(run)
    rows = run.rows()
    if as_json:
        _print_json({"run": run.id, "rows": rows})
    else:
        screen.table(rows)
        screen.out(run.closing())
    return DONE if all(outcome.failure is None for outcome in outcomes) else NO


def _key_question(fingerprint: str | None) -> Callable[[str, str, str], bool]:
    """Make the answer to an unknown host key: by fingerprint, or by asking a person."""

    def trusted(host: str, kind: str, found: str) -> bool:
        if fingerprint is not None:
            return fingerprint.strip() == found
        if not sys.stdin.isatty():
            return False
        typer.echo(f"{host} shows the {kind} host key\n  {found}", err=True)
        return typer.confirm("Is this the right one, and shall it be trusted?", err=True)

    return trusted


def _parameters(found: list[dict[str, Any]]) -> str:
    return ", ".join(f"{p['name']}={json.dumps(p['default'])}" for p in found)


def _print_json(document: object) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str))


def main() -> None:
    """Run the command line; the exit codes are those of the README."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    sys.exit(_guarded(debug=debug))


def _guarded(*, debug: bool) -> int:
    from harness.errors import HarnessError

    try:
        code = app(standalone_mode=False)
    except USAGE_ERROR as error:
        error.show()
        return NOT_ASKED
    except (typer.Abort, KeyboardInterrupt):
        typer.echo("interrupted; what is stored stays, `run --resume` goes on", err=True)
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except HarnessError as error:
        if debug:
            raise
        typer.echo(f"edge-harness: {error}", err=True)
        return NOT_ASKED
    except Exception as error:
        if debug:
            raise
        typer.echo(
            f"edge-harness: a fault of ours: {type(error).__name__}: {error}\n"
            "(--debug shows where; please report it)",
            err=True,
        )
        return OUR_FAULT
    return code if isinstance(code, int) else DONE


if __name__ == "__main__":
    main()
