"""Build variants of one model into a folder: `edge-harness optimize`."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import assets
from harness.config import plans
from harness.errors import ConfigError
from harness.events import ignore
from harness.measure import prepare
from harness.measure.runs import Progress, farm_of
from harness.optimize.build import BuildRequest
from harness.printable import file_name
from harness.types import Failure, Variant

_MAX_PART = 100
"""Characters of a recipe in the name of its file."""


def optimize(
    model: Path,
    *,
    recipes: Sequence[str],
    out: Path,
    target: str | None = None,
    training: str | None = None,
    calibration: str | None = None,
    evaluation: str | None = None,
    metric: str | None = None,
    shape: Sequence[int] | Mapping[str, Sequence[int]] | None = None,
    signature: str | None = None,
    allow_flex: bool = False,
    host: Mapping[str, float | None] | None = None,
    trust_model: bool = False,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Build variants of one model into the folder `out`.

    `metric` is a key of [data], `shape`, `signature` and `allow_flex` are keys of [[model]]
    (docs/plans.md), `host` has the keys of [host]. `trust_model` says that code in the model may run.
    Each file is written as soon as it is built and checked, so an interrupted
    call keeps the finished ones.

    Returns one row per variant: file, sizes, accuracy, agreement; or the reason of the failure.
    Raises ConfigError for wrong data and for a folder that cannot be written, before anything is
    built.
    """
    named = [f"{recipe}@{target}" if target and "@" not in recipe else recipe for recipe in recipes]
    plan = plans.quick(
        [model],
        devices=["this-machine"],
        recipes=named,
        data={
            "training": training,
            "calibration": calibration,
            "evaluation": evaluation,
            "metric": metric,
        },
        model={
            "shape": _plain_shape(shape),
            "signature": signature,
            "allow_flex": allow_flex or None,
        },
        host=host,
        trust=trust_model,
    )
    decided = prepare.decide(plan, farm_of(None))
    prepare.check(decided)
    _make_folder(out)
    requests = decided.requests
    files = _file_names(requests)
    rows: dict[str, dict[str, Any]] = {}
    for request, result in prepare.build_all(
        requests,
        cache=assets.cache_folder() / "build",
        seed=plan.seed,
        on_event=progress or ignore,
    ):
        rows[request.recipe.name] = _row(request, result, out / files[request.recipe.name])
    if progress:
        progress.close()
    return [rows[request.recipe.name] for request in requests]


def _row(request: BuildRequest, result: Variant | Failure, file: Path) -> dict[str, Any]:
    """Copy a built file to `file` and return its row, or the row of a failure."""
    row: dict[str, Any] = {
        "model": request.model.name,
        "recipe": request.recipe.name,
        "target": request.target,
    }
    if isinstance(result, Failure):
        return {**row, "status": result.kind, "reason": result.reason, "file": None}
    try:
        shutil.copyfile(result.path, file)
    except OSError as error:
        reason = f"{file}: cannot be written: {error.strerror or error}"
        return {**row, "status": "not_written", "reason": reason, "file": None}
    return {**row, "status": "ok", "reason": None, "file": str(file), **_about(result)}


def _make_folder(out: Path) -> None:
    """Make the folder of the files; raises ConfigError if it cannot be made or written."""
    file = next((one for one in (out, *out.parents) if one.is_file()), None)
    if file is not None:
        raise ConfigError(
            f"{file_name(out)}: cannot be written: {'it' if file == out else file_name(file)} is a "
            "file, and the variants go to a folder; give another one"
        )
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=out):
            pass
    except OSError as error:
        raise ConfigError(
            f"{file_name(out)}: cannot be written: {error.strerror or error}; choose another folder "
            "for the files"
        ) from error


def _plain_shape(
    shape: Sequence[int] | Mapping[str, Sequence[int]] | None,
) -> list[int] | dict[str, list[int]] | None:
    if isinstance(shape, Mapping):
        return {name: list(sizes) for name, sizes in shape.items()}
    return None if shape is None else list(shape)


def _file_names(requests: Sequence[BuildRequest]) -> dict[str, str]:
    """Return the file name of each recipe; equal ones get a number, and long ones are shortened."""
    names: dict[str, str] = {}
    for request in requests:
        part = _file_name_part(request.recipe.name)[:_MAX_PART]
        stem = f"{request.model.name}-{part}"
        name, number = f"{stem}.tflite", 2
        while name in names.values():
            name, number = f"{stem}-{number}.tflite", number + 1
        names[request.recipe.name] = name
    return names


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
