"""The commands layers (time per operator) and bisect (the first bad change)."""

from __future__ import annotations

import shlex
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import completion
from harness.cli.shared import (
    DeviceOption,
    FarmOption,
    JsonOption,
    ResultsOption,
    SuspectOption,
    TrustOption,
    WaitOption,
    app,
    print_json,
    print_lines,
    progress,
)
from harness.printable import counted

if TYPE_CHECKING:
    from harness.analysis.bisect import Points
    from harness.analysis.layers import Layers
    from harness.analysis.layers.alignment import Difference
    from harness.events import Event

_NAME_WIDTH = 40
_LINE_WIDTH = 79


@app.command()
def layers(
    runs_: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN [RUN]", help="One or two runs.", autocompletion=completion.runs
        ),
    ],
    recipe: Annotated[
        list[str] | None,
        typer.Option("--recipe", help="Time only these recipes; compare them if two."),
    ] = None,
    model: Annotated[
        list[str] | None, typer.Option("--model", help="Time only these models.")
    ] = None,
    device: DeviceOption = None,
    threads: Annotated[
        int | None, typer.Option("--threads", min=1, help="Time only rows with these threads.")
    ] = None,
    benchmark_model: Annotated[
        Path | None,
        typer.Option(
            "--benchmark-model",
            help="The vendor's tool, built for the device [default: the one in its PATH].",
        ),
    ] = None,
    launches: Annotated[
        int | None, typer.Option("--launches", min=1, help="Launches per timed file.")
    ] = None,
    at_most: Annotated[
        int,
        typer.Option(
            "--at-most", min=1, help="Truncated graphs per file; group operators if more."
        ),
    ] = 64,
    farm: FarmOption = None,
    wait: WaitOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Time every operator of a run's files on their devices.

    With two files, show the difference. Without benchmark_model on the device, times are
    estimated from truncated graphs.

    Example: edge-harness layers latest --recipe float32 --recipe int8
    """
    from harness import api
    from harness.analysis.layers.subjects import RowFilter

    line = _LaunchLine(quiet=as_json)
    found = api.layers(
        runs_,
        only=RowFilter(
            models=model or (), recipes=recipe or (), devices=device or (), threads=threads
        ),
        benchmark_model=benchmark_model,
        launches=launches,
        at_most=at_most,
        farm=farm,
        results=results,
        wait=wait,
        on_event=line,
    )
    line.show("")
    if as_json:
        print_json(found.plain())
        return
    for one in found.layers:
        _print_layers(one)
    for difference in found.differences:
        _print_difference(difference)


@app.command()
def bisect(
    plan: Annotated[Path, typer.Argument(help="plan.toml with the limits of the gate.")],
    models: Annotated[
        list[Path] | None, typer.Argument(metavar="[FILE...]", help="Models, the good one first.")
    ] = None,
    files: Annotated[
        bool, typer.Option("--files", help="Search the given files, the good one first.")
    ] = False,
    git: Annotated[
        str | None, typer.Option("--git", metavar="GOOD..BAD", help="Search these commits.")
    ] = None,
    path: Annotated[
        str | None, typer.Option("--path", help="Test this model; relative to the repository.")
    ] = None,
    build: Annotated[
        str | None, typer.Option("--build", help="Build the model of a commit with this command.")
    ] = None,
    repo: Annotated[Path, typer.Option("--repo", help="Search this repository.")] = Path(),
    good: Annotated[
        str | None, typer.Option("--good", help="Start from this good file or commit.")
    ] = None,
    bad: Annotated[
        str | None, typer.Option("--bad", help="End at this bad file or commit.")
    ] = None,
    farm: FarmOption = None,
    device: DeviceOption = None,
    trust_model: TrustOption = False,
    include_suspect: SuspectOption = False,
    wait: WaitOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the first bad model or commit with the gate.

    Exit 0 found, 1 nothing is bad, 2 inconclusive, 3 invalid input, 4 a device was away.

    Example: edge-harness bisect plan.toml --git v1.2..main --path model.tflite --build 'make model'
    """
    from harness import api
    from harness.analysis.bisect import ModelFiles
    from harness.errors import ConfigError
    from harness.present import screen

    with ExitStack() as stack:
        points: Points
        if models and not (git or path or build):
            points = ModelFiles(models, good=good, bad=bad)
        elif path and not (models or files):
            first, last = _ends(git, good, bad)
            argv = _argv(build)
            points = stack.enter_context(
                api.bisect_commits(repo, first, last, path=path, build=argv)
            )
        else:
            raise ConfigError(
                f"bisect searches files (`edge-harness bisect {plan} --files good.tflite bad.tflite`) "
                f"or commits (`edge-harness bisect {plan} --git v1..main --path model.tflite`)"
            )
        found = api.bisect(
            api.read_plan(plan, trust_model=trust_model),
            points,
            farm=farm,
            devices=device or (),
            results=results,
            include_suspect=include_suspect,
            wait=wait,
            on_event=_print_step,
            progress=lambda: progress(quiet=as_json),
        )
    if as_json:
        print_json(found.plain())
    else:
        screen.out(found.sentence())
    raise typer.Exit(found.exit_code)


