"""What the commands share: the app, options, printing, exit codes."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.models import CommandFunctionType

from harness.cli.light import LightCommand, LightGroup

if TYPE_CHECKING:
    from harness.api import Run
    from harness.types import Outcome

DONE, NO, INCONCLUSIVE, NOT_ASKED, AWAY, OUR_FAULT, INTERRUPTED = 0, 1, 2, 3, 4, 70, 130


class App(typer.Typer):
    """typer's application, with commands that start light."""

    def command(
        self,
        name: str | None = None,
        **options: Any,  # noqa: ANN401 - typer's own
    ) -> Callable[[CommandFunctionType], CommandFunctionType]:
        """Register a command as typer does."""
        return super().command(name, **{"cls": LightCommand, **options})


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


def _version_option(asked: bool) -> None:  # noqa: FBT001 - typer calls it so
    if asked:
        from harness import __version__

        typer.echo(f"edge-harness {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version_option, is_eager=True, help="Print the version and end."
        ),
    ] = False,
) -> None:
    """Take the options of every command."""
    del version  # its callback has answered


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
WaitOption = Annotated[
    bool | None,
    typer.Option(
        "--wait/--no-wait",
        help="For ever, or not at all, for a device that somebody else has [35 s].",
    ),
]
YesKeyOption = Annotated[
    str | None,
    typer.Option("--yes-key", help="Trust this host key fingerprint (SHA256:...) without asking."),
]


RunArgument = Annotated[str, typer.Argument(help="A run's id, a unique prefix, or `latest`.")]
FormatOption = Annotated[Format, typer.Option("--format", help="How to print it.")]


def progress(*, quiet: bool) -> Any:  # noqa: ANN401 - screen is imported late on purpose
    """Make the display of a run that goes on, on stderr."""
    from harness.present import screen

    return screen.ScreenProgress(quiet=quiet)


def finish(run: Run, *, as_json: bool) -> int:
    """Let a run go on to its end, print its rows, return the exit code."""
    from harness.present import screen

    outcomes: list[Outcome] = []
    with run:
        outcomes.extend(run)
    rows = run.rows()
    if as_json:
        print_json({"run": run.id, "rows": rows})
    else:
        screen.table(rows)
        screen.out(run.closing())
    return DONE if all(outcome.failure is None for outcome in outcomes) else NO


def key_question(fingerprint: str | None) -> Callable[[str, str, str], bool]:
    """Make the answer to an unknown host key: by fingerprint, or by asking a person."""

    def trusted(host: str, kind: str, found: str) -> bool:
        if fingerprint is not None:
            return fingerprint.strip() == found
        if not sys.stdin.isatty():
            return False
        typer.echo(f"{host} shows the {kind} host key\n  {found}", err=True)
        return typer.confirm("Is this the right one, and shall it be trusted?", err=True)

    return trusted


def print_json(document: object) -> None:
    """Print one JSON document on stdout; what a terminal would obey is escaped."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False, default=str)
    if not text.isascii() or "\x7f" in text:
        from harness.printable import escaped

        text = escaped(text)
    typer.echo(text)


def tell(text: str) -> None:
    """Write lines to stderr, cleaned of what a terminal or a CI system would obey."""
    from harness.printable import clean_lines

    typer.echo(clean_lines(text), err=True)
