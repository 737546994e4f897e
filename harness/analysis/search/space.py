"""The space of a search: recipe templates with ranges, checked against the steps' parameters."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from harness.errors import ConfigError
from harness.optimize import cache, catalog
from harness.types import Between, OneOf, Recipe, Search, StepCall

TEMPLATE = "template"
"""Name of the study's parameter that holds the number of the template."""

_DIGITS = 3
"""Significant digits of a drawn fraction: the recipe stays readable and can be drawn again."""


class Draw(Protocol):
    """Chooses values; a trial of Optuna is one."""

    def suggest_categorical(self, name: str, choices: Sequence[int]) -> Any:  # noqa: ANN401
        """Choose one of these."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Choose a whole number from `low` to `high`, both included."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """Choose a number from `low` to `high`, both included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """A parameter of a template's step that the search varies."""

    template: int
    step: int
    parameter: str
    domain: Between | OneOf
    whole: bool

    @property
    def name(self) -> str:
        """Its name in the study."""
        return f"{self.template}.{self.step}.{self.parameter}"

    def draw(self, source: Draw) -> Any:  # noqa: ANN401 - as the study keeps it
        """Draw a value: a number, or the index of an alternative."""
        if isinstance(self.domain, OneOf):
            return source.suggest_categorical(self.name, range(len(self.domain.values)))
        if self.whole:
            return source.suggest_int(self.name, int(self.domain.low), int(self.domain.high))
        return source.suggest_float(self.name, float(self.domain.low), float(self.domain.high))

    def value(self, drawn: Any) -> Any:  # noqa: ANN401 - any TOML value
        """Convert a drawn value to the parameter's value."""
        if isinstance(self.domain, OneOf):
            return self.domain.values[drawn]
        if self.whole:
            return int(drawn)
        short = float(f"{drawn:.{_DIGITS}g}")
        return min(max(short, float(self.domain.low)), float(self.domain.high))

    def all(self) -> range | None:
        """Return all values that can be drawn; None for a range of fractions."""
        if isinstance(self.domain, OneOf):
            return range(len(self.domain.values))
        return range(int(self.domain.low), int(self.domain.high) + 1) if self.whole else None

    def middle(self) -> Any:  # noqa: ANN401 - as the study keeps it
        """Return a first guess: the middle of a range, the first alternative."""
        if isinstance(self.domain, OneOf):
            return 0
        middle = (self.domain.low + self.domain.high) / 2
        return int(middle) if self.whole else middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Space:
    """Recipe templates and their variables."""

    templates: tuple[Recipe, ...]
    variables: tuple[Variable, ...]

    @classmethod
    def of(cls, search: Search) -> Self:
        """Check every template against the steps, at both ends and at each alternative.

        Raises the ConfigError that `edge-harness run` raises for a recipe with that value.
        """
        found: list[Variable] = []
        for number, template in enumerate(search.space):
            try:
                variables = _variables(number, template)
                for values in _probes(variables):
                    catalog.check(_filled(template, variables, values))
            except ConfigError as error:
                raise ConfigError(f"search.space[{number}]: {error}") from None
            found += variables
        return cls(templates=search.space, variables=tuple(found))

    def draw(self, source: Draw) -> Recipe:
        """Draw a recipe.

        It draws every variable, also those of the other templates: all trials then have the same
        parameters, and the sampler can cross any two of them.
        """
        template = int(source.suggest_categorical(TEMPLATE, range(len(self.templates))))
        drawn = {variable.name: variable.draw(source) for variable in self.variables}
        return self.recipe({TEMPLATE: template, **drawn})

    def recipe(self, drawn: Mapping[str, Any]) -> Recipe:
        """Return the recipe for drawn values."""
        number = drawn[TEMPLATE]
        own = self._variables_of(number)
        values = [variable.value(drawn[variable.name]) for variable in own]
        return _filled(self.templates[number], own, values)

    def is_whole(self, drawn: Mapping[str, Any]) -> bool:
        """Return whether the drawn values are enough for a recipe."""
        return TEMPLATE in drawn and all(
            v.name in drawn for v in self._variables_of(drawn[TEMPLATE])
        )

    def size(self) -> int | None:
        """Count the recipes of the space; None if it has a range of fractions."""
        total = 0
        for number in range(len(self.templates)):
            count = 1
            for variable in self._variables_of(number):
                options = variable.all()
                if options is None:
                    return None
                count *= len(options)
            total += count
        return total

    def first(self, trials: int) -> list[dict[str, Any]]:
        """Return the points that are tried before the sampler chooses, by variable name.

        These are all points of the space if `trials` are enough for it, else one per template.
        """
        size = self.size()
        if size is not None and size <= trials:
            return [point for number in range(len(self.templates)) for point in self._all(number)]
        return [
            {TEMPLATE: number}
            | {variable.name: variable.middle() for variable in self._variables_of(number)}
            for number in range(len(self.templates))
        ][:trials]

    def _all(self, number: int) -> list[dict[str, Any]]:
        own = self._variables_of(number)
        options = [variable.all() or range(0) for variable in own]
        return [
            {TEMPLATE: number}
            | {variable.name: value for variable, value in zip(own, values, strict=True)}
            for values in itertools.product(*options)
        ]

    def _variables_of(self, number: int) -> list[Variable]:
        return [variable for variable in self.variables if variable.template == number]


def key_of(recipe: Recipe) -> str:
    """Return a key that is the same for recipes with the same steps, parameters and target.

    Default parameters count as if they were written out.
    """
    steps = [(call.name, catalog.parameters(call)) for call in recipe.steps]
    return cache.key(steps=steps, target=recipe.target)


def _variables(number: int, template: Recipe) -> list[Variable]:
    steps = catalog.known_steps()
    found = []
    for index, call in enumerate(template.steps):
        kinds = {item.name: item.type for item in getattr(steps.get(call.name), "parameters", ())}
        found += [
            Variable(
                template=number,
                step=index,
                parameter=key,
                domain=value,
                whole=_whole(kinds.get(key, ""), value),
            )
            for key, value in call.parameters.items()
            if isinstance(value, (Between, OneOf))
        ]
    return found


def _whole(kind: str, domain: Between | OneOf) -> bool:
    """Return whether a range has whole numbers only: by its ends and the step's parameter type."""
    if isinstance(domain, OneOf) or kind.startswith("number"):
        return False
    return isinstance(domain.low, int) and isinstance(domain.high, int)


def _probes(variables: Sequence[Variable]) -> list[list[Any]]:
    """Return values to check: each end and each alternative, with the first of the others."""
    ends = [
        list(variable.domain.values)
        if isinstance(variable.domain, OneOf)
        else [variable.domain.low, variable.domain.high]
        for variable in variables
    ]
    first = [options[0] for options in ends]
    return [
        first,
        *(
            [*first[:index], option, *first[index + 1 :]]
            for index, options in enumerate(ends)
            for option in options[1:]
        ),
    ]


def _filled(template: Recipe, variables: Sequence[Variable], values: Sequence[Any]) -> Recipe:
    """Return the recipe with these values; its name is its text as in a plan."""
    calls: list[StepCall] = list(template.steps)
    for variable, value in zip(variables, values, strict=True):
        call = calls[variable.step]
        calls[variable.step] = replace(
            call, parameters={**call.parameters, variable.parameter: value}
        )
    filled = Recipe(name=template.name, steps=tuple(calls), target=template.target)
    end = f"@{template.target}" if template.target else ""
    return replace(filled, name=f"{filled.chain}{end}")
