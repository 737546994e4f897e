"""What outputs show by themselves: lies of a device are found, honest files are not refused."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_data import real_file, shared_file
from standins import graphs

from harness.devices.delegation.outputs import by_nature, findings, is_telling
from harness.measure import output_check, selfcheck
from harness.measure.output_check import CheckedOutputs, InaccurateOutputs, InputSequence
from harness.optimize import probes
from harness.tflite import flatbuffer, indices
from harness.types import Cell, SelfCheck, Tensor, Uncompiled, Variant

Array = np.ndarray[Any, Any]
Arrays = Mapping[str, Array]
ROOT = Path(__file__).parents[2]
DIGITS = ROOT / "harness" / "demo" / "data" / "digits.tflite"
_CHANCE = np.random.default_rng(1)
_WEIGHTS = _CHANCE.normal(size=(40, 10))


def floats(count: int = 64) -> Arrays:
    return {"x": np.random.default_rng(0).normal(size=(count, 40)).astype(np.float32)}


def scores(inputs: Arrays) -> Arrays:
    """A linear classifier with float scores."""
    return {"y": (inputs["x"].reshape(-1, 40) @ _WEIGHTS).astype(np.float32)}


def saturated(inputs: Arrays) -> Arrays:
    """The same with scores of 0 and 255 only."""
    raw = scores(inputs)["y"]
    return {"y": (255 * (raw == raw.max(axis=1, keepdims=True))).astype(np.uint8)}


def boxes(inputs: Arrays) -> Arrays:
    """A detector: places, padded with zeros, classes that are all 0, and a count that never changes."""
    raw = scores(inputs)["y"]
    return {
        "places": np.concatenate([raw[:, :3], np.zeros((len(raw), 9), np.float32)], axis=1),
        "classes": np.zeros((len(raw), 4), np.float32),
        "count": np.full((len(raw), 1), 3.0, np.float32),
    }


MODELS: tuple[Callable[[Arrays], Arrays], ...] = (scores, saturated, boxes)


def late(by: int) -> Callable[[Arrays, Arrays], Arrays]:
    def lie(_: Arrays, right: Arrays) -> Arrays:
        return {
            name: np.concatenate([np.zeros_like(array[:by]), array[:-by]])
            for name, array in right.items()
        }

    return lie


def constant(_: Arrays, right: Arrays) -> Arrays:
    return {name: np.full_like(array, 42) for name, array in right.items()}


def copied(inputs: Arrays, right: Arrays) -> Arrays:
    made = {}
    for name, array in right.items():
        given = inputs["x"].reshape(len(array), -1).view(np.uint8)
        size = array[0].nbytes
        tiled = np.tile(given, (1, -(-size // given.shape[1])))[:, :size]
        made[name] = np.ascontiguousarray(tiled).view(array.dtype).reshape(array.shape)
    return made


def first_kept(_: Arrays, right: Arrays) -> Arrays:
    return {name: np.repeat(array[:1], len(array), axis=0) for name, array in right.items()}


def written_once(_: Arrays, right: Arrays) -> Arrays:
    """Nothing at the first inference, then always the same."""
    made = constant(_, right)
    return {name: np.concatenate([0 * array[:1], array[1:]]) for name, array in made.items()}


def alternating(_: Arrays, right: Arrays) -> Arrays:
    return {
        name: np.where(np.arange(len(array)).reshape(-1, 1) % 2 == 0, array[:1], array[1:2])
        for name, array in right.items()
    }


def noise(_: Arrays, right: Arrays) -> Arrays:
    generator = np.random.default_rng(5)
    return {
        name: (255 * generator.uniform(size=array.shape)).astype(array.dtype)
        for name, array in right.items()
    }


def glitch(_: Arrays, right: Arrays) -> Arrays:
    """Every fifth output is that of the inference before."""
    every = np.arange(len(next(iter(right.values()))))
    source = np.where(every % 5 == 4, every - 1, every)
    return {name: array[source] for name, array in right.items()}


def nan(_: Arrays, right: Arrays) -> Arrays:
    return {name: np.full_like(array, np.nan, np.float32) for name, array in right.items()}


LIES: Mapping[str, tuple[Callable[[Arrays, Arrays], Arrays], str]] = {
    "constant": (constant, "constant"),
    "copied": (copied, "copied"),
    "first kept": (first_kept, "constant"),
    "written once": (written_once, "unrepeatable"),
    "alternating": (alternating, "unrepeatable"),
    "noise": (noise, "unrepeatable"),
    "glitch": (glitch, "unrepeatable"),
    "nan": (nan, "not_finite"),
    **{f"late by {by}": (late(by), "shifted") for by in range(1, selfcheck.MAX_SHIFT + 1)},
    **{f"late by {by}": (late(by), "unrepeatable") for by in (11, 20, 40)},
}


def kinds(check: SelfCheck, *, random_inputs: bool = True) -> list[str]:
    return list(findings(check, random_inputs=random_inputs))


@pytest.mark.parametrize("count", [12, 48, 64])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("lie", LIES)
def test_a_lie_is_found_without_a_reference(
    lie: str, model: Callable[[Arrays], Arrays], count: int
) -> None:
    sequence = InputSequence.of(floats(count))
    tell, kind = LIES[lie]
    told = tell(sequence.inputs, model(sequence.inputs))
    found = kinds(selfcheck.of(sequence.inputs, told))
    assert found
    if count >= 48 and (lie, model) != ("copied", boxes):
        assert found[0] == kind


@pytest.mark.parametrize("count", [1, 2, 3, 5, 17, 48, 64])
@pytest.mark.parametrize("model", MODELS)
def test_the_truth_is_not_a_lie(model: Callable[[Arrays], Arrays], count: int) -> None:
    sequence = InputSequence.of(floats(count))
    check = selfcheck.of(sequence.inputs, model(sequence.inputs))
    assert kinds(check, random_inputs=False) == []
    assert is_telling(check) == (count >= 4)


def test_a_gpu_may_round_in_another_order_each_time() -> None:
    sequence = InputSequence.of(floats())
    right = scores(sequence.inputs)["y"]
    generator = np.random.default_rng(3)
    rounded = right * (1 + 1e-3 * generator.normal(size=right.shape))
    check = selfcheck.of(sequence.inputs, {"y": rounded.astype(np.float16)})
    assert (kinds(check), check.unlike) == ([], 0)


def test_a_model_may_pass_its_input_on_beside_its_own_outputs() -> None:
    sequence = InputSequence.of(floats())
    both = {**scores(sequence.inputs), "again": sequence.inputs["x"]}
    assert kinds(selfcheck.of(sequence.inputs, both)) == []


def test_a_nan_of_some_random_inputs_is_no_lie_and_of_real_ones_is() -> None:
    sequence = InputSequence.of(floats())
    outputs = scores(sequence.inputs)["y"].copy()
    outputs[sequence.inputs["x"][:, 0] > 0.5] = np.nan
    check = selfcheck.of(sequence.inputs, {"y": outputs})
    assert 0 < check.not_finite < check.inferences
    assert kinds(check, random_inputs=True) == []
    assert kinds(check, random_inputs=False) == ["not_finite"]


def test_masked_scores_of_minus_infinity_are_finite_enough() -> None:
    sequence = InputSequence.of(floats())
    outputs = scores(sequence.inputs)["y"].copy()
    outputs[:, 0] = -np.inf
    assert kinds(selfcheck.of(sequence.inputs, {"y": outputs}), random_inputs=False) == []


def test_equal_outputs_of_equal_inputs_say_nothing() -> None:
    """A user's data may hold one input many times."""
    sequence = InputSequence.of({"x": np.zeros((64, 40), np.float32)})
    check = selfcheck.of(sequence.inputs, scores(sequence.inputs))
    assert (check.inputs, check.outputs, kinds(check)) == (1, 1, [])


