"""A gate that is stopped before its verdict: what was measured is judged, and marked incomplete."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from harness.analysis.gate import judging
from harness.analysis.gate.budget import BudgetUsed
from harness.analysis.gate.contest import Contest, Evidence, Reading, Rules, SideName, whole_blocks
from harness.analysis.gate.document import Result
from harness.analysis.gate.findings import Key, Row
from harness.analysis.gate.loop import ContestEnded
from harness.analysis.gate.noise import DeviceNoise
from harness.errors import DeviceChanged
from harness.events import Event, LaunchEnded


@dataclass(slots=True, kw_only=True)
class EvidenceSoFar:
    """The evidence of a gate while it is measured."""

    found: dict[Key, Evidence]
    """By contest; of a resumed gate with the evidence that it had stored."""
    ended: set[Key] = field(default_factory=set)
    """The contests whose first pairs ended."""
    confirmed: set[Key] = field(default_factory=set)
    """Those whose fresh pairs ended, too."""
    _sides: dict[str, tuple[Key, SideName]] = field(default_factory=dict)

    @classmethod
    def of(cls, contests: Sequence[Contest], known: Mapping[Key, Evidence]) -> EvidenceSoFar:
        """Start with what is known."""
        made = cls(found={one.key: known.get(one.key) or Evidence(contest=one) for one in contests})
        for one in contests:
            made._sides |= {
                one.a.cell.id: (one.key, "baseline"),
                one.b.cell.id: (one.key, "candidate"),
            }
        return made

    def add(self, event: Event) -> None:
        """Add a launch, or the evidence of a contest that ended; the contests have threads each."""
        if isinstance(event, BudgetUsed):
            self.found[event.key] = replace(self.found[event.key], seconds=event.seconds)
        elif isinstance(event, ContestEnded):
            self.found[event.evidence.contest.key] = event.evidence
            key = event.evidence.contest.key
            (self.confirmed if key in self.ended else self.ended).add(key)
        elif isinstance(event, LaunchEnded) and event.launch.cell_id in self._sides:
            key, side = self._sides[event.launch.cell_id]
            before = self.found[key]
            reading = Reading.of(side, event.launch)
            self.found[key] = replace(before, readings=(*before.readings, reading))

    def cut_short(self, why: str) -> list[Evidence]:
        """Return the evidence of every contest, with why what had not ended is cut short."""
        return [self._cut_short(key, evidence, why) for key, evidence in self.found.items()]

    def _cut_short(self, key: Key, evidence: Evidence, why: str) -> Evidence:
        if key in self.confirmed:
            return evidence
        if key in self.ended:
            return replace(evidence, fresh_cut_short=evidence.fresh_cut_short or why)
        return replace(evidence, readings=whole_blocks(evidence.readings), cut_short=why)


@dataclass(slots=True, kw_only=True)
class ResultSoFar:
    """The result of a gate as far as it is known."""

    result: Result


@contextmanager
def reporting(first: Result, on_stopped: Callable[[Result], None]) -> Iterator[ResultSoFar]:
    """Pass the result so far to `on_stopped` if the block is stopped; KeyboardInterrupt goes on."""
    so_far = ResultSoFar(result=first)
    try:
        yield so_far
    except KeyboardInterrupt as error:
        result = so_far.result
        on_stopped(result if result.incomplete else replace(result, incomplete=_reason(error)))
        raise


def judged(
    so_far: EvidenceSoFar,
    result: Result,
    error: KeyboardInterrupt,
    *,
    rules: Rules,
    accuracies: Mapping[Key, Row],
    noise: Callable[[Evidence], DeviceNoise | None],
    resumption: str | None,
) -> Result:
    """Judge what a gate had measured when it was stopped.

    Contests that had not ended are INCONCLUSIVE. `resumption` is the command that finishes the gate.
    """
    known = so_far.cut_short(f"the gate ended early ({_cause(error)})")
    found = judging.judge_again(
        [replace(one, noise=one.noise or noise(one)) for one in known],
        result,
        rules=rules,
        accuracies=accuracies,
    )
    return replace(found, incomplete=_reason(error, resumption))


def _reason(error: KeyboardInterrupt, resumption: str | None = None) -> str:
    way = f"; `{resumption}` finishes it" if resumption else ""
    return f"the gate ended before its verdict ({_cause(error)}){way}"


def _cause(error: KeyboardInterrupt) -> str:
    return str(error) or "interrupted"


def with_command(result: Result, resumption: str | None) -> Result:
    """Add to each contest whose device changed the command that finishes the gate."""
    if resumption is None:
        return result
    way = f": `{resumption}`"
    failed = tuple(
        (key, kind, f"{why}{way}" if kind == DeviceChanged.kind else why)
        for key, kind, why in result.failed
    )
    return replace(result, failed=failed)
