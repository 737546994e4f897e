"""The nouns of a search: what is to do, who does it, what became of one recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, Self

from harness.analysis.search.columns import Miss
from harness.analysis.search.space import Space
from harness.config.searches import Search
from harness.errors import StoreError
from harness.types import Failure, Recipe, Variant

Status = Literal["ok", "misses", "pruned", "failed"]
"""`ok` holds every constraint; `misses` was measured and does not; `pruned` broke one on the host
already, so the device was not asked; `failed` could not be built or measured."""


class Workshop(Protocol):
    """Builds recipes and measures them. It travels to other processes, so it can be pickled."""

    def build(self, recipe: Recipe) -> Variant | Failure:
        """Build the model by a recipe and check it on the host."""

    def measure(self, recipe: Recipe) -> Mapping[str, Any]:
        """Measure it on the device: the stored row, with `run` and `status`.

        Raises Unreachable where the device is away: no recipe is to blame for that.
        """

    def plan_text(self, recipe: Recipe) -> str:
        """Write the plan.toml that builds and measures just this recipe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A search, whole: everything one of its processes must know."""

    folder: Path
    search: Search
    space: Space
    workshop: Workshop
    seed: int = 0
    alone: bool = True
    """Whether nothing may be built while the device measures: it is this machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What became of one recipe."""

    number: int
    """Of the trial in the study, from 0."""
    key: str
    """Of the recipe: :func:`harness.analysis.search.space.key_of`."""
    recipe: str
    status: Status
    reason: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    """By column; only those that are known."""
    misses: tuple[Miss, ...] = ()
    digest: str | None = None
    """sha256 of the file."""
    run: str | None = None
    """Where it was measured; another recipe's run where that gave the same file."""
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)

    @classmethod
    def from_plain(cls, told: Mapping[str, Any]) -> Self:
        """Read what `plain` wrote; raises StoreError for anything else."""
        try:
            misses = tuple(Miss(**miss) for miss in told["misses"])
            return cls(**{**told, "misses": misses})
        except (TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"is no record of a trial: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted:
    """Progress: work on a recipe starts."""

    recipe: str
    process: int
    """Number of the process that does it, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded:
    """Progress: a trial has ended."""

    tried: Tried
    again: bool
    """Whether the recipe was known already."""
    done: int
    """Recipes tried so far, by all processes and before a resume."""
    of: int

    def text(self, columns: Sequence[str]) -> str:
        """Say it in one line, with these columns of what is known."""
        tried = self.tried
        values = ", ".join(
            f"{name} {tried.values[name]:.6g}" for name in columns if name in tried.values
        )
        words = "; ".join(word for word in (tried.reason, values) if word)
        return f"[{self.done}/{self.of}] {tried.recipe}: {tried.status}: {words}"
