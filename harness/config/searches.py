"""The [search] table of a plan: recipes with ranges, objectives and constraints.

    [search]
    space = ["prune(sparsity=0.3..0.9) > int8", "weight_only(bits=4|8)", "float16"]
    objectives = ["size_bytes", "latency_p50_ms", "accuracy"]
    constraints = { max_accuracy_drop = 0.02, max_size_kb = 300 }

A value of a recipe may be a range `low..high` or alternatives `x|y`, each part as in TOML.
harness.analysis.search checks if a step takes them; this package does not import it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Ge

from harness import columns, metrics, plugins
from harness.config import bounds, farm, recipes
from harness.errors import ConfigError
from harness.types import (
    FINITE,
    Between,
    Constraints,
    Direction,
    OneOf,
    Plan,
    PlannedModel,
    Recipe,
    Search,
)

Aim = Literal["minimize", "maximize"]

_AIMS: Mapping[Direction, Aim] = {"lower": "minimize", "higher": "maximize"}


def _searched(by: Literal["host", "device"]) -> dict[str, Aim]:
    return {
        column.name: _AIMS[column.better]
        for column in columns.ALL
        if column.searched == by and column.better is not None
    }


HOST: Mapping[str, Aim] = _searched("host")
"""Columns that are known as soon as the file is built, with their better direction."""

DEVICE: Mapping[str, Aim] = _searched("device")
"""Columns that are measured on the device."""

OBJECTIVES: Mapping[str, Aim] = {**HOST, **DEVICE}
"""All objectives; the direction of accuracy depends on the metric (:func:`direction`)."""

_MAX_ALTERNATIVES = 100
_MAX_TRIALS, _MAX_PROCESSES = 100_000, 1024
_OF_ACCURACY = ("max_accuracy_drop", "min_accuracy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """The table [search] as written."""

    __pydantic_config__: ClassVar[Mapping[str, Any]] = FINITE
    space: tuple[str, ...]
    model: str | None = None
    """The model's name, if the plan has several models."""
    objectives: tuple[str, ...] = ("size_bytes", "latency_p50_ms", "accuracy")
    constraints: Constraints = field(default_factory=Constraints)
    device: str = farm.THIS_MACHINE
    trials: Annotated[int, Ge(1)] = 30
    processes: Annotated[int, Ge(1)] = 1


class SpaceReader(recipes.RecipeReader):
    """Reads a recipe whose values may be ranges and alternatives."""

    expected = "as in TOML, a range 0.3..0.9 with the lower end first, or alternatives 4|8"

    @staticmethod
    def value_of(written: str) -> Any:  # noqa: ANN401 - any TOML value, Between or OneOf
        """Read a TOML value, a range or alternatives; raises ValueError if it is none of them."""
        try:
            return recipes.RecipeReader.value_of(written)
        except ValueError:
            low, dots, high = written.partition("..")
            if dots and "|" not in written:
                return _between(low, high)
            return _one_of(written)


def direction(objective: str, accuracy: Direction) -> Aim:
    """Return the better direction of an objective; `accuracy` is that of accuracy."""
    return _AIMS[accuracy] if columns.get(objective).by_metric else OBJECTIVES[objective]


def of(plan: Plan) -> Search:
    """Return the search of a plan; raises ConfigError if it has no [search]."""
    if plan.search is None:
        raise ConfigError(
            f"{plan.path or 'plan'}: there is no [search]; give it at least "
            'space = ["mixed(max_drop=0.0..0.02)", "int8"] (docs/search.md)'
        )
    return plan.search


def model_of(plan: Plan) -> PlannedModel:
    """Return the model of a plan's search."""
    return _model(of(plan).model, plan.models, str(plan.path or "plan"))


