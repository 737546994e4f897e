"""Run the programs of the lab; report missing programs and failed commands."""

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
    """A part of the lab cannot be made; the message has the command and its output."""


def run(argv: Sequence[str], stdin: str = "", timeout_seconds: float = 600.0) -> str:
    """Run a program and return what it printed; raises LabError with the end of its output."""
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
        output = (reply.stderr or reply.stdout).strip()[-1000:]
        raise LabError(f"{' '.join(argv)} ends with {reply.returncode}: {output}")
    return reply.stdout


def own_namespace(pid: int, kind: str) -> int:
    """Open a process's namespace (`net`, `mnt`), which the caller closes.

    Raises LabError if it is the machine's own, in which the lab must change nothing.
    """
    try:
        found = os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
    except OSError as error:
        raise LabError(f"process {pid} has no namespace: {error.strerror}") from error
    if os.fstat(found).st_ino == Path(f"/proc/self/ns/{kind}").stat().st_ino:
        os.close(found)
        raise LabError(f"process {pid} is in the machine's own {kind} namespace")
    return found


def why_not(tools: Iterable[str]) -> str | None:
    """Return why a lab that needs these programs cannot run here; None if it can."""
    if os.geteuid() != 0:
        return "the lab makes network interfaces and mounts: it needs root"
    path = _ENVIRONMENT["PATH"]
    absent = [tool for tool in tools if shutil.which(tool, path=path) is None]
    if absent:
        return f"not installed: {', '.join(absent)} (`make lab-system`)"
    return _confined()


@cache
def _confined() -> str | None:
    """Return why not even root can make a device here, as in an unprivileged container."""
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
