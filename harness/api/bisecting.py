"""Find the first bad one of an ordered list of models or commits; the gate is the oracle."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from harness.analysis.bisect import BisectResult, GateAnswer, Oracle, Points, search
from harness.analysis.bisect.commits import Commits
from harness.analysis.bisect.search import PointVerdict
from harness.analysis.gate.contest import Rules
from harness.analysis.gate.document import Result, explained
from harness.api.arguments import AnyPath, Several
from harness.api.gating import gate
from harness.api.running import Progress, read_plan
from harness.config import farm as farms
from harness.errors import ConfigError, RecipeError
from harness.events import Emit, ignore
from harness.types import Plan

_VERDICTS: dict[int, PointVerdict] = {
    0: "good",
    1: "bad",
    2: "inconclusive",
    3: "untestable",
    4: "away",
}
"""The verdict per exit code of the gate (docs/plans.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateOracle:
    """Runs the gate of a plan; more pairs get more time."""

    plan: Plan
    farm: farms.Farm | AnyPath | None = None
    devices: Several[str] = ()
    include_suspect: bool = False
    results: AnyPath | None = None
    wait: bool | None = None
    progress: Callable[[], Progress | None] = lambda: None

    def __call__(self, baseline: Path, candidate: Path, max_pairs: int) -> GateAnswer:
        """Run a gate; a candidate that cannot be compared is `untestable`, with the reason."""
        rules = Rules.of(self.plan)
        seconds = rules.budget_seconds * max(1.0, max_pairs / rules.max_pairs)
        limits = replace(self.plan.gate, max_pairs=max_pairs, budget_seconds=seconds)
        try:
            result = gate(
                replace(self.plan, gate=limits),
                baseline=str(baseline),
                candidate=str(candidate),
                farm=self.farm,
                devices=self.devices,
                include_suspect=self.include_suspect,
                results=self.results,
                wait=self.wait,
                progress=self.progress(),
            )
        except (ConfigError, RecipeError) as error:
            return GateAnswer(verdict="untestable", reason=str(error))
        return _answer(result)


def _answer(result: Result) -> GateAnswer:
    """Convert a gate's result; a candidate is bad if any judged metric regressed."""
    reason = "; ".join(explained(result)) if result.failed else result.summary()
    return GateAnswer(verdict=_VERDICTS[result.exit_code], reason=reason, run=result.run)


def bisect(
    plan: Plan | AnyPath,
    points: Points,
    *,
    oracle: Oracle | None = None,
    farm: farms.Farm | AnyPath | None = None,
    devices: Several[str] = (),
    include_suspect: bool = False,
    results: AnyPath | None = None,
    wait: bool | None = None,
    on_event: Emit = ignore,
    progress: Callable[[], Progress | None] = lambda: None,
) -> BisectResult:
    """Find the first point that is worse than the first one, with the plan's gate as the oracle.

    `points` is a `harness.analysis.bisect.ModelFiles` or comes from the context of
    :func:`bisect_commits`. Each gate is a stored run; `oracle` replaces the gate. `wait` is that of `run`, `include_suspect` that of `gate`. `on_event`
    gets a `harness.analysis.bisect.BisectStep` per answer.

    Raises ConfigError for a plan or ends that cannot be used, and the errors of a gate.
    """
    read = read_plan(plan)
    chosen = oracle or GateOracle(
        plan=read,
        farm=farm,
        devices=devices,
        include_suspect=include_suspect,
        results=results,
        wait=wait,
        progress=progress,
    )
    return search(points, chosen, max_pairs=Rules.of(read).max_pairs, emit=on_event)


@contextmanager
def bisect_commits(
    repository: Path, good: str, bad: str, *, path: str, build: Sequence[str] = ()
) -> Iterator[Commits]:
    """Yield the commits of a range as points; remove their worktrees and models at the end.

    Raises ConfigError for an invalid range or path.
    """
    with tempfile.TemporaryDirectory(prefix="edge-harness-bisect-") as folder:
        yield Commits(repository, good, bad, path=path, folder=Path(folder), build=build)
