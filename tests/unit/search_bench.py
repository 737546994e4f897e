"""A trial runner without models: a formula gives a recipe's values; each call is logged."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.analysis.search import Folder, Job, Space, create
from harness.config.recipes import parse
from harness.config.searches import SpaceReader
from harness.errors import Unreachable
from harness.types import Constraints, Failure, Recipe, Search, Variant

SOURCE_ACCURACY = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeTrialRunner:
    """cluster(clusters=n): n KB, slower if n is odd; prune(sparsity=s): smaller, worse over 0.6."""

    log: Path
    fails: str = ""
    """Recipes with this text in their name cannot be built."""
    away_after: int = 10**6
    """Measurements after which the device is away."""
    interrupted_at: int = -1
    """Number of the build that Ctrl-C interrupts, from 0."""
    killed_at: int = -1
    """Number of the build that kills the process, from 0."""
    metric: str = "top1"
    """`mse` makes the same numbers errors."""
    one_file: bool = False
    """Whether every recipe gives the same bytes."""
    absent: str | None = None
    """The target that the device does not have: its rows fail."""
    suspect: str = ""
    """Recipes with this text in their name have a SUSPECT row."""

    def calls(self, verb: str) -> list[str]:
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.partition(" ")[2] for line in lines if line.startswith(verb)]

    def _note(self, verb: str, recipe: Recipe) -> None:
        with self.log.open("a") as file:
            file.write(f"{verb} {recipe.name}\n")

    def build(self, recipe: Recipe) -> Variant | Failure:
        number = len(self.calls("build"))
        self._note("build", recipe)
        if number == self.interrupted_at:
            raise KeyboardInterrupt
        if number == self.killed_at:
            os._exit(9)
        if self.fails and self.fails in recipe.name:
            return Failure(kind="not_built", reason=f"{recipe.name} is not to be")
        size, accuracy, _ = formula(recipe)
        text = "same" if self.one_file else recipe.chain
        return Variant(
            model="fake",
            recipe=recipe.name,
            target=recipe.target or "xnnpack",
            path=Path("none"),
            digest=hashlib.sha256(text.encode()).hexdigest(),
            size_bytes=size,
            size_zstd_bytes=size // 2,
            accuracy=accuracy,
            accuracy_source_model=SOURCE_ACCURACY,
            metric=self.metric,
            metric_direction="lower" if self.metric == "mse" else "higher",
        )

    def measure(self, recipe: Recipe) -> Mapping[str, Any]:
        if len(self.calls("measure")) >= self.away_after:
            raise Unreachable("the board is away")
        self._note("measure", recipe)
        run = f"run-{len(self.calls('measure'))}"
        if self.absent and recipe.target == self.absent:
            return {"run": run, "status": "unsupported", "reason": f"no {self.absent} here"}
        doubt = self.suspect and self.suspect in recipe.name
        return {
            "run": run,
            "status": "ok",
            "reason": None,
            "verdict": "SUSPECT" if doubt else "VALID",
            "verdict_reason": "its outputs were not checked" if doubt else None,
            "latency_p50_ms": formula(recipe)[2] + (recipe.target == "coral"),
        }

    def plan_text(self, recipe: Recipe) -> str:
        return f"[run]\nrecipes = ['{recipe.name}']\n"


def formula(recipe: Recipe) -> tuple[int, float, float]:
    """Return bytes, accuracy and milliseconds of a recipe."""
    parameters = recipe.steps[0].parameters
    if "clusters" in parameters:
        n = parameters["clusters"]
        return n * 1000, round(0.8 + 0.01 * min(n, 12), 6), 2.0 if n % 2 else 1.0
    if "sparsity" in parameters:
        s = parameters["sparsity"]
        return int(100_000 * (1 - s)), SOURCE_ACCURACY - max(0.0, s - 0.6), 1.0
    return 50_000, 0.93, 0.5


def search_of(*space: str, **given: Any) -> Search:
    fields: dict[str, Any] = {
        "objectives": ("size_bytes", "latency_p50_ms", "accuracy"),
        "constraints": Constraints(**given.pop("constraints", {})),
        "device": "this-machine",
        "model": None,
        "trials": 12,
        "processes": 1,
    } | given
    return Search(space=tuple(parse(text, None, SpaceReader) for text in space), **fields)


def job_of(tmp: Path, search: Search, *, folder: Folder | None = None, **fake: Any) -> Job:
    made = folder or create(tmp / "results", model="fake", digest="d" * 64, record={})
    return Job(
        folder=made.path,
        search=search,
        space=Space.of(search),
        runner=FakeTrialRunner(log=tmp / "calls.txt", **fake),
    )
