"""What of training needs no TensorFlow: losses, configs, chains of forms, the folding check."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

from harness.config import recipes
from harness.errors import ConfigError, RecipeError
from harness.optimize import catalog, folding, graph
from harness.optimize.training import layer_conversion
from harness.optimize.training.objectives import Objective
from harness.types import DataSource, ModelSource

DIGITS = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data" / "digits.tflite"
TRAINING = ("prune", "cluster", "qat", "pqat", "cqat", "pcqat", "distill")


@settings(deadline=None)  # scikit-learn's first call is slow
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.booleans())
def test_cross_entropy_and_accuracy_are_scikit_learns(
    seed: int, classes: int, logits: bool
) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(40, classes))
    labels = generator.integers(0, classes, 40)
    raised = np.exp(scores)
    shares = raised / raised.sum(1, keepdims=True)
    task = Objective(kind="classes", from_logits=logits, output=(classes,))

    loss, accuracy = task.score(task.shaped(labels[:, None]), scores if logits else shares)

    assert loss == pytest.approx(metrics.log_loss(labels, shares, labels=range(classes)), rel=1e-6)
    assert accuracy == metrics.accuracy_score(labels, shares.argmax(1))


@settings(deadline=None)  # scikit-learn's first call is slow
@given(st.integers(0, 2**32 - 1), st.booleans())
def test_binary_cross_entropy_is_scikit_learns(seed: int, logits: bool) -> None:
    generator = np.random.default_rng(seed)
    scores = generator.normal(size=(40, 1))
    labels = np.r_[0, 1, generator.integers(0, 2, 38)]
    shares = 1 / (1 + np.exp(-scores))
    task = Objective(kind="binary", from_logits=logits, output=(1,))

    loss, accuracy = task.score(task.shaped(labels), scores if logits else shares)

    assert loss == pytest.approx(metrics.log_loss(labels, shares[:, 0]), rel=1e-6)
    assert accuracy == metrics.accuracy_score(labels, shares[:, 0] > 0.5)


def test_arrays_are_compared_by_their_mean_square() -> None:
    task = Objective(kind="arrays", from_logits=True, output=(3,))
    labels, answers = np.ones((4, 3)), np.full((4, 3), 3.0)

    assert task.score(task.shaped(labels), answers) == (4.0, None)


def test_a_keras_3_config_is_written_as_tf_keras_reads_it() -> None:
    policy = {"module": "keras", "class_name": "DTypePolicy", "config": {"name": "mixed_float16"}}
    inner = {"class_name": "LSTM", "config": {"units": 3, "dtype": policy, "optional": True}}
    config = {
        "name": "both",
        "dtype": policy,
        "kernel_initializer": {"class_name": "GlorotUniform", "config": {}},
        "quantization_config": None,
        "layer": inner,
        "sizes": (1, [2, 3]),
    }

    assert layer_conversion.plain_config(config) == {
        "name": "both",
        "dtype": "float32",
        "layer": {"class_name": "LSTM", "config": {"units": 3, "dtype": "float32"}},
        "sizes": (1, [2, 3]),
    }


@pytest.mark.parametrize(
    "text",
    [
        "prune > int8",
        "cluster > int8",
        "prune > cluster(preserve_sparsity=true) > int8",
        "prune > pqat",
        'distill(teacher="t.keras") > qat',
        "prune > float16",
    ],
)
def test_steps_that_train_chain(text: str) -> None:
    catalog.check(recipes.parse(text))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("qat > int16x8", "int16x8 cannot follow qat"),
        ("int8 > qat", "qat cannot follow int8"),
        ("pcqat > prune", "prune cannot follow pcqat"),
        ("prune(sparsity=1.0)", "from 0 to 0.98"),
        ('prune(pattern="1:4")', '"unstructured" | "2:4"'),
        ("distill(teacher=3)", "it takes a file"),
    ],
)
def test_a_chain_that_cannot_work_is_refused_at_once(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        catalog.check(recipes.parse(text))

    assert message in str(raised.value)


def planned(text: str, path: Path, training: str | None) -> graph.Chain:
    model = ModelSource(name="m", path=path, data=DataSource(training=training))
    digests = graph.Digests(lambda _: "")
    return graph.plan(model, recipes.parse(text), digests=digests, seed=0, check=True)


@pytest.mark.parametrize("name", TRAINING)
def test_a_tflite_cannot_be_trained(name: str) -> None:
    with pytest.raises(RecipeError, match="give the trained model itself"):
        planned(name, DIGITS, str(DIGITS.with_name("digits_training.npz")))


def test_training_data_is_required(tmp_path: Path) -> None:
    path = tmp_path / "model.keras"
    path.write_bytes(b"not opened when it is planned")

    with pytest.raises(RecipeError, match="prune needs training data: give the key training"):
        planned("prune", path, None)


def test_a_teacher_belongs_to_the_key(tmp_path: Path) -> None:
    path, teacher = tmp_path / "student.keras", tmp_path / "teacher.keras"
    data = str(DIGITS.with_name("digits_training.npz"))
    text = 'distill(teacher="teacher.keras")'
    path.write_bytes(b"student")
    with pytest.raises(RecipeError, match="no such file teacher.keras"):
        planned(text, path, data)
    teacher.write_bytes(b"one")
    before = planned(text, path, data)
    teacher.write_bytes(b"another")
    after = planned(text, path, data)

    node = next(item for item in before.nodes.values() if item.stage == "distill")
    assert node.kind == "training"
    assert node.order["parameters"]["teacher"] == str(teacher)
    assert before.variant != after.variant


def edited(tmp_path: Path, *, activation: int, vector: bool) -> Path:
    """Return the digits model with a MUL after its first convolution."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model(str(DIGITS))
    ops = model.subgraphs[0]
    position, conv = next(
        (i, item) for i, item in enumerate(ops.operators) if hasattr(item.builtinOptions, "strideW")
    )
    conv.builtinOptions.fusedActivationFunction = activation
    out = conv.outputs[0]
    channels = ops.tensors[out].shape[-1] if vector else 1

    def tensor(name: bytes, shape: Any, data: Any = None) -> int:
        made, buffer = schema.TensorT(), schema.BufferT()
        buffer.data = data
        model.buffers.append(buffer)
        made.name, made.shape, made.buffer = name, shape, len(model.buffers) - 1
        ops.tensors.append(made)
        return len(ops.tensors) - 1

    scale = tensor(b"scale", [channels], np.ones(channels, np.float32).view(np.uint8))
    scaled = tensor(b"scaled", list(ops.tensors[out].shape))
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.MUL
    model.operatorCodes.append(code)
    mul = schema.OperatorT()
    mul.opcodeIndex = len(model.operatorCodes) - 1
    mul.inputs, mul.outputs = [out, scale], [scaled]
    mul.builtinOptionsType = schema.BuiltinOptions.MulOptions
    mul.builtinOptions = schema.MulOptionsT()
    for later in ops.operators[position + 1 :]:
        later.inputs = [scaled if index == out else index for index in later.inputs]
    ops.operators.insert(position + 1, mul)
    path = tmp_path / "edited.tflite"
    flatbuffer_utils.write_model(model, str(path))
    return path


def test_an_unfolded_batch_norm_is_reported(tmp_path: Path) -> None:
    path = edited(tmp_path, activation=0, vector=True)

    assert folding.unfolded(path) == ("scaled",)
    assert "scaled" in folding.note(folding.unfolded(path))


@pytest.mark.parametrize(("activation", "vector"), [(1, True), (0, False)])
def test_a_batch_norm_that_cannot_be_folded_is_not_reported(
    tmp_path: Path, activation: int, vector: bool
) -> None:
    assert folding.unfolded(edited(tmp_path, activation=activation, vector=vector)) == ()


def test_the_demo_model_is_folded() -> None:
    assert folding.unfolded(DIGITS) == ()
