"""Find plug-ins by name through entry points; the shipped ones are entry points too."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import assets
from harness.errors import ConfigError, HarnessError
from harness.printable import clipped

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


_SHOWN_NAMES = 100


def names(group: str) -> list[str]:
    """List the plug-ins of a group, sorted."""
    return sorted(_points(group))


def load(group: str, name: str) -> Any:  # noqa: ANN401 - the type depends on the group
    """Load the plug-in `name` of `group`.

    Raises ConfigError for an unknown name (with the known ones), and HarnessError if the plug-in's
    libraries are missing (with the extra that installs them).
    """
    points = _points(group)
    if name not in points:
        raise ConfigError(unknown(group.removeprefix("harness.").removesuffix("s"), name, points))
    return _loaded(points[name])


def load_all(group: str) -> dict[str, Any]:
    """Load every plug-in of a group, by name, sorted; raises HarnessError as :func:`load` does."""
    return {name: _loaded(point) for name, point in sorted(_points(group).items())}


def unknown(what: str, name: str, known: Any) -> str:  # noqa: ANN401 - any iterable of names
    """Return the message for an unknown name: its kind, the name, a close match, the known names."""
    import difflib

    known_names = sorted(known)
    shown = clipped(name)
    near = difflib.get_close_matches(shown, known_names, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    more = len(known_names) - _SHOWN_NAMES
    listed = ", ".join(known_names[:_SHOWN_NAMES]) or "none"
    return f'unknown {what} "{shown}"{hint} (known: {listed}{f" and {more} more" * (more > 0)})'


def _points(group: str) -> Mapping[str, EntryPoint]:
    """Return the entry points of a group by name.

    Reading them takes milliseconds, and a farm file needs them for each device. So they are cached
    until a package is installed or the search path changes.
    """
    return _read(group, tuple((folder, _changed_ns(folder)) for folder in sys.path))


@functools.lru_cache(maxsize=32)
def _read(group: str, path: tuple[tuple[str, int], ...]) -> Mapping[str, EntryPoint]:  # noqa: ARG001 - the key
    from importlib.metadata import entry_points

    return {point.name: point for point in entry_points(group=group)}


def _changed_ns(folder: str) -> int:
    try:
        return Path(folder or ".").stat().st_mtime_ns
    except OSError:
        return 0


def _loaded(point: EntryPoint) -> Any:  # noqa: ANN401 - as load
    try:
        return point.load()
    except ImportError as error:
        message = (
            f"{point.name} needs a package that is not installed ({error}); "
            f"{assets.install_command('all')} installs it"
        )
        raise HarnessError(message) from error
