"""The command line: it calls :mod:`harness.api` and prints a table or one JSON document.

Start-up is quick: only the module of the given command is imported, and heavy libraries only by
the commands that need them. Importing this package imports nothing, so that :func:`main` handles
the errors and signals of every import.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    import typer

    app: typer.Typer

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

_LIGHT = ("runs", "show", "profiles", "recipes", "init")
"""Commands that load no library which might end the process itself."""


def main() -> None:
    """Run the command line; docs/exit_codes.md lists the exit codes."""
    try:
        from harness.cli import ending
    except BaseException as error:  # noqa: BLE001 - a broken Python, or no memory
        import os

        os.write(2, f"edge-harness: cannot start: {type(error).__name__}: {error}\n".encode())
        os._exit(70)
    import sys

    caller = sys._getframe(1).f_globals.get("__name__")  # noqa: SLF001 - a test may call it too
    raise SystemExit(ending.run(_program, owns_process=caller == "__main__"))


def _program() -> int:
    import sys

    from harness.cli import ending

    ending.hold()
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if any(command in names for names in COMMANDS.values()) and command not in _LIGHT:
        ending.guard_exit()  # before the first import of a library
    from harness.cli import program

    return program.run()


def __getattr__(name: str) -> typer.Typer:
    """Return `app` with every command (PEP 562)."""
    if name != "app":
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message)
    from harness.cli import program

    return program.whole_app()
