"""Run the given command. This is the only place that turns an error into a line and an exit code."""

from __future__ import annotations

import errno
import importlib
import os
import sys
import traceback
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import typer

from harness import cli
from harness.cli import ending, shared
from harness.cli.ending import DONE, INTERRUPTED, INVALID_INPUT
from harness.cli.shared import print_lines, print_notes
from harness.printable import file_name

if TYPE_CHECKING:
    from typer.models import CommandInfo

_BAD_PATHS = (errno.ENAMETOOLONG, errno.ELOOP)
_FOLDERS = ("EDGE_HARNESS_RESULTS", "EDGE_HARNESS_CACHE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME")
_BUILDING = ("demo", "bench", "run", "optimize", "gate", "selftest", "search", "bisect")

# typer may bundle click or use the installed one, so get click's base class from typer's subclass.
_UsageError: Any = typer.BadParameter.__base__


def run() -> int:
    """Run the command line of this process and return its exit code."""
    debug = "--debug" in sys.argv
    if debug:
        sys.argv.remove("--debug")
    if unusable := _not_utf8():
        print_lines(f"edge-harness: {unusable}")
        return INVALID_INPUT
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    try:
        return _guarded(command, debug=debug)
    finally:
        _explain_builds(command)


def whole_app() -> typer.Typer:
    """Return the app with every command."""
    _register(cli.COMMANDS)
    return shared.app


def _register(modules: Iterable[str]) -> None:
    """Import modules of commands, and sort the commands in the order of `--help`."""
    for module in modules:
        importlib.import_module(f"{cli.__name__}.{module}")
    order = [name for names in cli.COMMANDS.values() for name in names]
    shared.app.registered_commands.sort(key=lambda one: order.index(_name(one)))


def _name(command: CommandInfo) -> str:
    return command.callback.__name__ if command.callback else ""


def _guarded(command: str, *, debug: bool) -> int:
    from harness.errors import HarnessError

    try:
        modules = [module for module, names in cli.COMMANDS.items() if command in names]
        _register(modules or cli.COMMANDS)
        code = shared.app(standalone_mode=False)
    except _UsageError as error:
        from harness.cli import usage

        usage.reword(error)
        error.show()
        return INVALID_INPUT
    except typer.Abort:  # no answer to a question
        return INTERRUPTED
    except KeyboardInterrupt:
        raise
    except HarnessError as error:
        print_lines(traceback.format_exc() if debug else f"edge-harness: {error}")
        if not debug:
            print_notes(error)
        return INVALID_INPUT
    except BaseException as error:  # noqa: BLE001 - the last handler: every error becomes a line
        return _fault(error, debug=debug)
    # For Ctrl-C typer returns 130; the process ends with the code of its cause.
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


def _fault(error: BaseException, *, debug: bool) -> int:
    """Print a fault of ours or of this machine, or a path that no file can have; return the code."""
    if isinstance(error, SystemExit) and not error.code:
        return DONE
    code, text = ending.described(error)
    if isinstance(error, OSError) and error.errno in _BAD_PATHS:
        code, text = INVALID_INPUT, f"{file_name(error.filename)}: {error.strerror}"
    print_lines(traceback.format_exc() if debug else f"edge-harness: {text}")
    if not debug:
        print_notes(error)
    return code


def _explain_builds(command: str) -> None:
    """Say what is kept of a command that was stopped before it had a record to continue."""
    cause = ending.cause()
    if (
        cause is not None
        and cause.code not in {ending.CLOSED_PIPE, INVALID_INPUT}
        and command in _BUILDING
        and not getattr(cause, "__notes__", None)
    ):
        cause.add_note("finished builds are kept, and the same command continues from them")
