"""Shared by the commands: the app, options, printing, exit codes."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.models import CommandFunctionType

from harness.cli import completion, ending
from harness.cli.ending import DONE, NO
from harness.cli.light import HOLDS_SIGNALS, LightCommand, LightGroup

if TYPE_CHECKING:
    from harness.api import Progress, Run
    from harness.events import Event
    from harness.records.table.rows import Measured
    from harness.types import Outcome


class App(typer.Typer):
    """typer's application with commands that avoid the import of pydantic."""

    def command(
        self,
        name: str | None = None,
        **options: Any,  # noqa: ANN401 - typer's own
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Register a command, as a LightCommand."""
        return super().command(name, **{"cls": LightCommand, **options})


def reports(command: CommandFunctionType) -> CommandFunctionType:
    """Mark a command that reports to a CI system: it calls `ending.deliver` when it can report.

    A signal before that waits, so that a job which is stopped at its start has its reports too.
    """
    setattr(command, HOLDS_SIGNALS, True)
    return command


app = App(
    name="edge-harness",
    cls=LightGroup,
    help="Turn a model into TFLite variants, measure them on real devices, get one honest table.\n\n"
    "Start with `edge-harness demo`, then `edge-harness init`.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version_option(given: bool) -> None:  # noqa: FBT001 - typer passes it by position
    if given:
        from harness import __version__

        typer.echo(f"edge-harness {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version_option, is_eager=True, help="Print the version and exit."
        ),
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
) -> None:
    """Take the options before the command."""
    del version, debug  # handled by its callback, and before the options are read


class Format(StrEnum):
    """The format of a printed table."""

    TABLE = "table"
    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


ResultsOption = Annotated[
    Path | None,
    typer.Option(
        "--results", help="Use this folder of runs [$EDGE_HARNESS_RESULTS or results/runs]."
    ),
]
FarmOption = Annotated[
    Path | None,
    typer.Option(
        "--farm", help="Use this farm.toml [beside the plan, here, ~/.config/edge-harness]."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout.")]
DeviceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--device",
        help="Use only NAME, profile:P, tag:T or any:N of SELECTOR.",
        autocompletion=completion.devices,
    ),
]
WaitOption = Annotated[
    bool | None,
    typer.Option(
        "--wait/--no-wait",
        help="Wait for another user's lease without limit, or do not wait [35 s].",
    ),
]
JUnitOption = Annotated[
    Path | None, typer.Option("--junit", help="Write JUnit XML to this file, also if stopped.")
]
SummaryOption = Annotated[
    Path | None, typer.Option("--summary", help="Write a Markdown summary to this file.")
]
GithubOption = Annotated[
    bool | None,
    typer.Option(
        "--github/--no-github",
        help="Write GitHub's annotations and job summary, or not [in GitHub Actions].",
    ),
]
SuspectOption = Annotated[
    bool, typer.Option("--include-suspect", help="Include rows whose verdict is SUSPECT.")
]
YesKeyOption = Annotated[
    str | None,
    typer.Option("--yes-key", help="Trust the host key with this fingerprint (SHA256:...)."),
]

TrustOption = Annotated[
    bool,
    typer.Option("--trust-model", help="Let code in the model's file run: you trust its maker."),
]
HostSecondsOption = Annotated[
    float | None,
    typer.Option("--host-seconds", help="Stop work on this host that does not get on [120]."),
]
HostMemoryOption = Annotated[
    int | None,
    typer.Option("--host-memory-mb", help="Stop work on this host that needs more [4096]."),
]


RunArgument = Annotated[
    str,
    typer.Argument(
        help="A run's id, a unique prefix, or `latest`.", autocompletion=completion.runs
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", help="Print in this format.")]


def progress(*, quiet: bool) -> Progress:
    """Return a display of a run's progress on stderr."""
    from harness.present import screen

    return _Advising(screen.ScreenProgress(quiet=quiet))


class _Advising:
    """Passes the events of a run on; a process that ends too late says how to go on with the run."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown

    def __call__(self, event: Event) -> None:
        """Pass an event on."""
        from harness.events import RunOpened

        if isinstance(event, RunOpened):
            ending.advise(event.kept)
        self._shown(event)

    def close(self) -> None:
        """Close the display."""
        self._shown.close()


def finish(run: Run, *, as_json: bool, on_measured: Callable[[], object] = lambda: None) -> int:
    """Finish a run, call `on_measured`, print its rows and return the exit code."""
    from harness.present import screen
    from harness.records.table import DAMAGED, display

    outcomes: list[Outcome] = []
    shown = stored_command("show", run.id, run.path.parent)
    if run.resumption:
        kept = f"finished launches are kept: `{run.resumption}` continues"
    else:
        kept = f"finished launches are kept: `{shown}` prints them; the same command starts again"
    ending.advise(kept)
    try:
        with run:
            outcomes.extend(run)
    except BaseException as error:
        error.add_note(kept)
        raise
    on_measured()
    with printing(f"run {run.id} is stored: `{shown}` prints it"):
        rows = run.rows()
        left_out = display.left_out(rows)
        if as_json:
            print_json({"run": run.id, "rows": [row.plain() for row in rows]})
            if left_out:
                print_lines("\n".join(left_out))
        else:
            screen.table(rows)
            for line in left_out:
                screen.out(line)
            screen.out(run.closing())
    is_done = all(outcome.failure is None for outcome in outcomes)
    is_whole = not any(row.missing or row.status == DAMAGED for row in rows)
    return DONE if is_done and is_whole else NO


@contextmanager
def printing(kept: str) -> Iterator[None]:
    """Print a result in this block; if that fails, a line on stderr says where the result is kept."""
    ending.advise(kept)
    try:
        yield
        sys.stdout.flush()
    except BaseException as error:
        error.add_note(kept)
        raise


def stored_command(verb: str, run: str, results: Path | None) -> str:
    """Return the command that prints a stored run, as it is typed."""
    from harness.records.store import continuing

    options = continuing.results_option(results) if results else {}
    more = [part for name, value in options.items() for part in (name, value)]
    return shlex.join(["edge-harness", verb, run, *more])


class DamageReport:
    """Prints on stderr what is damaged in the runs that a command reads, and gives its exit code."""

    MAX_LINES = 10

    def __init__(self) -> None:
        """Start without damage."""
        self.has_damaged_rows = False

    def __call__(self, measured: Measured) -> None:
        """Print the damage and the notes of a run that was read."""
        run, damage = measured.run.id, measured.damage
        self.has_damaged_rows |= bool(damage.cells)
        reasons = dict.fromkeys((*damage.sentences, *damage.cells.values()))
        lines = [f"edge-harness: run {run} is damaged: {text}" for text in reasons]
        left = len(lines) - self.MAX_LINES
        if left > 0:
            lines = [*lines[: self.MAX_LINES], f"edge-harness: run {run}: {left} more"]
        lines += [f"edge-harness: run {run}: {text}" for text in damage.notes]
        if not measured.run.is_checked:
            lines.append(f"edge-harness: run {run} is unchecked: it has no checksums")
        if lines:
            print_lines("\n".join(lines))

    def exit(self, code: int = DONE) -> NoReturn:
        """End the command with its code, or with 1 if a row is damaged."""
        raise typer.Exit(NO if self.has_damaged_rows else code)


def key_question(fingerprint: str | None) -> Callable[[str, str, str], bool]:
    """Return a function that decides about an unknown host key: by fingerprint or by a prompt."""

    def trusted(host: str, kind: str, found: str) -> bool:
        if fingerprint is not None:
            return fingerprint.strip() == found
        if not sys.stdin.isatty():
            return False
        typer.echo(f"{host} shows the {kind} host key\n  {found}", err=True)
        return typer.confirm("Is this key correct, and do you trust it?", err=True)

    return trusted


def print_json(document: object) -> None:
    """Print one JSON document on stdout, with control characters escaped."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    if not text.isascii() or "\x7f" in text:
        from harness.printable import escaped

        text = escaped(text)
    typer.echo(text)


def print_notes(error: BaseException) -> None:
    """Print the notes of an error on stderr, such as the command that continues."""
    for note in getattr(error, "__notes__", ()):
        print_lines(note)


def print_lines(text: str) -> None:
    """Print lines on stderr, without control characters and commands of CI systems."""
    from harness.printable import clean_lines

    typer.echo(clean_lines(text), err=True)
