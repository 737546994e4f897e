"""mixed: int8, but for the few operators that it hurts; from calibration data.

recipes = ["mixed"]                                   # a search: at most 1 point lost
recipes = ["mixed(max_drop=0.005)"]
recipes = ['mixed(rules=["SOFTMAX=float", "/conv2d_5=int16"], search=false)']
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RecipeError
from harness.protocols import Artifact, Parameter, Promise, StepData

if TYPE_CHECKING:
    from harness.optimize import sensitivity
    from harness.tflite.operators import Operator

_NAMED = 12
_NAME_LENGTH = 60


class Mixed:
    """Full-integer quantisation that leaves in float what int8 would ruin.

    A rule decides what it names; the search decides the rest, worst operator first. It is judged on
    labelled training samples, else labelled calibration samples (the key y), else on agreement with
    the float model over the calibration inputs; never on the evaluation data, so the accuracy of the
    row stays an honest one. Where every layer suffers a little, `int16x8` or training (`qat`) is the
    better answer: a float operator between int8 ones costs two conversions each time it runs.
    """

    name = "mixed"
    summary = "int8 but for the operators it hurts most, found by a search or named by rules"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="max_drop",
            type="number 0..1",
            default=0.01,
            help="most that may be lost: right answers; without labels, answers that change; "
            "without classes, relative error",
        ),
        Parameter(
            name="rules",
            type="list",
            default=(),
            help='"REGEX=float|int8|int16", searched in operator words and output names; '
            "the first that matches decides",
        ),
        Parameter(
            name="search",
            type="boolean",
            default=True,
            help="whether operators that no rule names may be left in float",
        ),
        Parameter(
            name="min_int8",
            type="number 0..1",
            default=0.0,
            help="least share of weights in int8; a file with less is an error",
        ),
        Parameter(
            name="io",
            type='"float" | "int8"',
            default="float",
            help="dtype of the model's inputs and outputs",
        ),
    )
    takes: tuple[str, ...] = ("float_tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ("calibration",)
    wants: tuple[str, ...] = ("training",)

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the share of weights in int8 that was asked for."""
        least = parameters["min_int8"]
        return (Promise(measure="int8_share", at_least=least),) if least else ()

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Calibrate, search and quantise.

        Raises RecipeError for a rule that is none or matches nothing, a graph that cannot be taken,
        and a tolerance that no mix holds.
        """
        from harness.optimize import quantise, sensitivity
        from harness.tflite import operators

        quantise.prepare()
        found = operators.read(source.path, operators.integer_types())
        ruled = _ruled(parameters["rules"], found)
        max_drop = parameters["max_drop"]
        trials = sensitivity.Trials(
            source.path, data, workdir, found, io=parameters["io"], max_drop=max_drop
        )
        chosen: Mapping[int, str] = ruled
        told: tuple[str, ...] = ()
        if parameters["search"]:
            chosen, told = _searched(trials, found, ruled)
        out = workdir / "model.tflite"
        out.write_bytes(trials.build(chosen))
        notes = (*source.notes, *told, *_described(found, chosen, out))
        return Artifact(path=out, form=self.gives, notes=notes, flags=source.flags)


def _ruled(rules: Sequence[object], found: Sequence[Operator]) -> dict[int, str]:
    """Read the rules and say which operators they name; the first that matches decides."""
    from harness.optimize import sensitivity

    precision: dict[int, str] = {}
    for rule in rules:
        pattern, equals, word = str(rule).rpartition("=")
        if not (isinstance(rule, str) and equals and word in sensitivity.PRECISIONS):
            raise RecipeError(
                f'mixed: the rule {rule!r} is not "REGEX=WORD" with one of the words '
                f"{', '.join(sensitivity.PRECISIONS)}"
            )
        try:
            matches = re.compile(pattern).search
        except re.error as error:
            raise RecipeError(f"mixed: {pattern!r} is no regular expression: {error}") from error
        meant = [item for item in found if matches(item.type) or matches(item.name)]
        if not meant:
            known = ", ".join(dict.fromkeys(item.type for item in found))
            raise RecipeError(
                f"mixed: the rule {rule!r} matches no operator (operators: {known}; names, for "
                f"instance: {_short(found[0].name) if found else 'none'})"
            )
        for operator in meant:
            precision.setdefault(operator.index, word)
    return precision


def _searched(
    trials: sensitivity.Trials,
    found: Sequence[Operator],
    ruled: Mapping[int, str],
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Leave in float what the tolerance needs; say what was lost, on what, after how many builds."""
    from harness.optimize import sensitivity

    def with_float(chosen: frozenset[int]) -> dict[int, str]:
        return {**ruled, **dict.fromkeys(chosen, "float")}

    free = [operator for operator in found if operator.index not in ruled]
    result = sensitivity.search(
        free, trials.alone, lambda chosen: trials.loss(with_float(chosen)), trials.tolerance
    )
    told = (
        f"mixed: loses {result.loss:.4f}, all in int8 {result.all_int8:.4f}, allowed "
        f"{trials.tolerance:g}: {trials.selection.words}; {trials.builds} trial builds"
    )
    return with_float(result.chosen), (told,)


def _described(found: Sequence[Operator], chosen: Mapping[int, str], out: Path) -> tuple[str, ...]:
    """Name what is not int8, and the share of weights that is."""
    from harness.tflite import structure

    share = structure.int8_share(structure.read(out))
    told = [f"mixed: {share:.1%} of the weights in int8"]
    for word in ("float", "int16"):
        left = [item for item in found if chosen.get(item.index) == word]
        if left:
            names = ", ".join(
                f"{item.type} {_short(item.name)} ({item.weights:,} weights)"
                for item in left[:_NAMED]
            )
            more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
            told.append(f"mixed: in {word}: {names}{more}")
    return tuple(told)


def _short(name: str) -> str:
    first = name.split(";", 1)[0]
    return first if len(first) <= _NAME_LENGTH else f"{first[:_NAME_LENGTH]}..."
