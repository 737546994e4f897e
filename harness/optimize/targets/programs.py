"""Run a vendor's program with a deadline and leave no process of it behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness import spawning


@dataclass(frozen=True, slots=True, kw_only=True)
class ProgramResult:
    """The output of a program and how it ended."""

    text: str
    """Its stdout and stderr, interleaved."""
    exit_code: int | None
    """None if it was killed at the deadline."""
    killed_by: str | None = None
    """Name of the signal that ended it, unless it was killed at the deadline."""


def run(
    argv: Sequence[str], *, cwd: Path, seconds: float, environment: Mapping[str, str] | None = None
) -> ProgramResult:
    """Run a program to its end or to the deadline.

    `environment` is added to this process's environment. Raises OSError if it cannot be started.
    """
    process = subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=cwd,
        env=spawning.environment(**(environment or {})),
        start_new_session=True,  # its own children must not outlive it
    )
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        _end(process)
        output, _ = process.communicate()
        return ProgramResult(text=_text(output), exit_code=None)
    finally:
        _end(process)
    code = process.returncode
    name = signal.Signals(-code).name if code < 0 else None
    return ProgramResult(text=_text(output), exit_code=code, killed_by=name)


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)


def _text(output: bytes) -> str:
    return output.decode("utf-8", "replace")
