"""Programs that the lab runs: what is missing of them, and how one that failed is told."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from functools import cache
from pathlib import Path

_ENVIRONMENT = {
    **os.environ,
    "PATH": os.environ.get("PATH", "") + ":/usr/local/sbin:/usr/sbin:/sbin",
    "LC_ALL": "C.UTF-8",
}


class LabError(RuntimeError):
    """A part of the lab cannot be made: what was run and what it said."""


def run(argv: Sequence[str], stdin: str = "", timeout_seconds: float = 600.0) -> str:
    """Run a program and return what it printed; raises LabError with its last words."""
    try:
        reply = subprocess.run(
            argv,
            input=stdin,
            capture_output=True,
            text=True,
            env=_ENVIRONMENT,
            timeout=timeout_seconds,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LabError(f"{' '.join(argv)}: {error}") from error
    if reply.returncode:
        said = (reply.stderr or reply.stdout).strip()[-1000:]
        raise LabError(f"{' '.join(argv)} ends with {reply.returncode}: {said}")
    return reply.stdout


def why_not(tools: Iterable[str]) -> str | None:
    """Say why a lab that takes these programs cannot be here."""
    if os.geteuid() != 0:
        return "the lab makes network interfaces and mounts: it needs root"
    path = _ENVIRONMENT["PATH"]
    absent = [tool for tool in tools if shutil.which(tool, path=path) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (`make lab-system`)"
    return _confined()


@cache
def _confined() -> str | None:
    """Say why not even root can make a device here, as in a container that is not privileged."""
    try:
        run(["unshare", "--mount", "--net", "--uts", "--ipc", "--user", "--pid", "--fork", "true"])
    except LabError as error:
        return f"namespaces cannot be made here: {error}"
    kinds = Path("/proc/filesystems").read_text().split()
    return None if "overlay" in kinds else "this kernel has no overlayfs"


def found(tool: str) -> str:
    """Return the absolute path of a program; raises LabError."""
    path = shutil.which(tool, path=_ENVIRONMENT["PATH"])
    if path is None:
        raise LabError(f"{tool} is not installed (`make lab-system`)")
    return path
