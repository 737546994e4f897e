"""Resolve the paths that a user writes: `~`, names that are not UTF-8, names that are too long."""

from __future__ import annotations

from pathlib import Path

from harness.errors import ConfigError
from harness.printable import file_name


def expanded(path: str | Path, where: str) -> Path:
    """Replace `~` and `~user`; raises ConfigError that starts with `where` for an unknown user."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise ConfigError(f'{where}: "{file_name(path)}": {error}') from None


def exists(path: Path, where: str) -> bool:
    """Whether a file or folder exists.

    Raises ConfigError that starts with `where` for a path that cannot be examined (a name that is
    too long, a folder without permission) or whose name is not UTF-8.
    """
    check_name(path, where)
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f'{where}: "{file_name(path)}" cannot be read: {reason}') from None
    return True


def check_name(path: Path, where: str) -> None:
    """Raise ConfigError that starts with `where` if a path is not UTF-8.

    Records, tables and exports are UTF-8 and could not name it.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ConfigError(
            f'{where}: the name "{file_name(path)}" is not UTF-8; rename the file or folder'
        ) from None
