"""The data of a search: its job, its trial results and its events; and what runs a trial."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self

from harness.analysis.search.columns import Miss
from harness.analysis.search.space import Space
from harness.errors import StoreError
from harness.events import Event
from harness.types import Failure, Recipe, Search, Variant

TrialStatus = Literal["ok", "misses", "pruned", "failed"]
"""`ok` holds every constraint; `misses` was measured and breaks one; `pruned` breaks one on the host,
so it was not measured; `failed` could not be built or measured."""


class TrialRunner(Protocol):
    """Builds and measures recipes; it is pickled for other processes."""

    def build(self, recipe: Recipe) -> Variant | Failure:
        """Build the model with a recipe and check it on the host."""

    def measure(self, recipe: Recipe) -> Mapping[str, Any]:
        """Measure it on the device and return the stored row, with `run` and `status`.

        Raises Unreachable if the device is away: that is no fault of the recipe.
        """

    def plan_text(self, recipe: Recipe) -> str:
        """Return the text of a plan.toml that builds and measures this recipe alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that a process of a search needs."""

    folder: Path
    search: Search
    space: Space
    runner: TrialRunner
    seed: int = 0
    alone: bool = True
    """Whether builds must wait while the device measures, because it is this machine."""
    include_suspect: bool = False
    """Whether trials whose row is not VALID may be on the front."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialResult:
    """The result of one recipe's trial."""

    number: int
    """Number of the trial in the study, from 0."""
    key: str
    """Key of the recipe, see :func:`harness.analysis.search.space.key_of`."""
    recipe: str
    status: TrialStatus
    reason: str | None = None
    values: Mapping[str, float] = field(default_factory=dict)
    """Known values by column."""
    misses: tuple[Miss, ...] = ()
    digest: str | None = None
    """sha256 of the file."""
    target: str | None = None
    """Target that the file was built for and runs on; None in old records and if not built."""
    run: str | None = None
    """Id of the run that measured it; that of another recipe with the same file and target."""
    doubt: str | None = None
    """Why its row is not VALID: it is not on the front unless suspect trials are included."""
    seconds: float = 0.0

    @property
    def subject(self) -> tuple[str | None, str | None]:
        """What was measured: the file and its target. All else is the same for a whole search."""
        return self.digest, self.target

    @property
    def is_trusted(self) -> bool:
        """Whether its measurement succeeded and is VALID, so that it counts for the same subject.

        The target of an old record is unknown, so it does not.
        """
        measured = self.run is not None and self.status in ("ok", "misses")
        return measured and self.doubt is None and self.target is not None

    def plain(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> Self:
        """Read the form that `plain` returns; raises StoreError for any other."""
        try:
            misses = tuple(Miss(**miss) for miss in plain["misses"])
            return cls(**{**plain, "misses": misses})
        except (TypeError, KeyError, AttributeError) as error:
            raise StoreError(f"is no record of a trial: {error}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialStarted(Event):
    """A trial of a recipe started."""

    name: ClassVar[str] = "trial_started"
    recipe: str
    process: int
    """Number of the process that runs the trial, from 0."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialEnded(Event):
    """A trial of a recipe ended."""

    name: ClassVar[str] = "trial"
    trial: TrialResult
    again: bool
    """Whether the recipe had a result already."""
    done: int
    """Recipes with a result so far, of all processes and of earlier starts."""
    wanted: int
    """Recipes that the search is to try."""

    def text(self, columns: Sequence[str]) -> str:
        """Write the result in one line, with the known values of these columns."""
        trial = self.trial
        values = ", ".join(
            f"{name} {trial.values[name]:.6g}" for name in columns if name in trial.values
        )
        details = "; ".join(part for part in (trial.reason, values) if part)
        return f"[{self.done}/{self.wanted}] {trial.recipe}: {trial.status}: {details}"
