"""The verdict: may this cell's number be called its target's?

Decided when rows are read, from the launches, the variant, what the plan accepts and, where the run
has it, the time of the same model on the CPU. Nothing here can turn a number into a better one: a rule
that does not apply says nothing, and without evidence there is no number.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from harness import stats
from harness.devices.delegation.evidence import kinds
from harness.devices.delegation.outputs import disagreement
from harness.tflite.compiled import EDGETPU, compiled_ops
from harness.types import Agreement, Cell, Compiled, Delegation, Launch, Variant

CPU_TARGETS = ("xnnpack", "micro")
"""Targets that are the processor itself: there is no accelerator to lie about."""

SHOWN = ("ok", "partial")
"""The statuses of a verdict whose numbers are shown."""

AS_THE_CPU = 0.05
"""Within this share of the CPU's time an accelerator's looks like the CPU's own."""

TOO_FAST = 200.0
"""Times faster than the CPU, from where a time is not believed without a look: the fastest Edge TPU
results that Google publishes are some 30 times faster than a desktop processor's. A large GPU beside one
thread is further off (256 times, seen), so a time that was held against one until the outputs were read is believed."""

HANDED_OVER = 0.5
"""Up to this share of an inference timed to its end, the handing over can be told from it by a time alone.
On a discrete GPU the honest medians were 1.03 to 1.39 times the least time to the end, over all launches of a cell."""

Validity = Literal["VALID", "SUSPECT", "INVALID"]
Status = Literal["ok", "partial", "fell_back", "invalid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Medians of an inference, ns: of the cell, and of the same model on the same device's CPU."""

    own: float
    cpu: float | None
    """None where the run has no such row."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DelegationVerdict:
    """What a cell's launches are worth, and the counts that a row shows."""

    validity: Validity
    status: Status
    """The row's: `ok` and `partial` have numbers, the others never."""
    reason: str
    delegation: Delegation
    """Of the worst launch; counts are the original file's where the compiler's log has them."""

    @property
    def shown(self) -> bool:
        """Whether there are numbers."""
        return self.status in SHOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """All that is judged."""

    cell: Cell
    worst: Delegation
    """The launch that delegated least, with the original file's counts."""
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
) -> DelegationVerdict | None:
    """Judge a measured cell; None where no launch ran the model.

    `launches` may hold any kind; those of no model (`bare`) are passed over. Without `timing` the time is
    that of the launches' own samples, where they have them. `agreement` is that of the device's outputs
    with the host's; those of a compiled file are doubted where the file it was made from answers otherwise.
    """
    told = tuple(one.delegation for one in launches if one.kind in ("timed", "memory"))
    if not told:
        return None
    flags = {flag for one in launches for flag in one.flags}
    if cell.target in CPU_TARGETS:
        return _cpu(told, promised="no_xnnpack" in flags)
    case = _case(cell, told, timing.own if timing else _own_ns(launches))
    for rule in _RULES:
        found = rule(case)
        if found is not None:
            status, reason = found
            return DelegationVerdict(
                validity="INVALID", status=status, reason=reason, delegation=case.worst
            )
    left = _left_over(case)
    if left is not None and not _allowed(case):
        return DelegationVerdict(
            validity="INVALID", status="partial", reason=left, delegation=case.worst
        )
    status = "ok" if left is None else "partial"
    doubt = disagreement(agreement, cell) if agreement else None
    doubt = doubt or _implausible(timing, to_the_end=all(one.whole_ns for one in case.every))
    reason = left or _in_full(case)
    if doubt is not None:
        return DelegationVerdict(
            validity="SUSPECT", status=status, reason=f"{doubt}; {reason}", delegation=case.worst
        )
    return DelegationVerdict(validity="VALID", status=status, reason=reason, delegation=case.worst)


def share(delegation: Delegation) -> float | None:
    """Return the share of operators on the accelerator; None where they are not counted."""
    done, total = delegation.delegated_ops, delegation.total_ops
    return None if done is None or not total else done / total


def _own_ns(launches: Sequence[Launch]) -> float | None:
    """Return the median latency of launches that have their samples and a whole time to hold it against."""
    timed = [one for one in launches if one.delegation.whole_ns]
    parts = [part for one in timed for part in one.samples if part.series == "latency"]
    values = [value for part in parts for value in part.value]
    return stats.median(values) if values else None


