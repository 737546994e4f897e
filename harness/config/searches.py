"""The [search] table of a plan: recipes with ranges, what is better, what must hold.

    [search]
    space = ["prune(sparsity=0.3..0.9) > int8", "weight_only(bits=4|8)", "float16"]
    objectives = ["size_bytes", "latency_p50_ms", "accuracy"]
    constraints = { max_accuracy_drop = 0.02, max_size_kb = 300 }

A value of a recipe may be a range `low..high` or alternatives `x|y`, each side as in TOML. Whether
a step takes them is asked of the steps (harness.analysis.search), which this package does not know.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from harness import plugins
from harness.config import farm, recipes, toml_door
from harness.errors import ConfigError
from harness.types import FORBID_UNKNOWN, Plan, PlannedModel, Recipe, written

Direction = Literal["minimize", "maximize"]

HOST: Mapping[str, Direction] = {
    "size_bytes": "minimize",
    "size_zstd_bytes": "minimize",
    "accuracy": "maximize",
}
"""Columns that are known as soon as the file is built, and what is better."""

DEVICE: Mapping[str, Direction] = {
    "latency_p50_ms": "minimize",
    "latency_p90_ms": "minimize",
    "latency_p99_ms": "minimize",
    "load_ms": "minimize",
    "first_ms": "minimize",
    "peak_rss_mb": "minimize",
    "model_memory_mb": "minimize",
}
"""Columns that the device must be asked for."""

OBJECTIVES: Mapping[str, Direction] = {**HOST, **DEVICE}

_LIMITS: Mapping[str, tuple[float, float]] = {
    "max_accuracy_drop": (0, 1),
    "min_accuracy": (0, 1),
    "max_size_kb": (0, math.inf),
    "max_size_zstd_kb": (0, math.inf),
    "max_latency_ms": (0, math.inf),
    "max_peak_rss_mb": (0, math.inf),
}
_OF_ACCURACY = ("max_accuracy_drop", "min_accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Between:
    """A range of numbers, both ends in it; whole ends may mean whole numbers (the step says)."""

    low: float
    high: float

    def __str__(self) -> str:
        """Write it as a plan does: `0.3..0.9`."""
        return f"{self.low}..{self.high}"


@dataclass(frozen=True, slots=True, kw_only=True)
class OneOf:
    """Alternatives, two or more, no two alike."""

    values: tuple[Any, ...]

    def __str__(self) -> str:
        """Write it as a plan does: `4|8`."""
        return "|".join(written(value) for value in self.values)


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraints:
    """What every point of the answer holds; KB and MB are 10^3 and 10^6 bytes."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    max_accuracy_drop: float | None = None
    """Absolute, on the host, against the source model on the same samples."""
    min_accuracy: float | None = None
    max_size_kb: float | None = None
    max_size_zstd_kb: float | None = None
    max_latency_ms: float | None = None
    """Of latency_p50_ms."""
    max_peak_rss_mb: float | None = None

    def given(self) -> dict[str, float]:
        """Return those that are given, by name."""
        named = dataclasses.asdict(self)
        return {name: limit for name, limit in named.items() if limit is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """[search] as written."""

    __pydantic_config__: ClassVar[Mapping[str, str]] = FORBID_UNKNOWN
    space: tuple[str, ...]
    model: str | None = None
    """Which one, where the plan has several."""
    objectives: tuple[str, ...] = ("size_bytes", "latency_p50_ms", "accuracy")
    constraints: Constraints = Constraints()
    device: str = farm.THIS_MACHINE
    trials: int = 30
    processes: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to search; values of the space's recipes may be Between or OneOf."""

    space: tuple[Recipe, ...]
    model: str | None
    objectives: tuple[str, ...]
    constraints: Constraints
    device: str
    trials: int
    processes: int


class SpaceReader(recipes.RecipeReader):
    """Reads a recipe whose values may be ranges and alternatives."""

    expected = "as in TOML, a range 0.3..0.9 with the lower end first, or alternatives 4|8"

    @staticmethod
    def value_of(written: str) -> Any:  # noqa: ANN401 - any TOML value, Between or OneOf
        """Read one value; raises ValueError for what is none of the three."""
        try:
            return recipes.RecipeReader.value_of(written)
        except ValueError:
            low, dots, high = written.partition("..")
            if dots and "|" not in written:
                return _between(low, high)
            return _one_of(written)


def of(plan: Plan) -> Search:
    """Return what a plan asks to search; raises ConfigError where it has no [search]."""
    name = str(plan.path) if plan.path else "plan"
    if not plan.search:
        raise ConfigError(
            f"{name}: there is no [search]; give it at least "
            'space = ["mixed(max_drop=0.0..0.02)", "int8"] (docs/search.md)'
        )
    table = toml_door.check(plan.search, Table, name, ("search",))
    named = {key: entry["steps"] for key, entry in plan.text.get("recipe", {}).items()}
    return _read(table, named, name)


def model_of(plan: Plan) -> PlannedModel:
    """Return the model that a plan's search is of."""
    return _model(of(plan).model, plan.models, str(plan.path or "plan"))


def check(
    table: Table,
    named: Mapping[str, str],
    planned: Sequence[PlannedModel],
    threads: Sequence[int],
    name: str,
) -> None:
    """Refuse a search that cannot be; raises ConfigError with file, key and the way out."""
    search = _read(table, named, name)
    model = _model(search.model, planned, name)
    if len(threads) != 1:
        raise ConfigError(
            f"{name}: search: is with one number of threads, run.threads has {len(threads)}"
        )
    wanting = [word for word in _OF_ACCURACY if word in search.constraints.given()]
    wanting += [word for word in search.objectives if word == "accuracy"]
    if wanting and model.source.data.evaluation is None:
        raise ConfigError(
            f"{name}: search: {wanting[0]} needs data.evaluation, samples with their answers"
        )


def meaning(table: Table, named: Mapping[str, str]) -> dict[str, Any]:
    """Return what a plan's digest has of a search: what is looked for, not how long."""
    search = _read(table, named, "plan")
    return {
        "space": [(template.chain, template.target) for template in search.space],
        "objectives": search.objectives,
        "constraints": search.constraints.given(),
        "device": search.device,
        "model": search.model,
    }


def _read(table: Table, named: Mapping[str, str], name: str) -> Search:
    if not table.space:
        raise ConfigError(f'{name}: search.space: at least one is needed, such as "int8"')
    space = []
    for place, text in enumerate(table.space):
        try:
            space.append(recipes.parse(text, named, SpaceReader))
        except ConfigError as error:
            raise ConfigError(f"{name}: search.space[{place}]: {error}") from None
    chains = [(template.chain, template.target) for template in space]
    for place, chain in enumerate(chains):
        if chain in chains[:place]:
            raise ConfigError(f"{name}: search.space[{place}]: is in the list already")
    _check_objectives(table.objectives, name)
    _check_numbers(table, name)
    return Search(
        space=tuple(space),
        model=table.model,
        objectives=table.objectives,
        constraints=table.constraints,
        device=table.device,
        trials=table.trials,
        processes=table.processes,
    )


def _model(asked: str | None, planned: Sequence[PlannedModel], name: str) -> PlannedModel:
    named = {model.source.name: model for model in planned}
    if asked is None and len(named) != 1:
        raise ConfigError(
            f"{name}: search: is of one model, this plan has {', '.join(named)}; "
            "say which in search.model"
        )
    if asked is not None and asked not in named:
        raise ConfigError(f"{name}: search.model: {plugins.unknown('model', asked, named)}")
    return planned[0] if asked is None else named[asked]


def _check_objectives(objectives: Sequence[str], name: str) -> None:
    if not objectives:
        raise ConfigError(f'{name}: search.objectives: at least one is needed, as "size_bytes"')
    for place, word in enumerate(objectives):
        where = f"{name}: search.objectives[{place}]"
        if word not in OBJECTIVES:
            raise ConfigError(f"{where}: {plugins.unknown('objective', word, OBJECTIVES)}")
        if word in objectives[:place]:
            raise ConfigError(f"{where}: {word} is in the list already")


def _check_numbers(table: Table, name: str) -> None:
    for key, limit in table.constraints.given().items():
        low, high = _LIMITS[key]
        if not (low <= limit <= high and limit < math.inf):
            end = "" if high == math.inf else f" and at most {high}"
            raise ConfigError(
                f"{name}: search.constraints.{key}: must be at least {low}{end}, not {limit}"
            )
    for key, number in (("trials", table.trials), ("processes", table.processes)):
        if number < 1:
            raise ConfigError(f"{name}: search.{key}: must be at least 1, not {number}")


def _between(low: str, high: str) -> Between:
    ends = [recipes.RecipeReader.value_of(end.strip()) for end in (low, high)]
    if not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends):
        raise ValueError(f"{low}..{high}")
    if not ends[0] < ends[1]:
        raise ValueError(f"{low}..{high}")
    return Between(low=ends[0], high=ends[1])


def _one_of(written_text: str) -> OneOf:
    """Split at each "|" before which a whole value ends: one inside quotes ends none."""
    values: list[Any] = []
    pending: list[str] = []
    for piece in written_text.split("|"):
        pending.append(piece)
        try:
            values.append(recipes.RecipeReader.value_of("|".join(pending).strip()))
        except ValueError:
            continue
        pending = []
    alike = {f"{type(value).__name__} {value!r}" for value in values}
    if pending or len(alike) != len(values):
        raise ValueError(written_text)
    return OneOf(values=tuple(values))
