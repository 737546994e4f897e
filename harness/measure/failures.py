"""Turn errors into failures of outcomes, and find the cells that fail without a launch."""

from __future__ import annotations

import logging

from harness.errors import HarnessError, Inaccurate, InternalError
from harness.types import Cell, Failure, Profile

_log = logging.getLogger(__name__)


def failure_of(error: Exception) -> Failure:
    """Turn an error into the failure of an outcome; one that is no HarnessError is a bug."""
    if not isinstance(error, HarnessError):
        _log.debug("a bug in the program or a plug-in", exc_info=error)
        error = InternalError.of(error)
    return Failure(kind=error.kind, reason=str(error))


def refused(cell: Cell, profile: Profile | None) -> Failure | None:
    """Return why a cell fails without a launch, else None.

    Its variant was not built, the profile does not have its target, or it lost too much accuracy.
    """
    if isinstance(cell.variant, Failure):
        return cell.variant
    if profile and cell.target not in profile.targets:
        return Failure(
            kind="unsupported",
            reason=f"profile {profile.name} has no target {cell.target} "
            f"(it has: {', '.join(profile.targets)})",
        )
    variant, limit = cell.variant, cell.accept.max_accuracy_drop
    drop = variant.accuracy_drop
    if limit is not None and drop is not None and drop > limit:
        verb = "rises" if variant.accuracy_better == "lower" else "falls"
        return Failure(
            kind=Inaccurate.kind,
            reason=f"on the host {variant.metric} {verb} by {drop:.4f} against the source model "
            f"(accept.max_accuracy_drop = {limit})",
        )
    return None
