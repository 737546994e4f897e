"""Where this installation is: its files, its Python, and the user's folders."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

_HERE = Path(__file__).resolve().parent

EMBEDDED_MODEL = _HERE / "demo" / "data" / "digits.tflite"
"""A small shipped model: doctor launches it, and selftest measures it by default."""


def install_command(extra: str) -> str:
    """Return the command that installs an extra into the Python that runs this."""
    return shlex.join([sys.executable, "-m", "pip", "install", f"edge-harness[{extra}]"])


def _asset(name: str) -> Path:
    for root in (_HERE / "_assets", _HERE.parent):
        if (root / name).is_dir():
            return root / name
    message = f"the installation is incomplete: {name}/ is missing beside {_HERE}"
    raise FileNotFoundError(message)


def profiles() -> Path:
    """Return the folder of shipped device profiles."""
    return _asset("device_profiles")


def agents() -> Path:
    """Return the folder of agent sources."""
    return _asset("agents")


def config_folder() -> Path:
    """Return the user's configuration folder, which may not exist yet."""
    base = os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config"
    return Path(base) / "edge-harness"


def cache_folder() -> Path:
    """Return the folder for rebuildable files: EDGE_HARNESS_CACHE, else the user's cache."""
    if own := os.environ.get("EDGE_HARNESS_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "edge-harness"


def results_folder() -> Path:
    """Return the default results folder: EDGE_HARNESS_RESULTS, else ./results/runs."""
    return Path(os.environ.get("EDGE_HARNESS_RESULTS") or "results/runs")
