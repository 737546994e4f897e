"""The one place that turns an error into an outcome's failure, and a cell that needs no launch to fail."""

from __future__ import annotations

from harness.errors import HarnessError, Inaccurate
from harness.types import Cell, Failure, Profile


def failure_of(error: HarnessError) -> Failure:
    """Turn an error into the failure of an outcome."""
    return Failure(kind=error.kind, reason=str(error))


def refused(cell: Cell, profile: Profile | None) -> Failure | None:
    """Say why a cell needs no launch to fail: not built, no such target, too much accuracy lost."""
    if isinstance(cell.variant, Failure):
        return cell.variant
    if profile and cell.target not in profile.targets:
        return Failure(
            kind="unsupported",
            reason=f"profile {profile.name} has no target {cell.target} "
            f"(it has: {', '.join(profile.targets)})",
        )
    variant, accept = cell.variant, cell.accept
    if (
        accept.max_accuracy_drop is not None
        and variant.accuracy is not None
        and variant.accuracy_source_model is not None
        and variant.accuracy_source_model - variant.accuracy > accept.max_accuracy_drop
    ):
        drop = variant.accuracy_source_model - variant.accuracy
        return Failure(
            kind=Inaccurate.kind,
            reason=f"on the host {variant.metric} falls by {drop:.4f} against the source model "
            f"(accept.max_accuracy_drop = {accept.max_accuracy_drop})",
        )
    return None
