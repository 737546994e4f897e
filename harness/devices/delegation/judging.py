"""Decide whether a cell's number is its target's: the delegation verdict.

The verdict is decided when rows are read, from the launches, the variant, the plan's `accept` and, if
the run has it, the time of the same model on the CPU. No rule improves a verdict: a rule that does not
apply returns None, and without evidence there is no number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness import stats
from harness.devices.delegation.evidence import kinds
from harness.devices.delegation.outputs import outputs_doubt
from harness.printable import counted
from harness.tflite.compiled import EDGETPU, compiled_ops
from harness.types import Agreement, Cell, Compiled, Delegation, Launch, SelfCheck, Variant

CPU_TARGETS = ("xnnpack", "micro")
"""Targets that are the CPU itself: there is no accelerator to verify."""

SHOWN = ("ok", "partial")
"""The statuses of a verdict whose numbers are shown."""

CPU_TIME_TOLERANCE = 0.05
"""An accelerator's time that differs from the CPU's by at most this share may be the CPU's own."""

MAX_PLAUSIBLE_SPEEDUP = 200.0
"""A larger speedup over the CPU is suspect. The fastest Edge TPU results that Google publishes are some 30
times faster than a desktop CPU's. A large GPU against one thread reached 256 times, so a speedup is not
suspect if the time was compared with that of inferences until their outputs were read."""

MAX_ENQUEUE_SHARE = 0.5
"""If the enqueue takes at most this share of a whole inference, a time alone shows which of the two it
measured. On a discrete GPU the correct medians were 1.03 to 1.39 times the shortest whole inference, over
all launches of a cell."""

OUTPUTS_DRIFTED = "outputs_drifted"
"""The flag of a timed launch whose outputs for the same input changed during the timed inferences."""

