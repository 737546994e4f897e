"""Models without measuring: build variants, inspect a file, list the recipes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from harness.api import arguments
from harness.api.arguments import AnyPath, Several

if TYPE_CHECKING:
    from harness.measure.runs import Progress


def optimize(
    model: AnyPath,
    *,
    recipes: Several[str],
    out: AnyPath,
    target: str | None = None,
    training: AnyPath | None = None,
    calibration: AnyPath | None = None,
    evaluation: AnyPath | None = None,
    metric: str | None = None,
    shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    signature: str | None = None,
    allow_flex: bool = False,
    host: Mapping[str, float | None] | None = None,
    trust_model: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Build variants of one model into the folder `out`; return one row per variant.

    See :func:`harness.measure.variants.optimize`.
    """
    from harness.measure import variants

    return variants.optimize(
        arguments.path(model),
        recipes=arguments.texts(recipes),
        out=arguments.path(out),
        target=target,
        training=None if training is None else os.fspath(training),
        calibration=None if calibration is None else os.fspath(calibration),
        evaluation=None if evaluation is None else os.fspath(evaluation),
        metric=metric,
        shape=shape,
        signature=signature,
        allow_flex=allow_flex,
        host=host,
        trust_model=trust_model,
        progress=progress,
    )


def inspect(file: AnyPath, *, host: Mapping[str, float | None] | None = None) -> dict[str, Any]:
    """Return the contents of a .tflite file, and the operators that this host's delegate takes."""
    from harness.config import plans
    from harness.optimize import inspect as inspector

    return inspector.inspect(arguments.path(file), plans.host_limits(host)).plain()


def payload(
    file: AnyPath, old: AnyPath | None = None, *, host: Mapping[str, float | None] | None = None
) -> dict[str, Any]:
    """Return a file's size in each codec and as a delta to an older file; takes seconds per MB."""
    from harness.config import plans
    from harness.optimize import inspect as inspector

    return inspector.packed(
        arguments.path(file), arguments.optional_path(old), plans.host_limits(host)
    )


def recipes(name: str | None = None) -> list[dict[str, Any]]:
    """Return the known steps with their parameters, or the step with this name.

    Raises ConfigError for an unknown name.
    """
    from harness.optimize import catalog

    return catalog.describe_steps(name)
