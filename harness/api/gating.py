"""The gate, which compares A and B on the same devices, and the selftest of its sensitivity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.analysis.gate import procedure
from harness.analysis.gate.document import Result
from harness.analysis.gate.procedure import judge, selftest
from harness.api.running import Progress, read_plan
from harness.config import farm as farms
from harness.types import Plan

__all__ = ["gate", "judge", "selftest"]


def gate(
    plan: Plan | Path | str,
    *,
    baseline: str,
    candidate: str,
    farm: farms.Farm | Path | None = None,
    devices: Sequence[str] = (),
    measure_identical: bool = False,
    soak: bool = False,
    resume: str | None = None,
    results: Path | None = None,
    wait: bool | None = None,
    progress: Progress | None = None,
) -> Result:
    """Measure a candidate and a baseline interleaved on the plan's devices; judge the difference.

    See :func:`harness.analysis.gate.procedure.gate`; `plan` may also be the path of a plan.toml.
    """
    return procedure.gate(
        read_plan(plan),
        baseline=baseline,
        candidate=candidate,
        farm=farm,
        devices=devices,
        measure_identical=measure_identical,
        soak=soak,
        resume=resume,
        results=results,
        wait=wait,
        progress=progress,
    )
