"""Models without measuring: build variants, inspect a file, list the recipes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.measure.variants import optimize
else:
    from harness import lazy

    __getattr__, _ = lazy.attributes("harness.measure", {"variants": ("optimize",)})

__all__ = ["inspect", "optimize", "payload", "recipes"]


def inspect(file: Path, *, host: Mapping[str, float | None] | None = None) -> dict[str, Any]:
    """Return the contents of a .tflite file, and the operators that this host's delegate takes."""
    from harness.config import plans
    from harness.optimize import inspect as inspector

    return inspector.inspect(file, plans.host_limits(host))


def payload(
    file: Path, old: Path | None = None, *, host: Mapping[str, float | None] | None = None
) -> dict[str, Any]:
    """Return a file's size in each codec and as a delta to an older file; takes seconds per MB."""
    from harness.config import plans
    from harness.optimize import inspect as inspector

    return inspector.packed(file, old, plans.host_limits(host))


def recipes(name: str | None = None) -> list[dict[str, Any]]:
    """Return the known steps with their parameters, or the step with this name.

    Raises ConfigError for an unknown name.
    """
    from harness.optimize import catalog

    return catalog.describe_steps(name)
