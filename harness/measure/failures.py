"""Turn errors into failures of outcomes, and find the cells that fail without a launch."""

from __future__ import annotations

import logging

from harness.errors import HarnessError, Inaccurate, InternalError
from harness.types import Cell, Failure, Profile

_log = logging.getLogger(__name__)
_SMALL_DROP = 1e-3


def failure_of(error: Exception) -> Failure:
    """Turn an error into the failure of an outcome; one that is no HarnessError is a bug."""
    if not isinstance(error, HarnessError):
        _log.debug("a bug in the program or a plug-in", exc_info=error)
        error = InternalError.of(error)
    return Failure(kind=error.kind, reason=str(error))


def unsupported(target: str, profile: Profile | None) -> Failure | None:
    """Return the failure of a target that the device's profile does not have, else None."""
    if profile is None or target in profile.targets:
        return None
    return Failure(
        kind="unsupported",
        reason=f"profile {profile.name} has no target {target} "
        f"(it has: {', '.join(profile.targets)})",
    )


def refused(cell: Cell, profile: Profile | None) -> Failure | None:
    """Return why a cell fails without a launch, else None.

    Its variant was not built, the profile does not have its target, or it lost too much accuracy.
    """
    if isinstance(cell.variant, Failure):
        return cell.variant
    if missing := unsupported(cell.target, profile):
        return missing
    variant, drop = cell.variant, cell.lost_accuracy
    if drop is None:
        return None
    digits = ".4f" if drop >= _SMALL_DROP else ".4g"
    verb = "rises" if variant.accuracy_better == "lower" else "falls"
    return Failure(
        kind=Inaccurate.kind,
        reason=f"on the host {variant.metric} {verb} by {drop:{digits}} against the source model, "
        f"from {variant.accuracy_source_model:.4g} to {variant.accuracy:.4g} "
        f"(accept.max_accuracy_drop = {cell.accept.max_accuracy_drop})",
    )
