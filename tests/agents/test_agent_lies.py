"""A delegate library that lies, through a real agent: found with a reference on the host and without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from agent_lab import digest_of
from shared_data import shared_file
from standins import graphs

from harness.devices.delegation import outputs_doubt
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect
from harness.measure.output_check import InaccurateOutputs, InputSequence, evaluate
from harness.optimize import probes
from harness.tflite import flatbuffer
from harness.types import Cell, LaunchOrder, Variant

pytest_plugins = ("agent_fixtures",)

LIES = {
    "nothing": "do not depend on the inputs",
    "constant": "do not depend on the inputs",
    "copied": "is a copy of the input",
    "late 1": "one inference before",
    "late 3": "3 inferences before",
    "glitch": "the same input gave other outputs",
}


def variant_of(path: Path) -> Variant:
    facts = flatbuffer.read(path)
    return Variant(
        model="m",
        recipe="as_is",
        target="npu",
        path=path,
        digest=facts.digest,
        size_bytes=facts.size_bytes,
        inputs=facts.inputs,
        outputs=facts.outputs,
        operators=facts.operators,
    )


def doubt(
    dialect: JsonLinesDialect, order: LaunchOrder, path: Path, library: Path, lie: str
) -> str | None:
    """Check the outputs of a file through the library; `lie` is its option, with `late`'s number."""
    dialect.deploy({digest_of(path): path})
    variant = variant_of(path)
    how, _, late = lie.partition(" ")
    options = {"take": "add" if "ADD" in variant.operators else "edgetpu"}
    options |= {"lie": how, "late": late or "1"} if how else {}
    order = replace(
        order,
        kind="accuracy",
        variant_digest=digest_of(path),
        target="npu",
        delegate=str(library),
        delegate_options=options,
    )
    cell = Cell(
        model="m",
        recipe="as_is",
        target="npu",
        device="d",
        threads=1,
        variant=variant,
        flags=("random_inputs",),
    )
    sequence = InputSequence.of(probes.probe_inputs(variant.inputs, 64, 0, {}))
    outputs = dialect.infer(order, sequence.inputs)
    try:
        checked = evaluate(cell, variant, sequence, outputs)
    except InaccurateOutputs as error:
        return str(error)
    return outputs_doubt(cell, checked.agreement, checked.selfcheck)


@pytest.mark.parametrize("given", ["compiled", "built here"])
def test_every_lie_about_outputs_is_found_and_the_truth_is_not_one(
    dialect: JsonLinesDialect,
    order: LaunchOrder,
    standin_delegate: Path,
    tmp_path: Path,
    given: str,
) -> None:
    path = shared_file("coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite")
    if given == "built here":
        path = graphs.chain(tmp_path / "adds.tflite", ["ADD"] * 6)
    assert doubt(dialect, order, path, standin_delegate, "") is None
    for lie, words in LIES.items():
        found = doubt(dialect, order, path, standin_delegate, lie)
        assert found is not None, lie
        assert words in found, lie
