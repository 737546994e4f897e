"""A delegate library that lies, through a real agent: found with a reference on the host and without one."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from agent_lab import ROOT, digest_of
from shared_data import shared_file
from standins import graphs

from harness.devices.delegation import outputs_doubt
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect
from harness.events import Event, LaunchEnded
from harness.measure.bench import Bench
from harness.measure.output_check import InaccurateOutputs, InputSequence, evaluate
from harness.measure.sessions import Session
from harness.optimize import probes
from harness.tflite import flatbuffer
from harness.types import Cell, Device, LaunchOrder, Variant

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


def test_outputs_that_go_wrong_while_they_are_timed_are_flagged(
    device: Device, order: LaunchOrder, standin_delegate: Path, tmp_path: Path
) -> None:
    path = graphs.chain(tmp_path / "adds.tflite", ["ADD"] * 3)
    variant = variant_of(path)
    recurrent = replace(variant, operators={"LSTM": 1})
    honest = {"take": "add"}
    late = {**honest, "lie": "zeros", "after": "65"}
    seen: list[Event] = []
    session = Session(device)
    try:
        with Bench(session=session, emit=seen.append) as bench:
            bench.bring({digest_of(path): path})
            for number, (of, options) in enumerate(
                [(variant, honest), (variant, late), (recurrent, late)]
            ):
                cell = Cell(
                    model="m", recipe="as_is", target="npu", device="d", threads=1, variant=of
                )
                one = replace(
                    order,
                    block=number,
                    variant_digest=digest_of(path),
                    target="npu",
                    delegate=str(standin_delegate),
                    delegate_options=options,
                    dose=replace(order.dose, min_inferences=80),
                )
                bench.launch(cell, one)
    finally:
        session.close()
    launches = [one.launch for one in seen if isinstance(one, LaunchEnded)]
    assert ["outputs_drifted" in one.flags for one in launches] == [False, True, False]


@pytest.fixture(name="repeating")
def _repeating(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "agents" / "python_tflite"))
    for name in ("repeating", "arrays", "digests", "wire"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import repeating  # type: ignore[import-not-found,unused-ignore]

    return repeating


def test_only_a_difference_beyond_the_models_own_is_drift(repeating: ModuleType) -> None:
    real = np.linspace(-1, 1, 9, dtype=np.float32)
    levels = np.arange(9, dtype=np.int8)
    nan = np.array([np.nan, 1.0], np.float32)

    def drifted(first: object, second: object, last: object) -> bool:
        return bool(repeating.drifted(*([one] for one in (first, second, last))))

    assert not drifted(real, real, real + 1e-4), "rounding"
    assert drifted(real, real, real * 0)
    assert not drifted(real, real + 1e-3, real + 3e-3), "as the first two differ"
    assert not drifted(real, real + 0.5, real * 0), "it keeps a state or is random"
    assert not drifted(levels, levels, levels + np.int8(1)), "one quantised step"
    assert drifted(levels, levels, levels + np.int8(2))
    assert not drifted(nan, nan, nan)
    assert drifted(nan, nan, nan * np.nan)
    assert drifted(real, real, real[:4])
    assert not repeating.drifted(None, None, None)
