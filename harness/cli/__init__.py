"""The command line: words in, verbs of :mod:`harness.api`, a table or one JSON document out.

Thin and quick to start: only the module of the command that was asked for is imported, and everything
heavy by the command that needs it. The only place that turns an error into a line and an exit code.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from harness.cli import shared
from harness.cli.shared import DONE, INTERRUPTED, NOT_ASKED, OUR_FAULT, tell

if TYPE_CHECKING:
    from typer.models import CommandInfo

    from harness.cli.shared import app

__all__ = ["COMMANDS", "app", "main"]

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "measure": ("demo", "bench", "run", "optimize"),
    "stored": ("runs", "show", "compare", "report"),
    "asking": ("pick", "export"),
    "search": ("search",),
    "gate": ("gate", "judge", "selftest"),
    "layers": ("layers", "bisect"),
    "farm": ("add", "devices", "doctor", "setup", "profiles"),
    "files": ("init", "inspect", "recipes"),
}
"""By module, in the order of `--help`; importing a module registers its commands."""

# typer carries its own click or uses the installed one; its base class is reached by its child.
USAGE_ERROR: Any = typer.BadParameter.__base__


def main() -> None:
    """Run the command line; the exit codes are those of the README."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    sys.exit(_guarded(debug=debug))


def __getattr__(name: str) -> typer.Typer:
    """Give `app`, with every command (PEP 562)."""
    if name != "app":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    _register(COMMANDS)
    return shared.app


def _register(modules: Iterable[str]) -> None:
    """Import modules of commands; those of another order than `--help`'s are put into it."""
    for module in modules:
        importlib.import_module(f"{__name__}.{module}")
    order = [name for names in COMMANDS.values() for name in names]
    shared.app.registered_commands.sort(key=lambda one: order.index(_name(one)))


def _name(command: CommandInfo) -> str:
    return command.callback.__name__ if command.callback else ""


def _guarded(*, debug: bool) -> int:
    from harness.errors import HarnessError

    asked = sys.argv[1] if len(sys.argv) > 1 else ""
    home = [module for module, names in COMMANDS.items() if asked in names]
    _register(home or COMMANDS)
    try:
        code = shared.app(standalone_mode=False)
    except USAGE_ERROR as error:
        error.show()
        return NOT_ASKED
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except HarnessError as error:
        tell(traceback.format_exc() if debug else f"edge-harness: {error}")
        return NOT_ASKED
    except Exception as error:  # noqa: BLE001 - the last door: everything becomes a line
        tell(
            traceback.format_exc()
            if debug
            else f"edge-harness: a fault of ours: {type(error).__name__}: {error}\n"
            "(--debug shows where; please report it)"
        )
        return OUR_FAULT
    if code == INTERRUPTED:  # how typer answers Ctrl-C
        return _interrupted()
    return code if isinstance(code, int) else DONE


def _interrupted() -> int:
    typer.echo(
        "interrupted; finished builds and launches are kept: `run PLAN --resume RUN` goes on",
        err=True,
    )
    return INTERRUPTED
