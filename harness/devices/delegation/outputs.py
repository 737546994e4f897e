"""Judge a device's outputs: against the host's, and by themselves if there is no reference."""

from __future__ import annotations

from collections.abc import Mapping

from harness.types import Agreement, Cell, SelfCheck, Variant

RELATIVE_ERROR_LIMIT = 0.1
"""Outputs without classes agree up to this relative error (INTERFACE: a row)."""

WILD_ERROR_LIMIT = 0.5
"""No rounding of an honest device goes this far, whatever class it comes to."""


def disagreement(agreement: Agreement, cell: Cell) -> str | None:
    """Return why the device's outputs are wrong, or None if they agree with the host's.

    Random inputs have no true class and may tie, so for them a small relative error is enough.
    """
    limit = cell.accept.min_agreement
    close = agreement.relative_error <= RELATIVE_ERROR_LIMIT
    compiled = isinstance(cell.variant, Variant) and cell.variant.uncompiled is not None
    what = "the file it was compiled from" if compiled else "the same file"
    if agreement.top1 is None:
        if close:
            return None
        return (
            f"outputs differ from the host's on {what}: relative error "
            f"{agreement.relative_error:.3g} over {agreement.samples} inputs "
            f"(limit {RELATIVE_ERROR_LIMIT})"
        )
    if agreement.top1 >= limit or ("random_inputs" in cell.flags and close):
        if agreement.relative_error <= WILD_ERROR_LIMIT:
            return None
        return (
            f"outputs differ from the host's on {what}: relative error "
            f"{agreement.relative_error:.3g} over {agreement.samples} inputs, though the classes "
            f"agree (limit {WILD_ERROR_LIMIT})"
        )
    return (
        f"outputs differ from the host's on {what}: the same class in "
        f"{agreement.top1:.1%} of {agreement.samples} inputs (accept.min_agreement = {limit})"
    )


MIN_INPUTS = 4
"""With fewer different inputs, equal outputs and copies show nothing."""

MAX_CHANCE = 0.01
"""A score that unrelated outputs reach with a larger probability is not above chance."""

FINDINGS = ("not_finite", "constant", "copied", "shifted", "unrepeatable", "chance")
"""The kinds of finding, in the order in which a reason names them."""

_STATEFUL = (
    *("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE"),
    *("HASHTABLE", "HASHTABLE_IMPORT", "HASHTABLE_FIND", "SVDF", "RNN", "LSTM"),
    *("UNIDIRECTIONAL_SEQUENCE_RNN", "UNIDIRECTIONAL_SEQUENCE_LSTM"),
    *("BIDIRECTIONAL_SEQUENCE_RNN", "BIDIRECTIONAL_SEQUENCE_LSTM"),
    *("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL"),
)
"""Operators whose outputs depend on more than their inputs."""


def by_nature(operators: Mapping[str, int], *, has_state: bool) -> tuple[str, ...]:
    """Return the findings that are no fault of a device for a file with these operators.

    `has_state`: the file has variable tensors, as a compiled recurrent model does.
    """
    keeps_state = has_state or any(name in operators for name in _STATEFUL)
    return ("unrepeatable",) if keeps_state else ()


def is_telling(check: SelfCheck) -> bool:
    """Return whether there were enough different inputs to judge outputs without a reference."""
    return check.inputs >= MIN_INPUTS


def findings(check: SelfCheck, *, random_inputs: bool) -> dict[str, str]:
    """Return what is wrong with a device's outputs by themselves: kind to text; empty if nothing is.

    An honest model may return a NaN for random inputs, so for those only NaN everywhere counts.
    """
    found = {}
    limit = check.inferences if random_inputs else 1
    if check.not_finite >= max(limit, 1):
        found["not_finite"] = (
            f"outputs are NaN or infinite in {check.not_finite} of {check.inferences} inferences"
        )
    if check.outputs == 1 and is_telling(check):
        found["constant"] = (
            f"outputs do not depend on the inputs: the same for all {check.inputs} different inputs"
        )
    if check.copied is not None and is_telling(check):
        found["copied"] = (
            f'output "{check.copied}" is a copy of the input in all {check.inferences} inferences'
        )
    if check.shift is not None:
        before = "inference" if check.shift == 1 else f"{check.shift} inferences"
        found["shifted"] = f"outputs are those of another input: of the one {before} before"
    elif check.unlike:
        found["unrepeatable"] = (
            f"the same input gave other outputs in {check.unlike} of {check.repeats} repetitions"
        )
    if check.chance is not None and check.chance > MAX_CHANCE:
        found["chance"] = (
            f"{check.metric} {check.score:.4g} over the labelled inputs is no better than chance"
        )
    return {kind: found[kind] for kind in FINDINGS if kind in found and kind not in check.expected}


def outputs_doubt(
    cell: Cell, agreement: Agreement | None, selfcheck: SelfCheck | None
) -> str | None:
    """Return why the device's outputs are not to be trusted; None if nothing speaks against them."""
    own = findings(selfcheck, random_inputs="random_inputs" in cell.flags) if selfcheck else {}
    reasons = [*own.values(), disagreement(agreement, cell) if agreement else None]
    return "; ".join(reason for reason in reasons if reason) or None
