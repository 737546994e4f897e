"""Report a command to the CI system that runs it, also if it is stopped: `--junit`, `--summary`.

    with CiReporting("gate", plan=plan, results=results, options=options) as reporting:
        ending.deliver()
        found = api.gate(..., progress=reporting.watching(progress(quiet=as_json)))
        reporting.complete(found.plain())

When the block ends, whatever ends it, the report is written from what is stored.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from harness.cli.shared import print_lines

if TYPE_CHECKING:
    from harness.api import Progress
    from harness.events import Event
    from harness.present.ci import CiTargets

_VARIABLES = ("GITHUB_ACTIONS", "GITHUB_STEP_SUMMARY")


@dataclass(frozen=True, slots=True, kw_only=True)
class CiOptions:
    """The options of a command that reports to a CI system."""

    junit: Path | None = None
    summary: Path | None = None
    github: bool | None = None


class CiReporting:
    """Writes the report of one command when its block ends."""

    def __init__(
        self,
        command: str,
        *,
        options: CiOptions,
        plan: Path | None = None,
        results: Path | None = None,
    ) -> None:
        """Take the name of the command, its options, and its file for the annotations."""
        self.run_id: str | None = None
        """The stored run, as soon as there is one."""
        self.document: Mapping[str, Any] | None = None
        """The document of a gate that stored no run."""
        self.checks: Mapping[str, Sequence[Mapping[str, Any]]] | None = None
        """The checks of `doctor --json`."""
        self._command, self._options = command, options
        self._plan, self._results = plan, results
        self._targets: CiTargets | None = None
        self._is_complete = False

    def complete(self, document: Mapping[str, Any] | None = None) -> None:
        """Note that nothing is left to measure; what ends the block later changes no report."""
        self.document = document
        self._is_complete = True

    def __enter__(self) -> Self:
        """Find the places to write to; raises ConfigError for a folder that is not there."""
        options = self._options
        given = options.junit or options.summary or options.github
        if given or (options.github is None and any(map(os.environ.get, _VARIABLES))):
            from harness.present.ci import CiTargets

            self._targets = CiTargets.of(
                os.environ, junit=options.junit, summary=options.summary, github=options.github
            )
        return self

    def watching(self, progress: Progress) -> Progress:
        """Return a progress that takes the id of the stored run and passes every event on."""
        return _Watching(progress, self)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Write the report; whatever ended the block is raised on."""
        if not self._targets:
            return
        from harness.errors import HarnessError

        try:
            self._write(self._targets, error)
        except (HarnessError, OSError) as fault:
            print_lines(f"edge-harness: the report for CI cannot be written: {fault}")

    def _write(self, targets: CiTargets, error: BaseException | None) -> None:
        from harness import api
        from harness.errors import HarnessError
        from harness.present import ci

        if self.run_id is not None:
            run = api.open_run(self.run_id, results=self._results)
            complete = self._is_complete or error is None
            ci.write_stored(run, targets, complete=complete, plan=self._plan)
            return
        file = targets.named(self._plan)
        if error is not None and not self._is_complete:
            stopped = "it was stopped before anything was measured"
            message = str(error) if isinstance(error, HarnessError) else stopped
            report = ci.of_error(self._command, message, _now(), file=file)
        elif self.document is not None:
            report = ci.of_gate(self.document, _now(), file=file)
        elif self.checks is not None:
            report = ci.of_checks(self.checks, _now(), file=file)
        else:
            return
        ci.write(report, targets)


class _Watching:
    """Passes the events of a run on, and takes its id from them."""

    def __init__(self, progress: Progress, reporting: CiReporting) -> None:
        self._progress, self._reporting = progress, reporting

    def __call__(self, event: Event) -> None:
        """Pass an event on."""
        from harness.events import RunOpened

        if isinstance(event, RunOpened):
            self._reporting.run_id = event.run
        self._progress(event)

    def close(self) -> None:
        """Close the progress."""
        self._progress.close()


def _now() -> str:
    from datetime import UTC, datetime

    return datetime.now(UTC).isoformat(timespec="seconds")
