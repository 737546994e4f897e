"""Find a plug-in by name, through entry points; ours come through the same door."""

from __future__ import annotations

import difflib
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from harness.errors import ConfigError, HarnessError


def names(group: str) -> list[str]:
    """List the plug-ins of a group, sorted."""
    return sorted({point.name for point in entry_points(group=group)})


def load(group: str, name: str) -> Any:  # noqa: ANN401 - what a plug-in is depends on the group
    """Load the plug-in `name` of `group`.

    Raises ConfigError for an unknown name (with the known ones) and HarnessError where the
    plug-in's own libraries are missing (with the extra that brings them).
    """
    points: dict[str, EntryPoint] = {point.name: point for point in entry_points(group=group)}
    if name not in points:
        raise ConfigError(unknown(group.removeprefix("harness.").removesuffix("s"), name, points))
    try:
        return points[name].load()
    except ImportError as error:
        message = (
            f"{name} needs a package that is not installed ({error}); "
            "pip install 'edge-harness[all]' has everything"
        )
        raise HarnessError(message) from error


def unknown(what: str, name: str, known: Any) -> str:  # noqa: ANN401 - any iterable of words
    """Write the message for an unknown word: what, which, did you mean, the known ones."""
    words = sorted(known)
    near = difflib.get_close_matches(name, words, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else ""
    return f'unknown {what} "{name}"{hint} (known: {", ".join(words) or "none"})'
