"""The command line: it calls :mod:`harness.api` and prints a table or one JSON document.

Start-up is quick: only the module of the given command is imported, and heavy libraries only by
the commands that need them. This is the only place that turns an error into a line and an exit code.
"""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import typer

from harness.cli import shared
from harness.cli.shared import (
    DONE,
    INTERNAL_ERROR,
    INTERRUPTED,
    INVALID_INPUT,
    print_lines,
    print_notes,
)
from harness.printable import file_name

if TYPE_CHECKING:
    from typer.models import CommandInfo

    from harness.cli.shared import app

__all__ = ["COMMANDS", "app", "main"]

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "measure": ("demo", "bench", "run", "optimize"),
    "stored": ("runs", "show", "compare", "report"),
    "picking": ("pick", "export"),
    "search": ("search",),
    "gate": ("gate", "judge", "selftest"),
    "layers": ("layers", "bisect"),
    "farm": ("add", "devices", "doctor", "setup", "profiles"),
    "files": ("init", "inspect", "recipes"),
}
"""Commands by module, in the order of `--help`; importing a module registers its commands."""

_BAD_PATHS = (errno.ENAMETOOLONG, errno.ELOOP)
_FOLDERS = ("EDGE_HARNESS_RESULTS", "EDGE_HARNESS_CACHE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")

# typer may bundle click or use the installed one, so get click's base class from typer's subclass.
USAGE_ERROR: Any = typer.BadParameter.__base__


def main() -> None:
    """Run the command line; the README lists the exit codes."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    if unusable := _not_utf8():
        print_lines(f"edge-harness: {unusable}")
        sys.exit(INVALID_INPUT)
    sys.exit(_guarded(debug=debug))


def __getattr__(name: str) -> typer.Typer:
    """Return `app` with every command (PEP 562)."""
    if name != "app":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    _register(COMMANDS)
    return shared.app


def _register(modules: Iterable[str]) -> None:
    """Import modules of commands, and sort the commands in the order of `--help`."""
    for module in modules:
        importlib.import_module(f"{__name__}.{module}")
    order = [name for names in COMMANDS.values() for name in names]
    shared.app.registered_commands.sort(key=lambda one: order.index(_name(one)))


def _name(command: CommandInfo) -> str:
    return command.callback.__name__ if command.callback else ""


def _guarded(*, debug: bool) -> int:
    from harness.errors import HarnessError

    command = sys.argv[1] if len(sys.argv) > 1 else ""
    modules = [module for module, names in COMMANDS.items() if command in names]
    _register(modules or COMMANDS)
    try:
        code = shared.app(standalone_mode=False)
    except USAGE_ERROR as error:
        from harness.cli import usage

        usage.reword(error)
        error.show()
        return INVALID_INPUT
    except (typer.Abort, KeyboardInterrupt):
        return _interrupted()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except HarnessError as error:
        print_lines(traceback.format_exc() if debug else f"edge-harness: {error}")
        if not debug:
            print_notes(error)
        return INVALID_INPUT
    except Exception as error:  # noqa: BLE001 - the last handler: every error becomes a line
        return _fault(error, debug=debug)
    if code == INTERRUPTED:  # typer's return value for Ctrl-C
        return _interrupted()
    return code if isinstance(code, int) else DONE


def _not_utf8() -> str | None:
    """Return why an argument or a folder's name cannot be used; None if all are UTF-8.

    Every record, table and document is UTF-8 and could not name such a file.
    """
    named = {name: os.environ[name] for name in _FOLDERS if name in os.environ}
    for where, text in (*(("", one) for one in sys.argv[1:]), *named.items()):
        try:
            text.encode()
        except UnicodeEncodeError:
            place = f"{where}: " if where else ""
            return f'{place}"{file_name(text)}" is not UTF-8; rename the file or folder'
    return None


def _fault(error: Exception, *, debug: bool) -> int:
    """Print a fault of ours, or a path that no file can have, and return the exit code."""
    if isinstance(error, OSError) and error.errno in _BAD_PATHS and not debug:
        print_lines(f"edge-harness: {file_name(error.filename)}: {error.strerror}")
        return INVALID_INPUT
    print_lines(
        traceback.format_exc()
        if debug
        else f"edge-harness: internal error: {type(error).__name__}: {error}\n"
        "(--debug shows the traceback; please report it)"
    )
    return INTERNAL_ERROR


def _interrupted() -> int:
    typer.echo(
        "interrupted; finished builds are kept, and the same command continues from them", err=True
    )
    return INTERRUPTED