def _cpu(told: Sequence[Delegation], *, promised: bool) -> DelegationVerdict:
    """On the CPU the only question is whether XNNPACK was made where it is promised."""
    first = next((one for one in told if one.delegate == "none"), told[0])
    counts = _counts(first)
    if first.delegate != "none":
        reason = f"{first.delegate} was made on the CPU{counts and f', {counts}'}"
        return DelegationVerdict(validity="VALID", status="ok", reason=reason, delegation=told[0])
    if not promised:
        reason = "the CPU's own kernels; no delegate is promised here"
        return DelegationVerdict(validity="VALID", status="ok", reason=reason, delegation=told[0])
    reason = (
        f"XNNPACK is promised by the profile and was not made; evidence: {first.evidence or 'none'}"
    )
    return DelegationVerdict(validity="SUSPECT", status="ok", reason=reason, delegation=told[0])


def _case(cell: Cell, told: tuple[Delegation, ...], own_ns: float | None) -> _Case:
    def worse(one: Delegation) -> tuple[bool, float]:
        known = share(one)
        if known is None:
            known = 1.0 if one.fully and not one.left else 0.0
        return one.delegate != "none", known

    worst = _original(cell, min(told, key=worse))
    return _Case(cell=cell, worst=worst, every=told, own_ns=own_ns)


def _original(cell: Cell, told: Delegation) -> Delegation:
    """Count the original file's operators where a compiler made one of many.

    A compiled file's own operators are no measure: one of them stands for all that were mapped.
    Without the compiler's log only those left on the CPU are known, by name.
    """
    variant = cell.variant
    if not isinstance(variant, Variant) or not compiled_ops(variant.operators):
        return told
    made = variant.compiled
    if made is not None and made.mapped_ops is not None and made.total_ops is not None:
        return replace(
            told,
            delegated_ops=made.mapped_ops if told.delegated_ops else told.delegated_ops,
            total_ops=made.total_ops,
            left=tuple(sorted(made.left)) or told.left,
            evidence=f"{told.evidence}; compiled file; vendor's log ({made.compiler}, {made.source})",
        )
    told = replace(told, evidence=f"{told.evidence}; compiled file")
    if told.left and told.delegated_ops:
        return replace(told, delegated_ops=None, total_ops=None)
    return told


# --- rules: each a reason why there is no number, the first that applies counts -------------------


def _nothing(case: _Case) -> tuple[Status, str] | None:
    for place, told in enumerate(case.every, 1):
        if told.delegate == "none" or told.delegated_ops == 0 or told.partitions == 0:
            which = f" in launch {place} of {len(case.every)}" if len(case.every) > 1 else ""
            evidence = told.evidence or "none"
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
    for told in case.every:
        if told.delegate in ("xnnpack", "cpu"):
            return (
                "fell_back",
                f"the delegate was {told.delegate}, which is the CPU; evidence: {told.evidence or 'none'}",
            )
    return None


def _no_evidence(case: _Case) -> tuple[Status, str] | None:
    for told in case.every:
        if not kinds(told.evidence):
            words = f' ("{told.evidence}" is none)' if told.evidence else ""
            return "invalid", f"nothing shows that {case.cell.target} ran it{words}"
    return None


def _contradiction(case: _Case) -> tuple[Status, str] | None:
    compiled = case.compiled
    if compiled is not None and compiled.contradiction:
        return "invalid", f"{compiled.source or compiled.compiler}: {compiled.contradiction}"
    for told in case.every:
        reason = _own_contradiction(told) or _against_the_file(told, case.operators)
        if reason:
            return "invalid", reason
    return None


def _against_the_file(told: Delegation, operators: dict[str, int]) -> str | None:
    whole, compiled = sum(operators.values()), compiled_ops(operators)
    if compiled and (told.delegated_ops or 0) > compiled:
        return f"the delegate took {told.delegated_ops} operators and {compiled} are compiled"
    if told.total_ops and whole and told.total_ops > whole:
        return f"the launch counted {told.total_ops} operators and the file has {whole}"
    return None