def _print_step(event: Event) -> None:
    from harness.analysis.bisect import BisectStep

    if isinstance(event, BisectStep):
        print_lines(event.text())


def _argv(command: str | None) -> list[str]:
    from harness.errors import ConfigError

    try:
        return shlex.split(command or "")
    except ValueError as error:
        raise ConfigError(f"--build {command}: {error}") from error


def _ends(git: str | None, good: str | None, bad: str | None) -> tuple[str, str]:
    """Read the range of commits from --git, or from --good and --bad."""
    from harness.errors import ConfigError

    first, dots, last = git.partition("..") if git else (good or "", "..", bad or "")
    if not (first and dots and last) or last.startswith(".") or (git and (good or bad)):
        raise ConfigError("give the commits as --git GOOD..BAD, or as --good GOOD --bad BAD")
    return first, last


def _print_layers(one: Layers) -> None:
    from harness.analysis.layers import operators
    from harness.present import screen

    source = "estimate from truncated graphs" if one.estimate else f"from {one.source}"
    screen.out(f"{one.subject}: {source}, {counted(one.launches, 'launch')} of each")
    screen.records(_short(operators.rows(one.operators, one.sum_ns)))
    screen.out(
        f"sum {one.sum_ns / 1e3:,.1f} us; the whole {one.whole_ns / 1e3:,.1f} us ({one.whole_is})"
    )
    if one.inside:
        screen.out("inside the delegate:")
        screen.records(_short(operators.rows(one.inside, None)))
    for remark in one.remarks():
        screen.out(f"note: {remark}")


def _print_difference(difference: Difference) -> None:
    from harness.present import screen

    whole = (difference.b.whole_ns - difference.a.whole_ns) / 1e3
    screen.out(f"A: {difference.a.subject}\nB: {difference.b.subject}")
    screen.records(_short(difference.rows()))
    screen.out(f"the whole: {whole:+,.1f} us")
    for remark in difference.remarks():
        screen.out(f"note: {remark}")


def _short(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Shorten the names: a fused tensor has the names of all its operators."""
    return [{**row, "name": row["name"].partition(";")[0][-_NAME_WIDTH:]} for row in rows]


class _LaunchLine:
    """Shows the launch under way on one line of a terminal."""

    def __init__(self, *, quiet: bool) -> None:
        from harness.present.screen.pushes import PushLines

        self._is_shown = not quiet and sys.stderr.isatty()
        self._launches = 0
        self._started = 0
        self._pushes = PushLines()

    def __call__(self, event: Event) -> None:
        from harness.events import (
            LaunchStarted,
            MeasuringStarted,
            Pushing,
            Reconnecting,
            Waiting,
        )

        if isinstance(event, MeasuringStarted):
            self._launches, self._started = event.launches, 0
        elif isinstance(event, Waiting):
            print_lines(f"{event.device}: {event.reason}; waiting until it is free")
        elif isinstance(event, Reconnecting):
            print_lines(f"{event.device}: connection lost ({event.reason}); reconnecting")
        elif isinstance(event, Pushing):
            if line := self._pushes.line(event):
                print_lines(line)
        elif isinstance(event, LaunchStarted):
            self._started += 1
            cell = event.cell
            count = f"launch {self._started} of {self._launches}"
            self.show(f"{cell.device}: {count}, {cell.model} {cell.recipe}")

    def show(self, text: str) -> None:
        """Replace the line."""
        if self._is_shown:
            sys.stderr.write(f"\r{text[:_LINE_WIDTH]:<{_LINE_WIDTH}}\r")
            sys.stderr.flush()
