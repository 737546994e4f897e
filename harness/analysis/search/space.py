"""The space of a search: templates with ranges to recipes, checked against the steps."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, Self

from harness.errors import ConfigError
from harness.optimize import cache, catalog
from harness.types import Between, OneOf, Recipe, Search, StepCall

TEMPLATE = "template"
"""The name under which the number of the template is drawn."""

_DIGITS = 3
"""Of a drawn fraction: a recipe that a person can read, and the same one drawn again."""


class Draw(Protocol):
    """Who chooses; a trial of Optuna is one."""

    def suggest_categorical(self, name: str, choices: Sequence[int]) -> Any:  # noqa: ANN401
        """Choose one of these."""

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """Choose a whole number, both ends allowed."""

    def suggest_float(self, name: str, low: float, high: float) -> float:
        """Choose a number, both ends allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One parameter that is searched."""

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
        """Let a value be chosen: a number, or the place of an alternative."""
        if isinstance(self.domain, OneOf):
            return source.suggest_categorical(self.name, range(len(self.domain.values)))
        if self.whole:
            return source.suggest_int(self.name, int(self.domain.low), int(self.domain.high))
        return source.suggest_float(self.name, float(self.domain.low), float(self.domain.high))

    def value(self, drawn: Any) -> Any:  # noqa: ANN401 - any TOML value
        """Return the parameter's value of what was drawn."""
        if isinstance(self.domain, OneOf):
            return self.domain.values[drawn]
        if self.whole:
            return int(drawn)
        short = float(f"{drawn:.{_DIGITS}g}")
        return min(max(short, float(self.domain.low)), float(self.domain.high))

    def all(self) -> range | None:
        """Return everything that can be drawn, or None where that is no whole number."""
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
    """Templates and what is open in them."""

    templates: tuple[Recipe, ...]
    variables: tuple[Variable, ...]

    @classmethod
    def of(cls, search: Search) -> Self:
        """Check every template against the steps, at both ends and at each alternative.

        Raises ConfigError as `edge-harness run` would for a recipe with that value.
        """
        found: list[Variable] = []
        for place, template in enumerate(search.space):
            try:
                variables = _variables(place, template)
                for values in _probes(variables):
                    catalog.check(_filled(template, variables, values))
            except ConfigError as error:
                raise ConfigError(f"search.space[{place}]: {error}") from None
            found += variables
        return cls(templates=search.space, variables=tuple(found))

    def draw(self, source: Draw) -> Recipe:
        """Let a recipe be chosen.

        Every variable is drawn, also those of the templates that were not: the sampler then sees
        one space for all trials, in which it can cross any two of them.
        """
        template = int(source.suggest_categorical(TEMPLATE, range(len(self.templates))))
        drawn = {variable.name: variable.draw(source) for variable in self.variables}
        return self.recipe({TEMPLATE: template, **drawn})

    def recipe(self, drawn: Mapping[str, Any]) -> Recipe:
        """Return the recipe of what was drawn."""
        place = drawn[TEMPLATE]
        own = self._of(place)
        values = [variable.value(drawn[variable.name]) for variable in own]
        return _filled(self.templates[place], own, values)

    def is_whole(self, drawn: Mapping[str, Any]) -> bool:
        """Say whether what was drawn is enough for a recipe."""
        return TEMPLATE in drawn and all(v.name in drawn for v in self._of(drawn[TEMPLATE]))

    def size(self) -> int | None:
        """Count the recipes of the space; None where a range of fractions is among them."""
        total = 0
        for place in range(len(self.templates)):
            count = 1
            for variable in self._of(place):
                options = variable.all()
                if options is None:
                    return None
                count *= len(options)
            total += count
        return total

    def first(self, trials: int) -> list[dict[str, Any]]:
        """Return what is tried before the sampler chooses.

        All of the space where `trials` are enough for it; else every template once.
        """
        size = self.size()
        if size is not None and size <= trials:
            return [point for place in range(len(self.templates)) for point in self._all(place)]
        return [
            {TEMPLATE: place} | {variable.name: variable.middle() for variable in self._of(place)}
            for place in range(len(self.templates))
        ][:trials]

    def _all(self, place: int) -> list[dict[str, Any]]:
        own = self._of(place)
        options = [variable.all() or range(0) for variable in own]
        return [
            {TEMPLATE: place}
            | {variable.name: value for variable, value in zip(own, values, strict=True)}
            for values in itertools.product(*options)
        ]

    def _of(self, place: int) -> list[Variable]:
        return [variable for variable in self.variables if variable.template == place]


def key_of(recipe: Recipe) -> str:
    """Name a recipe by what it does: defaults written out or not, it is the same one."""
    steps = [(call.name, catalog.parameters(call)) for call in recipe.steps]
    return cache.key(steps=steps, target=recipe.target)


def _variables(place: int, template: Recipe) -> list[Variable]:
    steps = catalog.known_steps()
    found = []
    for index, call in enumerate(template.steps):
        kinds = {item.name: item.type for item in getattr(steps.get(call.name), "parameters", ())}
        found += [
            Variable(
                template=place,
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
    """Say whether a range is of whole numbers: both its ends are, and the step takes no others."""
    if isinstance(domain, OneOf) or kind.startswith("number"):
        return False
    return isinstance(domain.low, int) and isinstance(domain.high, int)


def _probes(variables: Sequence[Variable]) -> list[list[Any]]:
    """Return values that show every mistake: each end and alternative, beside first ones."""
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
            [*first[:place], option, *first[place + 1 :]]
            for place, options in enumerate(ends)
            for option in options[1:]
        ),
    ]


def _filled(template: Recipe, variables: Sequence[Variable], values: Sequence[Any]) -> Recipe:
    """Put values in place of the open ones; the name is the recipe as a plan writes it."""
    calls: list[StepCall] = list(template.steps)
    for variable, value in zip(variables, values, strict=True):
        call = calls[variable.step]
        calls[variable.step] = replace(
            call, parameters={**call.parameters, variable.parameter: value}
        )
    filled = Recipe(name=template.name, steps=tuple(calls), target=template.target)
    end = f"@{template.target}" if template.target else ""
    return replace(filled, name=f"{filled.chain}{end}")
