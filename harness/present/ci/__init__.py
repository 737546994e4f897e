"""What a CI system is given of a run, a gate or doctor: JUnit, a job summary, annotations.

    write_stored(Store(folder).open("latest"), CiTargets.of(os.environ), complete=True)

writes all of them from what is stored, also of a run that was stopped. docs/ci.md has the formats.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import lazy

if TYPE_CHECKING:
    from harness.present.ci.github import Annotation, lines
    from harness.present.ci.reports import CiReport, of_checks, of_error, of_gate, of_run
    from harness.present.ci.targets import CiTargets, write, write_stored
else:
    __getattr__, __dir__ = lazy.attributes(
        __name__,
        {
            "github": ("Annotation", "lines"),
            "reports": ("CiReport", "of_checks", "of_error", "of_gate", "of_run"),
            "targets": ("CiTargets", "write", "write_stored"),
        },
    )

__all__ = [
    "Annotation",
    "CiReport",
    "CiTargets",
    "lines",
    "of_checks",
    "of_error",
    "of_gate",
    "of_run",
    "write",
    "write_stored",
]