@given(st.integers(1, 300))
def test_the_order_runs_every_third_input_again_with_other_predecessors(count: int) -> None:
    order = selfcheck.schedule(count)
    first = max(order) + 1
    assert order[:first] == list(range(min(count, 48)))
    assert len(order) <= selfcheck.MAX_INFERENCES
    again = order[first:]
    assert len(set(again)) == len(again) == min(first, 16)
    assert order[-1] == 0
    before = {name: order[place - 1] if place else None for place, name in enumerate(order[:first])}
    assert all(before[name] != order[first + place - 1] for place, name in enumerate(again))


def test_a_recurrent_file_may_answer_differently_the_second_time() -> None:
    sequence = InputSequence.of(floats())
    state = np.cumsum(scores(sequence.inputs)["y"], axis=0)
    check = selfcheck.of(sequence.inputs, {"y": state})
    assert kinds(check) == ["unrepeatable"]
    known = by_nature({"edgetpu-custom-op": 1}, has_state=True)
    assert kinds(replace(check, expected=known)) == []
    assert by_nature({"UNIDIRECTIONAL_SEQUENCE_LSTM": 1}, has_state=False) == known
    assert by_nature({"edgetpu-custom-op": 1}, has_state=False) == ()


# --- labels ------------------------------------------------------------------------------------


