"""Models without measuring: build variants, inspect a file, list the recipes."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.api.running import Progress
    from harness.types import Variant


def optimize(
    model: Path,
    *,
    recipes: Sequence[str],
    out: Path,
    target: str | None = None,
    training: str | None = None,
    calibration: str | None = None,
    evaluation: str | None = None,
    host: Mapping[str, float | None] | None = None,
    trust_model: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Build variants of one model into the folder `out`.

    `host` has the keys of a plan's [host]. `trust_model` says that code in the model may run.
    Returns one row per variant: file, sizes, accuracy, agreement; or the reason of the failure.
    """
    from harness.api.running import read_farm
    from harness.config import plans
    from harness.events import ignore
    from harness.measure import prepare
    from harness.measure.runs import build_variants
    from harness.types import Failure

    named = [f"{recipe}@{target}" if target and "@" not in recipe else recipe for recipe in recipes]
    plan = plans.quick(
        [model],
        devices=["this-machine"],
        recipes=named,
        data={"training": training, "calibration": calibration, "evaluation": evaluation},
        host=host,
        trust=trust_model,
    )
    decided = prepare.decide(plan, read_farm(None))
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    for request, result in build_variants(decided, progress or ignore).values():
        row: dict[str, Any] = {
            "model": request.model.name,
            "recipe": request.recipe.name,
            "target": request.target,
        }
        if isinstance(result, Failure):
            rows.append({**row, "status": result.kind, "reason": result.reason, "file": None})
            continue
        file = out / f"{request.model.name}-{_file_name_part(request.recipe.name)}.tflite"
        shutil.copyfile(result.path, file)
        rows.append({**row, "status": "ok", "reason": None, "file": str(file), **_about(result)})
    if progress:
        progress.close()
    return rows


def _file_name_part(recipe: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "_" for c in recipe).strip("_")


def _about(variant: Variant) -> dict[str, Any]:
    agreement = variant.agreement
    return {
        "size_bytes": variant.size_bytes,
        "size_zstd_bytes": variant.size_zstd_bytes,
        "accuracy": variant.accuracy,
        "agreement_top1": agreement.top1 if agreement else None,
        "relative_error": agreement.relative_error if agreement else None,
        "sparsity": variant.sparsity,
        "sha256": variant.digest,
        "flags": list(variant.flags),
        "notes": list(variant.notes),
    }


def inspect(file: Path, *, host: Mapping[str, float | None] | None = None) -> dict[str, Any]:
    """Return the contents of a .tflite file, and the operators that this host's delegate takes."""
    from harness.config import plans
    from harness.optimize import inspect as inspector

    return inspector.inspect(file, plans.host_limits(host)).plain()


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
