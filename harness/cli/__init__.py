"""The command line: words in, verbs of :mod:`harness.api`, a table or one JSON document out.

Thin and quick to start: everything heavy is imported by the command that needs it. The only place
that turns an error into a line and an exit code.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import Any

import typer

# The commands register themselves in this order.
from harness.cli import measure, stored, asking, search, gate, layers, farm, files  # isort: skip
from harness.cli.shared import DONE, INTERRUPTED, NOT_ASKED, OUR_FAULT, app, tell

__all__ = [
    "app",
    "asking",
    "farm",
    "files",
    "gate",
    "layers",
    "main",
    "measure",
    "search",
    "stored",
]

# typer carries its own click or uses the installed one; its base class is reached by its child.
USAGE_ERROR: Any = typer.BadParameter.__base__


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