Validity = Literal["VALID", "SUSPECT", "INVALID"]
Status = Literal["ok", "partial", "fell_back", "invalid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Median times of an inference, ns: the cell's, and the same model's on the same device's CPU."""

    own: float
    cpu: float | None
    """None if the run has no such row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationVerdict:
    """Whether a cell's number is valid, why, and the counts that its row shows."""

    validity: Validity
    status: Status
    """The row's status: `ok` and `partial` have numbers, the others never."""
    reason: str
    delegation: Delegation
    """The worst launch's; counts are the original file's if the compiler's log has them."""

    @property
    def shown(self) -> bool:
        """Whether the row shows numbers."""
        return self.status in SHOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """The input of every rule."""

    cell: Cell
    worst: Delegation
    """The delegation of the worst launch, with the original file's counts."""
    every: tuple[Delegation, ...]
    own_ns: float | None

    @property
    def compiled(self) -> Compiled | None:
        return self.cell.variant.compiled if isinstance(self.cell.variant, Variant) else None

    @property
    def operators(self) -> dict[str, int]:
        variant = self.cell.variant
        return dict(variant.operators) if isinstance(variant, Variant) else {}


_Rule = Callable[[_Case], tuple[Status, str] | None]


def judge(
    cell: Cell,
    launches: Sequence[Launch],
    timing: Timing | None = None,
    agreement: Agreement | None = None,
    selfcheck: SelfCheck | None = None,
) -> DelegationVerdict | None:
    """Judge a measured cell; returns None if no launch ran the model.

    `launches` may hold launches of any kind; those without a model (`bare`) are ignored. Without `timing`
    the time comes from the launches' own samples, if they have any. `agreement` compares the device's
    outputs with the host's; for a compiled file the host runs the file it was compiled from.
    `selfcheck` has what the outputs show without the host's.
    """
    delegations = tuple(one.delegation for one in launches if one.kind in ("timed", "memory"))
    if not delegations:
        return None
    flags = {flag for one in launches for flag in one.flags}
    doubts = (outputs_doubt(cell, agreement, selfcheck), _drifted(launches))
    outputs = "; ".join(doubt for doubt in doubts if doubt) or None
    if cell.target in CPU_TARGETS:
        on_cpu = _on_cpu(delegations, promises_xnnpack="no_xnnpack" in flags)
        return on_cpu if outputs is None else _doubted(on_cpu, outputs)
    case = _case(cell, delegations, timing.own if timing else _own_ns(launches))
    for rule in _RULES:
        found = rule(case)
        if found is not None:
            return _verdict("INVALID", *found, case)
    left = _left_over(case)
    if left is not None and not _allowed(case):
        return _verdict("INVALID", "partial", f"{left}; {outputs}" if outputs else left, case)
    plain = _verdict("VALID", "partial" if left else "ok", left or _in_full(case), case)
    doubt = outputs or _implausible(timing, has_whole_times=all(one.whole_ns for one in case.every))
    return plain if doubt is None else _doubted(plain, doubt)


def _verdict(validity: Validity, status: Status, reason: str, case: _Case) -> DelegationVerdict:
    return DelegationVerdict(validity=validity, status=status, reason=reason, delegation=case.worst)


def _doubted(found: DelegationVerdict, doubt: str) -> DelegationVerdict:
    return replace(found, validity="SUSPECT", reason=f"{doubt}; {found.reason}")


def share(delegation: Delegation) -> float | None:
    """Return the share of operators on the accelerator; None if they are not counted."""
    done, total = delegation.delegated_ops, delegation.total_ops
    return None if done is None or not total else done / total


def _own_ns(launches: Sequence[Launch]) -> float | None:
    """Return the median latency, ns, of the launches that have samples and a `whole_ns` to compare."""
    timed = [one for one in launches if one.delegation.whole_ns]
    parts = [part for one in timed for part in one.samples if part.series == "latency"]
    values = [value for part in parts for value in part.value]
    return stats.median(values) if values else None


def _on_cpu(delegations: Sequence[Delegation], *, promises_xnnpack: bool) -> DelegationVerdict:
    """Judge a cell on the CPU: only a missing XNNPACK that the profile promises is suspect."""
    first = next((one for one in delegations if one.delegate == "none"), delegations[0])
    counts = _counts(first)
    if first.delegate != "none":
        reason = f"{first.delegate} was made on the CPU{counts and f', {counts}'}"
        return DelegationVerdict(
            validity="VALID", status="ok", reason=reason, delegation=delegations[0]
        )
    if not promises_xnnpack:
        reason = "the CPU's own kernels; no delegate is promised here"
        return DelegationVerdict(
            validity="VALID", status="ok", reason=reason, delegation=delegations[0]
        )
    reason = (
        f"XNNPACK is promised by the profile and was not made; evidence: {first.evidence or 'none'}"
    )
    return DelegationVerdict(
        validity="SUSPECT", status="ok", reason=reason, delegation=delegations[0]
    )


def _case(cell: Cell, delegations: tuple[Delegation, ...], own_ns: float | None) -> _Case:
    def coverage(one: Delegation) -> tuple[bool, float]:
        known = share(one)
        if known is None:
            known = 1.0 if one.fully and not one.left else 0.0
        return one.delegate != "none", known

    worst = _original(cell, min(delegations, key=coverage))
    return _Case(cell=cell, worst=worst, every=delegations, own_ns=own_ns)


def _original(cell: Cell, delegation: Delegation) -> Delegation:
    """Return the delegation in operators of the original file if the file is compiled.

    The operators of a compiled file cannot be counted: one of them replaces all that were mapped.
    Without the compiler's log only the names of those left on the CPU are known.
    """
    variant = cell.variant
    if not isinstance(variant, Variant) or not compiled_ops(variant.operators):
        return delegation
    made = variant.compiled
    if made is not None and made.mapped_ops is not None and made.total_ops is not None:
        return replace(
            delegation,
            delegated_ops=made.mapped_ops if delegation.delegated_ops else delegation.delegated_ops,
            total_ops=made.total_ops,
            left=tuple(sorted(made.left)) or delegation.left,
            evidence=f"{delegation.evidence}; compiled file; vendor's log ({made.compiler}, {made.source})",
        )
    delegation = replace(delegation, evidence=f"{delegation.evidence}; compiled file")
    if delegation.left and delegation.delegated_ops:
        return replace(delegation, delegated_ops=None, total_ops=None)
    return delegation


# --- rules: each may return why there is no number; the first one counts ---------------------------


def _no_operator(case: _Case) -> tuple[Status, str] | None:
    for place, delegation in enumerate(case.every, 1):
        if (
            delegation.delegate == "none"
            or delegation.delegated_ops == 0
            or delegation.partitions == 0
        ):
            which = f" in launch {place} of {len(case.every)}" if len(case.every) > 1 else ""
            evidence = delegation.evidence or "none"
            return (
                "fell_back",
                f"no operator ran on {case.cell.target}{which}; evidence: {evidence}",
            )
    compiled = case.compiled
    if compiled is not None and compiled.mapped_ops == 0:
        return "fell_back", f"{compiled.compiler} mapped no operator ({compiled.source})"
    known = case.operators
    if case.cell.target == "edgetpu" and known and EDGETPU not in known:
        return "fell_back", f"the file holds no {EDGETPU}: it is not compiled"
    return None


def _another_delegate(case: _Case) -> tuple[Status, str] | None:
    for delegation in case.every:
        if delegation.delegate in ("xnnpack", "cpu"):
            return (
                "fell_back",
                f"the delegate was {delegation.delegate}, which is the CPU; evidence: {delegation.evidence or 'none'}",
            )
    return None


def _no_evidence(case: _Case) -> tuple[Status, str] | None:
    for delegation in case.every:
        if not kinds(delegation.evidence):
            shown = f' ("{delegation.evidence}" is not evidence)' if delegation.evidence else ""
            return "invalid", f"there is no evidence that {case.cell.target} ran it{shown}"
    return None


def _contradiction(case: _Case) -> tuple[Status, str] | None:
    compiled = case.compiled
    if compiled is not None and compiled.contradiction:
        return "invalid", f"{compiled.source or compiled.compiler}: {compiled.contradiction}"
    for delegation in case.every:
        reason = _own_contradiction(delegation) or _against_the_file(delegation, case.operators)
        if reason:
            return "invalid", reason
    return None


def _against_the_file(delegation: Delegation, operators: dict[str, int]) -> str | None:
    whole, compiled = sum(operators.values()), compiled_ops(operators)
    if compiled and (delegation.delegated_ops or 0) > compiled:
        return f"the delegate took {delegation.delegated_ops} operators and {compiled} are compiled"
    if delegation.total_ops and whole and delegation.total_ops > whole:
        return f"the launch counted {delegation.total_ops} operators and the file has {whole}"
    return None


def _own_contradiction(delegation: Delegation) -> str | None:
    done, total = delegation.delegated_ops, delegation.total_ops
    if done is not None and total is not None and done > total:
        return f"{done} of {total} operators delegated: more than the file has"
    whole = share(delegation)
    if delegation.fully is True and whole is not None and whole < 1:
        return f"is_fully_accelerated says all, the graph walk {done} of {total}"
    if delegation.fully is False and whole == 1:
        return f"is_fully_accelerated says not all, the graph walk {done} of {total}"
    if whole == 1 and delegation.left:
        return f"{done} of {total} operators delegated, and {', '.join(delegation.left)} left"
    return None


def _enqueue_only(case: _Case) -> tuple[Status, str] | None:
    if any(delegation.clock == "run" for delegation in case.every):
        return "invalid", "measured only the asynchronous enqueue, not the whole inference"
    enqueue = min((one.handed_ns for one in case.every if one.handed_ns), default=None)
    whole = min((one.whole_ns for one in case.every if one.whole_ns), default=None)
    if enqueue is None or whole is None or case.own_ns is None:
        return None
    is_distinct = enqueue <= MAX_ENQUEUE_SHARE * whole
    # A busy machine makes both times a few times longer, so the nearer of the two counts.
    if case.own_ns < (math.sqrt(enqueue * whole) if is_distinct else MAX_ENQUEUE_SHARE * whole):
        own, short, long = (f"{one / 1e6:.3g} ms" for one in (case.own_ns, enqueue, whole))
        return (
            "invalid",
            f"measured only the asynchronous enqueue: {own}; timed separately, the enqueue took {short} and a whole inference {long}",
        )
    return None


_RULES: tuple[_Rule, ...] = (
    _no_operator,
    _another_delegate,
    _no_evidence,
    _contradiction,
    _enqueue_only,
)


# --- partial and suspect results ------------------------------------------------------------------


def _left_over(case: _Case) -> str | None:
    """Return which operators stayed on the CPU; None if none did."""
    delegation = case.worst
    done, total = delegation.delegated_ops, delegation.total_ops
    compiled = case.compiled
    why = {**delegation.left_why, **(compiled.left if compiled is not None else {})}
    names = ", ".join(
        f"{one}{f' x{times}' if times > 1 else ''}{f' ({why[one]})' if why.get(one) else ''}"
        for one, times in Counter(delegation.left).items()
    )
    if done is not None and total is not None:
        if done >= total:
            return None
        minimum = case.cell.accept.min_delegated
        reason = f"{total - done} of {counted(total, 'operator')} stayed on the CPU: {names or 'not named'}"
        if minimum is not None and done / total < minimum:
            reason += f" ({done / total:.0%} delegated, under min_delegated = {minimum:g})"
        return reason
    if delegation.left:
        return f"operators stayed on the CPU: {names}; their number is unknown without the compiler's log"
    if delegation.fully is False:
        return "is_fully_accelerated says that operators stayed on the CPU, but not which"
    if delegation.fully is None:
        return f"it is unknown whether operators stayed on the CPU; evidence: {delegation.evidence}"
    return None


def _allowed(case: _Case) -> bool:
    minimum = case.cell.accept.min_delegated
    if minimum is None:
        return False
    return (share(case.worst) or 0.0) >= minimum


def _drifted(launches: Sequence[Launch]) -> str | None:
    timed = [one for one in launches if one.kind == "timed"]
    wrong = sum(OUTPUTS_DRIFTED in one.flags for one in timed)
    if not wrong:
        return None
    return (
        f"outputs drifted in {wrong} of {len(timed)} timed launches: after the timed inferences the "
        "same input gave other outputs"
    )


def _implausible(timing: Timing | None, *, has_whole_times: bool) -> str | None:
    """Compare the time with the same model's on the CPU; returns None if it is plausible.

    `has_whole_times`: every launch was compared with inferences timed until their outputs were read.
    """
    if timing is None or timing.cpu is None or timing.own <= 0 or timing.cpu <= 0:
        return None
    faster = timing.cpu / timing.own
    if faster > MAX_PLAUSIBLE_SPEEDUP and not has_whole_times:
        return f"{faster:,.0f} times faster than on the CPU"
    if abs(math.log(faster)) < math.log1p(CPU_TIME_TOLERANCE):
        return f"as fast as on the CPU ({faster:.2f} times): it may be the CPU"
    return None


def _in_full(case: _Case) -> str:
    delegation = case.worst
    found = ", ".join(kinds(delegation.evidence))
    return f"{_counts(delegation) or 'all operators'} on {case.cell.target}; evidence: {found}"


def _counts(delegation: Delegation) -> str:
    if delegation.delegated_ops is None or delegation.total_ops is None:
        return ""
    partitions = (
        f" in {delegation.partitions} partitions" if (delegation.partitions or 0) > 1 else ""
    )
    return f"{delegation.delegated_ops}/{counted(delegation.total_ops, 'operator')}{partitions}"
