"""Compare a device's outputs with the host's."""

from __future__ import annotations

from harness.types import Agreement, Cell, Variant

RELATIVE_ERROR_LIMIT = 0.1
"""Outputs without classes agree up to this relative error (INTERFACE: a row)."""


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
        return None
    return (
        f"outputs differ from the host's on {what}: the same class in "
        f"{agreement.top1:.1%} of {agreement.samples} inputs (accept.min_agreement = {limit})"
    )
