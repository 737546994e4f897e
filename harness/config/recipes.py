"""Parse the text of a recipe: `prune(sparsity=0.5) > int8@edgetpu`.

    recipe  = step (">" step)* ["@" name]
    step    = name ["(" [key "=" value ("," key "=" value)*] ")"]
    name    = letters, digits, "_", "-", "."; not starting with "-" or "."; at most 120
    value   = as in TOML: a number, "text", true, false, or an array of those

This module has only the grammar. harness.optimize checks if a step exists and takes the
parameters; this package does not import it.
"""

from __future__ import annotations

import math
import re
import tomllib
from collections.abc import Mapping
from typing import Any, ClassVar, NoReturn

from harness import plugins
from harness.config import bounds
from harness.errors import ConfigError, HarnessError
from harness.printable import clipped
from harness.types import Recipe, StepCall

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_OPEN, _CLOSE = "[{", "]}"
_MAX_TEXT = 10_000
_INT64 = 2**63


def parse(
    text: str, named: Mapping[str, str] | None = None, reader: type[RecipeReader] | None = None
) -> Recipe:
    """Parse a recipe as written in a plan.

    `named` has the chains of `[recipe.NAME]`. A name can replace a step and is expanded to its
    chain, which may have other names. The Recipe's name is the written text. `reader` may accept
    other values too (harness.config.searches).

    Raises ConfigError with the position in `text` and the expected text there.
    """
    written = text.strip()
    steps, target = (reader or RecipeReader)(written).recipe()
    return Recipe(name=written, steps=_expand(steps, named or {}, (), written), target=target)


def canonical(text: str, named: Mapping[str, str] | None = None) -> str:
    """Return the canonical form, which equal recipes share: names expanded, keys sorted."""
    recipe = parse(text, named)
    return recipe.chain if recipe.target is None else f"{recipe.chain}@{recipe.target}"


def is_name(text: str) -> bool:
    """Whether `text` can be the name of a recipe or a step."""
    return _NAME.fullmatch(text) is not None and len(text) <= bounds.MAX_NAME


def _expand(
    steps: tuple[StepCall, ...], named: Mapping[str, str], within: tuple[str, ...], written: str
) -> tuple[StepCall, ...]:
    """Replace each name of a chain by its steps; `within` are the names being expanded."""
    expanded: list[StepCall] = []
    for step in steps:
        expanded.extend(
            _expand_name(step, named, within, written) if step.name in named else [step]
        )
        if len(expanded) > bounds.MAX_STEPS:
            raise ConfigError(
                f'recipe "{clipped(written)}": expands to more than {bounds.MAX_STEPS} steps'
            )
    return tuple(expanded)


def _expand_name(
    step: StepCall, named: Mapping[str, str], within: tuple[str, ...], written: str
) -> tuple[StepCall, ...]:
    """Return the steps of a named recipe, with the names in it expanded."""
    where = f'recipe "{clipped(written)}"'
    if step.parameters:
        raise ConfigError(
            f'{where}: "{step.name}" is a recipe of this plan and takes no '
            f"parameters; change them in [recipe.{step.name}]"
        )
    if step.name in within:
        cycle = " > ".join((*within, step.name))
        raise ConfigError(f"{where}: recipes refer to each other in a cycle: {cycle}")
    if len(within) >= bounds.MAX_NESTED_RECIPES:
        raise ConfigError(
            f"{where}: recipes refer to each other more than {bounds.MAX_NESTED_RECIPES} deep"
        )
    inner, target = RecipeReader(named[step.name].strip()).recipe()
    if target is not None:
        raise ConfigError(
            f"[recipe.{step.name}] has a target (@{target}); write it where the recipe is "
            f'used instead: "{step.name}@{target}"'
        )
    return _expand(inner, named, (*within, step.name), written)