def read(
    table: Table,
    named: Mapping[str, str],
    planned: Sequence[PlannedModel],
    threads: Sequence[int],
    name: str,
) -> Search:
    """Make the search of a checked table.

    Raises ConfigError, with the file, the key and the fix, for an invalid search.
    """
    bounds.check_number(f"{name}: search.trials", table.trials, _MAX_TRIALS)
    bounds.check_number(f"{name}: search.processes", table.processes, _MAX_PROCESSES)
    space = _space(table, named, name)
    _check_objectives(table.objectives, name)
    model = _model(table.model, planned, name)
    if len(threads) != 1:
        raise ConfigError(
            f"{name}: search: needs one number of threads, run.threads has {len(threads)}"
        )
    constraints = table.constraints
    by_accuracy = [key for key in _OF_ACCURACY if key in constraints.given()]
    by_accuracy += [objective for objective in table.objectives if objective == "accuracy"]
    if by_accuracy and model.source.data.evaluation is None:
        raise ConfigError(
            f"{name}: search: {by_accuracy[0]} needs data.evaluation, samples with labels"
        )
    metric = model.source.data.metric
    better = metrics.direction(metric) if by_accuracy else "higher"
    if better == "lower" and constraints.min_accuracy is not None:
        raise ConfigError(
            f"{name}: search.constraints.min_accuracy: lower {metric} is better; limit its increase "
            "with max_accuracy_drop"
        )
    return Search(
        space=space,
        model=table.model,
        objectives=table.objectives,
        constraints=constraints,
        device=table.device,
        trials=table.trials,
        processes=table.processes,
        accuracy_better=better,
    )


def meaning(search: Search) -> dict[str, Any]:
    """Return the part of a search that is in the plan's digest: all but trials and processes."""
    return {
        "space": [(template.chain, template.target) for template in search.space],
        "objectives": search.objectives,
        "constraints": search.constraints.given(),
        "device": search.device,
        "model": search.model,
    }


def _space(table: Table, named: Mapping[str, str], name: str) -> tuple[Recipe, ...]:
    if not table.space:
        raise ConfigError(f'{name}: search.space: at least one is needed, such as "int8"')
    bounds.check_count(f"{name}: search.space", len(table.space), bounds.MAX_RECIPES)
    space: list[Recipe] = []
    for place, text in enumerate(table.space):
        try:
            space.append(recipes.parse(text, named, SpaceReader))
        except ConfigError as error:
            raise ConfigError(f"{name}: search.space[{place}]: {error}") from None
    chains = [(template.chain, template.target) for template in space]
    for place, chain in enumerate(chains):
        if chain in chains[:place]:
            raise ConfigError(f"{name}: search.space[{place}]: is in the list already")
    return tuple(space)


def _model(chosen: str | None, planned: Sequence[PlannedModel], name: str) -> PlannedModel:
    named = {model.source.name: model for model in planned}
    if chosen is None and len(named) != 1:
        raise ConfigError(
            f"{name}: search: needs one model, this plan has {', '.join(named)}; "
            "name one in search.model"
        )
    if chosen is not None and chosen not in named:
        raise ConfigError(f"{name}: search.model: {plugins.unknown('model', chosen, named)}")
    return planned[0] if chosen is None else named[chosen]


def _check_objectives(objectives: Sequence[str], name: str) -> None:
    if not objectives:
        raise ConfigError(f'{name}: search.objectives: at least one is needed, as "size_bytes"')
    for place, objective in enumerate(objectives):
        where = f"{name}: search.objectives[{place}]"
        if objective not in OBJECTIVES:
            raise ConfigError(f"{where}: {plugins.unknown('objective', objective, OBJECTIVES)}")
        if objective in objectives[:place]:
            raise ConfigError(f"{where}: {objective} is in the list already")


def _between(low: str, high: str) -> Between:
    ends = [recipes.RecipeReader.value_of(end.strip()) for end in (low, high)]
    if not all(isinstance(end, (int, float)) and not isinstance(end, bool) for end in ends):
        raise ValueError(f"{low}..{high}")
    if not ends[0] < ends[1]:
        raise ValueError(f"{low}..{high}")
    return Between(low=ends[0], high=ends[1])


def _one_of(written_text: str) -> OneOf:
    """Split at each "|" that ends a complete value; one inside quotes does not."""
    values: list[Any] = []
    pending: list[str] = []
    pieces = written_text.split("|")
    if len(pieces) > _MAX_ALTERNATIVES:
        raise ValueError(written_text)
    for piece in pieces:
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
