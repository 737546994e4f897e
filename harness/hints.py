"""Name an option in an error together with the commands that have it.

An error is raised where the command is not known; `run`, `gate` and `search` take these from the plan.
"""

from __future__ import annotations

from collections.abc import Mapping

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "allow-flex": ("optimize",),
    "calibration": ("bench", "optimize"),
    "shape": ("optimize",),
    "signature": ("optimize",),
    "training": ("bench", "optimize"),
}


def option(name: str) -> str:
    """Return an option's name with its commands: `--shape of optimize`."""
    return f"--{name} of {' and '.join(COMMANDS[name])}"