def scored(outputs: Arrays, labels: Array, metric: str = "top1") -> SelfCheck:
    sequence = InputSequence.of(floats(len(labels)))
    tensors = tuple(
        Tensor(name=name, shape=(1, array.shape[1]), dtype=array.dtype.name)
        for name, array in outputs.items()
    )
    check = selfcheck.of(sequence.inputs, scores(sequence.inputs))
    return selfcheck.scored(check, outputs, tensors, {"y": labels}, metric)


def test_an_accuracy_above_chance_is_told_from_one_by_chance() -> None:
    right = scores(floats(48))
    labels = right["y"].argmax(axis=1)
    assert (scored(right, labels).score, kinds(scored(right, labels))) == (1.0, [])
    weak = labels.copy()
    weak[::2] = (weak[::2] + 3) % 10
    assert kinds(scored(right, weak)) == []
    wrong = {"y": np.roll(right["y"], 5, axis=0)}
    found = scored(wrong, labels)
    assert kinds(found) == ["chance"]
    (text,) = findings(found, random_inputs=False).values()
    assert "top1" in text
    assert "no better than chance" in text


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros(48, np.int64),
        np.r_[np.zeros(45, np.int64), 1, 1, 1],
        np.arange(8) % 4,
        np.arange(48) % 4 + 50,
    ],
    ids=["sorted data", "one class nearly alone", "few", "labels of another model"],
)
def test_labels_that_show_nothing_judge_nothing(labels: Array) -> None:
    found = scored(scores(floats(len(labels))), labels)
    assert (found.score, found.chance, kinds(found)) == (None, None, [])


def test_an_error_is_better_than_chance_if_it_is_smaller() -> None:
    right = scores(floats(48))
    assert kinds(scored(right, right["y"] + 0.5, "mse")) == []
    assert kinds(scored(right, np.roll(right["y"], 5, axis=0), "mse")) == ["chance"]


# --- files -------------------------------------------------------------------------------------


def on_host(path: Path, inputs: Arrays) -> Arrays:
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(path))
    interpreter.allocate_tensors()
    given, taken = interpreter.get_input_details(), interpreter.get_output_details()
    rows: dict[str, list[Array]] = {one["name"]: [] for one in taken}
    for place in range(len(next(iter(inputs.values())))):
        for one in given:
            value = inputs[one["name"]][place].reshape(tuple(one["shape"]))
            interpreter.set_tensor(one["index"], value)
        interpreter.invoke()
        for one in taken:
            rows[one["name"]].append(interpreter.get_tensor(one["index"]).copy())
    return {name: np.stack(parts) for name, parts in rows.items()}


HONEST = (
    "coral/keras_lstm_mnist_ptq.tflite",
    "coral/mobilenet_v1_0.25_128_quant.tflite",
    "coral/movenet_single_pose_lightning_ptq.tflite",
    "kws/kws_ref_model.tflite",
    "kws/kws_ref_model_float32.tflite",
)


