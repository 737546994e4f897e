"""Where a report for a CI system is written: files, GitHub's job summary, and stderr."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.errors import ConfigError
from harness.present.ci import github
from harness.present.ci.reports import CiReport, of_run
from harness.present.report import exports
from harness.present.report.exports import summary
from harness.printable import file_name
from harness.records.store import StoredRun
from harness.records.table.rows import read

SUMMARY_LIMIT_BYTES = 1024 * 1024
"""GitHub drops the summary of a step that is longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CiTargets:
    """The places that a report is written to; None and False leave one out."""

    junit: Path | None = None
    summary: Path | None = None
    """A file of its own for the summary."""
    step_summary: Path | None = None
    """GitHub's file of the step, which is appended to."""
    annotates: bool = False
    """Whether annotations go to stderr."""
    workspace: Path | None = None
    """The folder that the files of annotations are relative to."""

    @classmethod
    def of(
        cls,
        environ: Mapping[str, str],
        *,
        junit: Path | None = None,
        summary: Path | None = None,
        github: bool | None = None,
    ) -> CiTargets:
        """Return the places that options and environment name.

        `github` None takes GITHUB_ACTIONS=true for the annotations and GITHUB_STEP_SUMMARY for the
        job summary; False takes neither. Raises ConfigError for a file that cannot be
        written, and for one file for both.
        """
        if junit and summary and junit.resolve() == summary.resolve():
            raise ConfigError(f"--junit and --summary name the same file: {summary}")
        for option, path in (("--junit", junit), ("--summary", summary)):
            if path is not None:
                exports.require_writable(path, option)
        step, workspace = environ.get("GITHUB_STEP_SUMMARY"), environ.get("GITHUB_WORKSPACE")
        return cls(
            junit=junit,
            summary=summary,
            step_summary=Path(step) if step and github is not False else None,
            annotates=environ.get("GITHUB_ACTIONS") == "true" if github is None else github,
            workspace=Path(workspace) if workspace else None,
        )

    def __bool__(self) -> bool:
        """Return whether anything is to be written."""
        return any((self.junit, self.summary, self.step_summary, self.annotates))

    def named(self, path: Path | None) -> str | None:
        """Return a file's name for annotations: relative to the workspace if it is in it."""
        if path is None:
            return None
        try:
            return str(path.resolve().relative_to((self.workspace or Path.cwd()).resolve()))
        except (ValueError, OSError):
            return str(path)


def write_stored(
    run: StoredRun, targets: CiTargets, *, complete: bool, plan: Path | None = None
) -> None:
    """Write the report of a stored run or gate, whole or stopped (`complete=False`); see `write`.

    Raises StoreError if the run cannot be read.
    """
    if targets:
        report = of_run(read(run), complete=complete, file=targets.named(plan))
        write(report, targets)


def write(report: CiReport, targets: CiTargets) -> None:
    """Write a report to its places. A file that cannot be written is one line on stderr.

    A verdict must not be lost because a report of it cannot be written.
    """
    if targets.annotates:
        for line in github.lines(report.annotations):
            _print(line)
    if targets.junit is not None:
        _attempt("--junit", targets.junit, partial(exports.save, report.junit, option="--junit"))
    if targets.summary is not None:
        _attempt(
            "--summary", targets.summary, partial(exports.save, report.summary, option="--summary")
        )
    if targets.step_summary is not None:
        _attempt(
            "GITHUB_STEP_SUMMARY", targets.step_summary, lambda path: _append(report.summary, path)
        )


def _append(text: str, path: Path) -> None:
    """Append to the step's summary what fits into its limit."""
    left = SUMMARY_LIMIT_BYTES - (path.stat().st_size if path.exists() else 0)
    with path.open("ab") as file:
        file.write(exports.encoded(summary.clipped(text, left)))


def _attempt(name: str, path: Path, action: Callable[[Path], None]) -> None:
    try:
        action(path)
    except ConfigError as error:
        _print(f"edge-harness: {error}")
    except OSError as error:
        reason = error.strerror or str(error)
        _print(f"edge-harness: {name}: {file_name(path)} cannot be written: {reason}")


def _print(line: str) -> None:
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(line.encode(encoding, "replace").decode(encoding) + os.linesep)
    sys.stderr.flush()
