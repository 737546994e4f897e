"""The known steps, and the check of a recipe before any model is opened.

A step declares the forms it takes and the form it gives. Two conversions need no step: a trained
model (`keras`, `h5`, `saved_model`) is converted to `float_tflite`, and the user's own .tflite is
framed as `float_tflite` if its weights are float. A step's result in the form `tflite` is final: no
step quantises it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import plugins
from harness.errors import ConfigError

if TYPE_CHECKING:
    from harness.protocols import Parameter, Promise, Step
    from harness.types import Recipe, StepCall

GROUP = "harness.steps"
FLOAT = "float_tflite"
FINISHED = "tflite"
TRAINED = ("keras", "h5", "saved_model")
_TYPES: dict[str, tuple[type, ...]] = {
    "number": (int, float),
    "integer": (int,),
    "text": (str,),
    "file": (str,),
    "program": (str,),
    "boolean": (bool,),
    "list": (list, tuple),
}


def describe_form(form: str) -> str:
    """Describe a form for messages; an unknown form is returned unchanged."""
    known = {
        "keras": "a .keras model",
        "h5": "an .h5 model",
        "saved_model": "a SavedModel",
        FINISHED: "a finished .tflite",
        FLOAT: "a float model",
        "quantisation_aware": "a quantisation-aware model",
    }
    return known.get(form, form)


COMPILING: Mapping[str, str] = {"edgetpu": "edgetpu", "aot": "npu"}
"""Steps that call a vendor's compiler, and the default target of a recipe that ends with one."""


@cache
def known_steps() -> dict[str, Step]:
    """Return every step by name, including those of other packages, sorted by name."""
    return {name: step() for name, step in plugins.load_all(GROUP).items()}


def describe_steps(name: str | None = None) -> list[dict[str, Any]]:
    """Return the known steps with their parameters as plain data, or only the one called `name`.

    Raises ConfigError for an unknown name.
    """
    known = known_steps()
    if name is not None and name not in known:
        raise ConfigError(plugins.unknown("step", name, known))
    return [
        {
            "name": step.name,
            "summary": step.summary,
            "parameters": [asdict(parameter) for parameter in step.parameters],
            "takes": list(step.takes),
            "gives": step.gives,
            "needs": list(step.needs),
        }
        for step in known.values()
        if name in {None, step.name}
    ]


def check(recipe: Recipe) -> None:
    """Refuse a recipe that no model can be built with.

    Raises ConfigError: an unknown step (with the nearest known one), an unknown parameter, a value
    of a wrong type, a step that cannot follow the one before it.
    """
    if not recipe.steps:
        raise ConfigError(f'recipe "{recipe.name}" has no steps')
    where = f'recipe "{recipe.name}"'
    for call in recipe.steps:
        _check_call(call, where)
    for before, after in zip(recipe.steps, recipe.steps[1:], strict=False):
        _check_order(before.name, after.name, where)


def parameters(call: StepCall) -> dict[str, Any]:
    """Return the call's parameters with the step's defaults; `number` values become floats."""
    step = known_steps()[call.name]
    filled = {item.name: item.default for item in step.parameters} | dict(call.parameters)
    numbers = {item.name for item in step.parameters if item.type.split()[:1] == ["number"]}
    return {
        name: float(value) if name in numbers and isinstance(value, int) else value
        for name, value in filled.items()
    }


def promised(recipe: Recipe) -> list[tuple[str, Promise]]:
    """Return the promises of a recipe's steps about the finished file, each with the step's name."""
    from harness.protocols import Promising

    found: list[tuple[str, Promise]] = []
    for call in recipe.steps:
        step = known_steps()[call.name]
        if isinstance(step, Promising):
            found += [(call.name, promise) for promise in step.promises(parameters(call))]
    return found


def files(call: StepCall) -> list[str]:
    """Return the names of the file parameters that the call gives; the files belong to the key."""
    given = parameters(call)
    step = known_steps()[call.name]
    return [item.name for item in step.parameters if item.type == "file" and given[item.name]]


def programs(call: StepCall) -> dict[str, str]:
    """Return the paths of the programs that the step's parameters name, by parameter name.

    The program's bytes belong to the key of the result. A missing program is left out; the step
    reports it.
    """
    import shutil

    given = parameters(call)
    step = known_steps()[call.name]
    named = {item.name: given[item.name] for item in step.parameters if item.type == "program"}
    found = {name: shutil.which(str(Path(value).expanduser())) for name, value in named.items()}
    return {name: path for name, path in found.items() if path is not None}


def reachable(form: str, takes: tuple[str, ...], *, source: bool) -> bool:
    """Return whether a file of this form can be converted to one that the step takes."""
    if form in takes:
        return True
    return FLOAT in takes and (form in TRAINED or (form == FINISHED and source))


def _check_call(call: StepCall, where: str) -> None:
    steps = known_steps()
    if call.name not in steps:
        raise ConfigError(f"{where}: {plugins.unknown('step', call.name, steps)}")
    allowed = {item.name: item for item in steps[call.name].parameters}
    for key, value in call.parameters.items():
        if key not in allowed:
            raise ConfigError(
                f"{where}: {plugins.unknown(f'parameter of {call.name}', key, allowed)}"
            )
        _check_value(allowed[key], value, f"{where}: {call.name}({key}=...)")


def _check_value(parameter: Parameter, value: object, where: str) -> None:
    allowed = _allowed(parameter.type)
    if allowed:
        if not any(value == one and type(value) is type(one) for one in allowed):
            raise ConfigError(f"{where} is {value!r}; allowed: {parameter.type}")
        return
    kind, _, bounds = parameter.type.partition(" ")
    types = _TYPES[kind]
    if not isinstance(value, types) or (isinstance(value, bool) and kind != "boolean"):
        raise ConfigError(f"{where} is {value!r}; it takes a {parameter.type}")
    if bounds and isinstance(value, (int, float)):
        low, high = (float(bound) for bound in bounds.split(".."))
        if not low <= value <= high:
            raise ConfigError(f"{where} is {value!r}; it takes a {kind} from {low:g} to {high:g}")


def _allowed(kind: str) -> list[str | int]:
    """Return the values that a type like `"channel" | 32 | 64` lists; [] for another type."""
    if '"' not in kind and "|" not in kind:
        return []
    return [
        value[1:-1] if value.startswith('"') else int(value)
        for value in (item.strip() for item in kind.split("|"))
    ]


def _check_order(before: str, after: str, where: str) -> None:
    steps: Mapping[str, Step] = known_steps()
    if not reachable(steps[before].gives, steps[after].takes, source=False):
        raise ConfigError(
            f"{where}: {after} cannot follow {before}: {before} gives {describe_form(steps[before].gives)}, "
            f"{after} takes {' or '.join(map(describe_form, steps[after].takes))}; "
            f"write two recipes, or put {after} first if the model allows it"
        )