@pytest.mark.parametrize("name", [*HONEST, "digits"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_an_honest_file_is_not_refused_on_random_inputs(name: str, seed: int) -> None:
    # A stand-in of the pose model has constant outputs.
    find = real_file if "movenet" in name else shared_file
    path = DIGITS if name == "digits" else find(name)
    facts = flatbuffer.read(path)
    drawn = probes.probe_inputs(facts.inputs, 64, seed, indices.read(path))
    sequence = InputSequence.of(drawn)
    check = selfcheck.of(sequence.inputs, on_host(path, sequence.inputs))
    known = by_nature(facts.operators, has_state=flatbuffer.keeps_state(path))
    assert (known != ()) == ("lstm" in name)
    assert kinds(replace(check, expected=known)) == []


def test_random_inputs_reach_both_ends_of_their_type() -> None:
    tensors = [
        Tensor(name="image", shape=(1, 16, 16, 3), dtype="uint8", scale=0.5, zero_point=3),
        Tensor(name="codes", shape=(1, 8), dtype="int16"),
        Tensor(name="wide", shape=(1, 8), dtype="int32"),
        Tensor(name="real", shape=(-1, 8), dtype="float32"),
        Tensor(name="flag", shape=(1,), dtype="bool"),
    ]
    found = probes.probe_inputs(tensors, 64, 0, {})
    assert {name: array.shape[0] for name, array in found.items()} == {t.name: 64 for t in tensors}
    assert all(found[t.name].dtype == t.dtype for t in tensors)
    for name in ("image", "codes", "wide"):
        limits = np.iinfo(found[name].dtype)
        spread = float(found[name].max()) - float(found[name].min())
        assert spread > 0.9 * (float(limits.max) - float(limits.min))
    assert len({row.tobytes() for row in found["image"]}) == 64


def compiled(uncompiled: bool = False) -> Variant:
    facts = flatbuffer.read(DIGITS)
    return Variant(
        model="m",
        recipe="as_is",
        target="edgetpu",
        path=DIGITS,
        digest=facts.digest,
        size_bytes=1,
        inputs=facts.inputs,
        outputs=facts.outputs,
        operators={"edgetpu-custom-op": 1},
        uncompiled=Uncompiled(path=DIGITS, digest=facts.digest) if uncompiled else None,
    )


def evaluated(variant: Variant, tell: Callable[[Arrays, Arrays], Arrays]) -> CheckedOutputs:
    cell = Cell(model="m", recipe="as_is", target="edgetpu", device="d", threads=1, variant=variant)
    facts = flatbuffer.read(DIGITS)
    sequence = InputSequence.of(probes.probe_inputs(facts.inputs, 64, 0, {}))
    told = tell(sequence.inputs, on_host(DIGITS, sequence.inputs))
    return output_check.evaluate(cell, variant, sequence, told)


def true(_: Arrays, right: Arrays) -> Arrays:
    return right


def test_a_file_without_a_reference_is_flagged_so() -> None:
    checked = evaluated(compiled(), true)
    assert checked.agreement is None
    assert checked.selfcheck is not None
    assert kinds(checked.selfcheck) == []
    assert checked.flags == ("outputs_unreferenced",)
    assert CheckedOutputs().flags == ("outputs_unchecked",)


def test_a_reference_adds_to_what_outputs_show_by_themselves() -> None:
    built = replace(compiled(), operators={"CONV_2D": 1})
    right = evaluated(built, true)
    assert right.agreement is not None
    assert (right.agreement.top1, right.agreement.samples, right.flags) == (1.0, 48, ())
    for tell, words in (
        (late(1), "one inference before"),
        (constant, "do not depend"),
        (nan, "NaN"),
    ):
        with pytest.raises(InaccurateOutputs, match=words) as raised:
            evaluated(built, tell)
        assert raised.value.checked.agreement is not None
        assert np.isfinite(raised.value.checked.agreement.relative_error)
    # The compiler's rounding may be its own, so a doubt of a compiled file is its verdict's.
    doubted = evaluated(compiled(uncompiled=True), late(2))
    assert doubted.selfcheck is not None
    assert kinds(doubted.selfcheck) == ["shifted"]


def test_what_the_reference_shows_too_is_no_finding(tmp_path: Path) -> None:
    """A model whose outputs do not depend on its inputs, or are its inputs, is honest if the host agrees."""
    for word, expected in (("MUL", "constant"), ("RELU", "copied")):
        made = graphs.Graph()
        x, y = made.tensor("x", (1, 8)), made.tensor("y", (1, 8))
        more = [made.tensor("zero", (8,), np.zeros(8))] if word == "MUL" else []
        made.operator(word, [x, *more], [y])
        path = made.write(tmp_path / f"{word}.tflite", [x], [y])
        facts = flatbuffer.read(path)
        built = replace(
            compiled(),
            path=path,
            digest=facts.digest,
            inputs=facts.inputs,
            outputs=facts.outputs,
            operators=facts.operators,
        )
        cell = Cell(model="m", recipe="r", target="npu", device="d", threads=1, variant=built)
        sequence = InputSequence.of({"x": np.abs(floats()["x"][:, :8])})
        outputs = on_host(path, sequence.inputs)
        checked = output_check.evaluate(cell, built, sequence, outputs)
        assert checked.selfcheck is not None
        assert checked.selfcheck.expected == (expected,)
        assert kinds(checked.selfcheck) == []
