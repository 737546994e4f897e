"""mixed: int8 except for the few operators that lose most by it; from calibration data.

recipes = ["mixed"]                                   # a search: loses at most 1 percentage point
recipes = ["mixed(max_drop=0.005)"]
recipes = ['mixed(rules=["SOFTMAX=float", "/conv2d_5=int16"], search=false)']
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RecipeError
from harness.optimize import widths
from harness.protocols import Artifact, Parameter, Promise, StepData

if TYPE_CHECKING:
    from harness.optimize import sensitivity
    from harness.tflite.operators import Operator

_NAMED = 12
_NAME_LENGTH = 60


class Mixed:
    """Full-integer quantisation that leaves the most sensitive operators in float.

    Rules decide for the operators they match; the search decides for the others, the worst first. A
    mix is judged on labelled training samples, else labelled calibration samples (the key y), else
    on agreement with the float model over the calibration inputs. It is never judged on the
    evaluation data, so the row's accuracy is unbiased. If every layer loses a little, use `int16x8`
    or training (`qat`) instead: a float operator between int8 ones costs two conversions per run.
    """

    name = "mixed"
    summary = "int8 except for the most sensitive operators, found by a search or set by rules"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="max_drop",
            type="number 0..1",
            default=0.01,
            help="maximum loss: share of right answers; without labels, of changed answers; "
            "without classes, relative error",
        ),
        Parameter(
            name="rules",
            type="list",
            default=(),
            help='"REGEX=float|int8|int16", searched in operator types and output names; '
            "the first match decides",
        ),
        Parameter(
            name="search",
            type="boolean",
            default=True,
            help="whether operators that no rule matches may be left in float",
        ),
        widths.int8(default=0.0),
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
        """Promise the minimum share of weights in int8."""
        return widths.promises(parameters)

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Calibrate, search and quantise.

        Raises RecipeError for a malformed rule, a rule without a match, a graph that the quantiser
        does not support, and a tolerance that no mix keeps.
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
        search_notes: tuple[str, ...] = ()
        if parameters["search"]:
            chosen, search_notes = _searched(trials, found, ruled)
        out = workdir / "model.tflite"
        out.write_bytes(trials.build(chosen))
        notes = (*source.notes, *search_notes, *_described(found, chosen, out))
        return Artifact(path=out, form=self.gives, notes=notes, flags=source.flags)


def _ruled(rules: Sequence[object], found: Sequence[Operator]) -> dict[int, str]:
    """Return the precision that the rules set, by operator index; the first match decides."""
    from harness.optimize import sensitivity

    precision: dict[int, str] = {}
    for rule in rules:
        pattern, equals, kind = str(rule).rpartition("=")
        if not (isinstance(rule, str) and equals and kind in sensitivity.PRECISIONS):
            raise RecipeError(
                f'mixed: the rule {rule!r} is not "REGEX=PRECISION" with one of the precisions '
                f"{', '.join(sensitivity.PRECISIONS)}"
            )
        try:
            matches = re.compile(pattern).search
        except re.error as error:
            raise RecipeError(f"mixed: {pattern!r} is no regular expression: {error}") from error
        matched = [item for item in found if matches(item.type) or matches(item.name)]
        if not matched:
            known = ", ".join(dict.fromkeys(item.type for item in found))
            raise RecipeError(
                f"mixed: the rule {rule!r} matches no operator (types: {known}; names, for "
                f"example: {_short(found[0].name) if found else 'none'})"
            )
        for operator in matched:
            precision.setdefault(operator.index, kind)
    return precision


def _searched(
    trials: sensitivity.Trials,
    found: Sequence[Operator],
    ruled: Mapping[int, str],
) -> tuple[dict[int, str], tuple[str, ...]]:
    """Search the operators to leave in float; return the precisions and a note on the search."""
    from harness.optimize import sensitivity

    def with_float(chosen: frozenset[int]) -> dict[int, str]:
        return {**ruled, **dict.fromkeys(chosen, "float")}

    free = [operator for operator in found if operator.index not in ruled]
    result = sensitivity.search(
        free, trials.alone, lambda chosen: trials.loss(with_float(chosen)), trials.tolerance
    )
    note = (
        f"mixed: loses {result.loss:.4f}, all in int8 {result.all_int8:.4f}, allowed "
        f"{trials.tolerance:g}: {trials.selection.description}; {trials.builds} trial builds"
    )
    return with_float(result.chosen), (note,)


def _described(found: Sequence[Operator], chosen: Mapping[int, str], out: Path) -> tuple[str, ...]:
    """Return notes: the share of weights in int8, and the operators in other precisions."""
    from harness.tflite import structure

    share = structure.int8_share(structure.read(out))
    notes = [f"mixed: {share:.1%} of the weights in int8"]
    for kind in ("float", "int16"):
        left = [item for item in found if chosen.get(item.index) == kind]
        if left:
            names = ", ".join(
                f"{item.type} {_short(item.name)} ({item.weights:,} weights)"
                for item in left[:_NAMED]
            )
            more = f" and {len(left) - _NAMED} more" if len(left) > _NAMED else ""
            notes.append(f"mixed: in {kind}: {names}{more}")
    return tuple(notes)


def _short(name: str) -> str:
    first = name.split(";", 1)[0]
    return first if len(first) <= _NAME_LENGTH else f"{first[:_NAME_LENGTH]}..."