def _own_contradiction(told: Delegation) -> str | None:
    done, total = told.delegated_ops, told.total_ops
    if done is not None and total is not None and done > total:
        return f"{done} of {total} operators delegated: more than there are"
    whole = share(told)
    if told.fully is True and whole is not None and whole < 1:
        return f"is_fully_accelerated says all, the graph walk {done} of {total}"
    if told.fully is False and whole == 1:
        return f"is_fully_accelerated says not all, the graph walk {done} of {total}"
    if whole == 1 and told.left:
        return f"{done} of {total} operators delegated, and {', '.join(told.left)} left"
    return None


def _enqueued(case: _Case) -> tuple[Status, str] | None:
    if any(told.clock == "run" for told in case.every):
        return "invalid", "the time is that of handing the work over, not of doing it"
    handed = min((one.handed_ns for one in case.every if one.handed_ns), default=None)
    whole = min((one.whole_ns for one in case.every if one.whole_ns), default=None)
    if handed is None or whole is None or case.own_ns is None:
        return None
    told = handed <= HANDED_OVER * whole
    # A busy machine makes either a few times longer, so what counts is which of the two is nearer.
    if case.own_ns < (math.sqrt(handed * whole) if told else HANDED_OVER * whole):
        own, short, long = (f"{one / 1e6:.3g} ms" for one in (case.own_ns, handed, whole))
        return (
            "invalid",
            f"the time is that of handing the work over: {own}; timed apart that took {short}, and {long} until the outputs were read",
        )
    return None


_RULES: tuple[_Rule, ...] = (
    _nothing,
    _another_delegate,
    _no_evidence,
    _contradiction,
    _enqueued,
)


# --- in part, and in doubt ------------------------------------------------------------------------


def _left_over(case: _Case) -> str | None:
    """Say what stayed on the CPU; None where nothing did."""
    told = case.worst
    done, total = told.delegated_ops, told.total_ops
    compiled = case.compiled
    why = dict(compiled.left) if compiled is not None else {}
    names = ", ".join(
        f"{one}{f' x{times}' if times > 1 else ''}{f' ({why[one]})' if why.get(one) else ''}"
        for one, times in Counter(told.left).items()
    )
    if done is not None and total is not None:
        if done >= total:
            return None
        minimum = case.cell.accept.min_delegated
        reason = f"{total - done} of {total} operators stayed on the CPU: {names or 'not named'}"
        if minimum is not None and done / total < minimum:
            reason += f" ({done / total:.0%} delegated, under min_delegated = {minimum:g})"
        return reason
    if told.left:
        return f"operators stayed on the CPU: {names}; how many of all is not known without the compiler's log"
    if told.fully is False:
        return "is_fully_accelerated says that operators stayed on the CPU, not which"
    if told.fully is None:
        return f"whether operators stayed on the CPU is not known; evidence: {told.evidence}"
    return None


def _allowed(case: _Case) -> bool:
    minimum = case.cell.accept.min_delegated
    if minimum is None:
        return False
    return (share(case.worst) or 0.0) >= minimum


def _implausible(timing: Timing | None, *, to_the_end: bool) -> str | None:
    """Hold the time against the same model's on the CPU; None where nothing is odd.

    `to_the_end`: every launch was held against inferences timed until their outputs were read.
    """
    if timing is None or timing.cpu is None or timing.own <= 0 or timing.cpu <= 0:
        return None
    faster = timing.cpu / timing.own
    if faster > TOO_FAST and not to_the_end:
        return f"{faster:,.0f} times faster than on the CPU"
    if abs(math.log(faster)) < math.log1p(AS_THE_CPU):
        return f"as fast as on the CPU ({faster:.2f} times): it may be the CPU"
    return None


def _in_full(case: _Case) -> str:
    told = case.worst
    found = ", ".join(kinds(told.evidence))
    return f"{_counts(told) or 'all operators'} on {case.cell.target}; evidence: {found}"


def _counts(told: Delegation) -> str:
    if told.delegated_ops is None or told.total_ops is None:
        return ""
    partitions = f" in {told.partitions} partitions" if (told.partitions or 0) > 1 else ""
    return f"{told.delegated_ops}/{told.total_ops} operators{partitions}"
