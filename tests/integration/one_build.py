"""One recipe of one model, built for tests of the steps that call a vendor's compiler."""

from __future__ import annotations

from pathlib import Path

from harness.config import recipes
from harness.errors import HarnessError
from harness.optimize import build, catalog
from harness.types import DataSource, ModelSource, Variant


def built(folder: Path, model: Path, recipe: str) -> Variant:
    """Build it with a cache in the folder; raises the build's error."""
    source = ModelSource(name="m", path=model, data=DataSource(calibration="random"))
    parsed = recipes.parse(recipe)
    catalog.check(parsed)
    request = build.BuildRequest(
        model=source, recipe=parsed, target=build.resolve_target(parsed, source)
    )
    ((_, result),) = build.build_all([request], cache=folder / "cache", workers=1)
    if isinstance(result, HarnessError):
        raise result
    return result
