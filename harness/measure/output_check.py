"""The check of a device's outputs before anything is timed: against the host's, and by themselves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness import assets
from harness.devices.delegation import outputs_doubt
from harness.devices.delegation.outputs import by_nature, findings, is_telling
from harness.errors import HarnessError, Inaccurate, StoreError
from harness.measure import selfcheck
from harness.optimize import reference
from harness.tflite import flatbuffer
from harness.tflite.numeric import Array
from harness.types import DEFAULT_HOST, Agreement, Cell, HostLimits, SelfCheck, Variant

OUTPUTS_UNCHECKED = "outputs_unchecked"
"""The flag of launches of a file of which no outputs were checked."""

OUTPUTS_UNREFERENCED = "outputs_unreferenced"
"""The flag of launches of a file that no host can run: its outputs were checked by themselves only."""

MAX_ERROR = 1e9
"""Stands for any larger relative error in the records."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedOutputs:
    """The result of a check."""

    agreement: Agreement | None = None
    """None if there is no reference on the host."""
    selfcheck: SelfCheck | None = None
    """None if the device returned no outputs."""

    @property
    def flags(self) -> tuple[str, ...]:
        """The flags of the file's launches."""
        if self.agreement is not None:
            return ()
        telling = self.selfcheck is not None and is_telling(self.selfcheck)
        return (OUTPUTS_UNREFERENCED,) if telling else (OUTPUTS_UNCHECKED,)


UNCHECKED = CheckedOutputs()


class InaccurateOutputs(Inaccurate):
    """The device's outputs are wrong; `checked` has the figures."""

    def __init__(self, reason: str, checked: CheckedOutputs) -> None:
        """Store the reason and the figures."""
        super().__init__(reason)
        self.checked = checked


@dataclass(frozen=True, slots=True, kw_only=True)
class InputSequence:
    """The inputs of a check in the order in which a device runs them."""

    order: Sequence[int]
    inputs: Mapping[str, Array]
    """(n, ...) by tensor name, in this order."""

    @classmethod
    def of(cls, inputs: Mapping[str, Array]) -> InputSequence:
        """Put the inputs of a cell's file into the order that shows late outputs."""
        order = selfcheck.schedule(len(next(iter(inputs.values()))))
        return cls(order=order, inputs={name: array[order] for name, array in inputs.items()})

    @property
    def first(self) -> int:
        """The number of inputs that run for the first time; they come first."""
        return max(self.order) + 1


def evaluate(
    cell: Cell,
    variant: Variant,
    sequence: InputSequence,
    outputs: Mapping[str, Array],
    limits: HostLimits = DEFAULT_HOST,
) -> CheckedOutputs:
    """Check the outputs of a sequence: against those of `reference.host_file`, and by themselves.

    For a compiled file the host runs the file it was compiled from. The compiler may round
    differently, so a difference is a doubt of the verdict there. Raises InaccurateOutputs if outputs
    that have the same file's as reference are wrong, RecipeError if one is missing or has another size.
    """
    file = reference.host_file(variant)
    outputs = reference.in_order(outputs, variant, len(sequence.order))
    own = selfcheck.of(sequence.inputs, outputs)
    if file is None:
        own = replace(own, expected=expected_findings(variant))
        labels = _labels(cell, sequence.first)
        if labels:
            own = selfcheck.scored(
                own, outputs, variant.outputs, labels, cell.check_metric or "top1"
            )
        return CheckedOutputs(selfcheck=own)
    kept = assets.cache_folder() / "outputs"
    how = reference.HostRun(
        limits=limits, build_seconds=variant.build_seconds or 0.0, file=cell.model
    )
    expected = reference.host_outputs(file, sequence.inputs, keep=kept, how=how)
    agreement = reference.compare(
        _beginning(outputs, sequence.first), _beginning(expected, sequence.first), variant
    )
    # JSON has no infinity, which is the error of a NaN.
    agreement = replace(agreement, relative_error=min(agreement.relative_error, MAX_ERROR))
    theirs = findings(selfcheck.of(sequence.inputs, expected), random_inputs=False)
    own = replace(own, expected=tuple(theirs))
    checked = CheckedOutputs(agreement=agreement, selfcheck=own)
    reason = outputs_doubt(cell, agreement, own)
    if reason and variant.uncompiled is None:
        raise InaccurateOutputs(reason, checked)
    return checked


def _beginning(arrays: Mapping[str, Array], count: int) -> dict[str, Array]:
    return {name: array[:count] for name, array in arrays.items()}


def expected_findings(variant: Variant) -> tuple[str, ...]:
    """Return the findings about outputs that are no fault of a device for this file."""
    try:
        has_state = flatbuffer.keeps_state(variant.path)
    except HarnessError:  # the file is gone or damaged, which the launch itself reports
        has_state = False
    return by_nature(variant.operators, has_state=has_state)


def _labels(cell: Cell, count: int) -> dict[str, Array]:
    """Return the labels of the first inputs, by name; empty if there are none."""
    if cell.check_labels is None:
        return {}
    try:
        return _beginning(reference.load_inputs(cell.check_labels), count)
    except StoreError:
        return {}