class RecipeReader:
    """Reads one recipe from left to right."""

    expected: ClassVar[str] = 'as in TOML: 0.5, true, "text" or [1, 2]'

    def __init__(self, text: str) -> None:
        """Start at the beginning of `text`; raises ConfigError if it is too long."""
        if len(text) > _MAX_TEXT:
            raise ConfigError(f'recipe "{clipped(text)}": longer than {_MAX_TEXT:,} characters')
        self.text = text
        self.at = 0

    @staticmethod
    def value_of(written: str) -> Any:  # noqa: ANN401 - any TOML value
        """Read one value; raises ValueError if it is not a value or cannot be written back."""
        bounds.check_text(written, "value")
        value = tomllib.loads(f"value = {written}\n")["value"]
        if not _plain(value):
            raise ValueError(written)
        return value

    def recipe(self) -> tuple[tuple[StepCall, ...], str | None]:
        """Read the whole text; return its steps and its target, if it has one."""
        steps = [self._step()]
        while self._take(">"):
            steps.append(self._step())
            if len(steps) > bounds.MAX_STEPS:
                self._fail(f"at most {bounds.MAX_STEPS} steps")
        target = self._name("a target (xnnpack, gpu, edgetpu, ...)") if self._take("@") else None
        self._space()
        if self.at < len(self.text):
            self._fail('">", "@" or the end' if target is None else "the end after the target")
        return tuple(steps), target

    def _step(self) -> StepCall:
        name = self._name("a step")
        parameters: dict[str, Any] = {}
        if self._take("(") and not self._take(")"):
            while True:
                self._parameter(name, parameters)
                if self._take(")"):
                    break
                if not self._take(","):
                    self._fail('"," or ")"')
        return StepCall(name=name, parameters=dict(sorted(parameters.items())))

    def _parameter(self, step: str, parameters: dict[str, Any]) -> None:
        self._space()
        start = self.at
        match = _KEY.match(self.text, self.at)
        if match is None:
            self._fail("a parameter (key=value)")
        key = match.group()
        self.at = match.end()
        if key in parameters:
            self.at = start
            self._fail(f'another parameter; "{key}" is already given')
        if not self._take("="):
            self._fail(f'"=" after "{key}"')
        parameters[key] = self._value(step, key)

    def _value(self, step: str, key: str) -> Any:  # noqa: ANN401 - any TOML value
        self._space()
        start = self.at
        self.at = self._end_of_value()
        try:
            return self.value_of(self.text[start : self.at].strip())
        except ValueError:
            written, self.at = self.text[start : self.at].strip(), start
            quoted = f', in quotes: {key}="{written}"' if _KEY.fullmatch(written) else ""
            self._fail(f'a value for "{key}" {self.expected}{quoted}{_allowed(step, key)}')

    def _end_of_value(self) -> int:
        """Return the end of the value that starts here: the next "," or ")" outside of it."""
        depth, quote, at = 0, "", self.at
        while at < len(self.text):
            character = self.text[at]
            if quote:
                if character == "\\" and quote == '"':
                    at += 1
                elif character == quote:
                    quote = ""
            elif character in "\"'":
                quote = character
            elif character in _OPEN:
                depth += 1
            elif character in _CLOSE:
                depth -= 1
            elif depth == 0 and character in ",)":
                return at
            elif character in "#\n\r":
                self.at = at
                self._fail("a value on one line, without a comment")
            at += 1
        return at

    def _name(self, expected: str) -> str:
        self._space()
        match = _NAME.match(self.text, self.at)
        if match is None:
            self._fail(expected)
        if not is_name(match.group()):
            self._fail(f"{expected} with a name of at most {bounds.MAX_NAME} characters")
        self.at = match.end()
        return match.group()

    def _take(self, character: str) -> bool:
        self._space()
        if self.text.startswith(character, self.at):
            self.at += 1
            return True
        return False

    def _space(self) -> None:
        while self.at < len(self.text) and self.text[self.at].isspace():
            self.at += 1

    def _fail(self, expected: str) -> NoReturn:
        found = f'"{self.text[self.at :][:12]}"' if self.at < len(self.text) else "the end"
        raise ConfigError(
            f'recipe "{clipped(self.text)}", position {self.at + 1}: expected {expected}, '
            f"found {found}"
        )


def _allowed(step: str, key: str) -> str:
    """Return what a parameter of a known step takes, for an error; else nothing."""
    try:
        parameters = plugins.load("harness.steps", step).parameters
    except HarnessError:
        return ""
    takes = next((one.type for one in parameters if one.name == key), None)
    return f" ({step} takes {key} = {takes})" if takes else ""


def _plain(value: object) -> bool:
    """Whether StepCall can write the value back: no date, table, NaN or control character.

    A number of more than 64 bits is no value of any parameter.
    """
    if isinstance(value, list):
        return all(_plain(item) for item in value)
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, str):
        return value.isprintable()
    return isinstance(value, int) and -_INT64 <= value < _INT64
