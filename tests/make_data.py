"""Make small models of the same kinds as the real ones that some tests need: `make test-data`.

The real files (shared_data.py says which and where from) are not ours and not in the repository. What
is made here has their structure and their names of tensors, weights of our own, and says in its
description that it is a stand-in. TensorFlow makes it, in a minute; the same script and TensorFlow
give the same files.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")

import flatbuffers
import numpy as np
import tensorflow as tf
import tf_keras as keras
from ai_edge_litert import schema_py_generated as schema
from shared_data import MADE, stamp

STAND_IN = "stand-in of edge-harness's tests, not the model it is named after"
SEED = 20261130
SCALE, ZERO_POINT = np.float32(0.5847029), 83
CLASSES, SAMPLES = 12, 600
L = keras.layers


# --- a small network for keywords (MLPerf Tiny's DS-CNN has this structure) ------------------------


def keywords(folder: Path) -> None:
    x_int8, y = _features()
    x = (x_int8.astype(np.float32) - ZERO_POINT) * SCALE
    model = _keyword_model()
    optimizer = keras.optimizers.legacy.Adam(0.002)
    model.compile(optimizer, "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x, y, batch_size=30, epochs=12, verbose=0)
    folder.mkdir()
    np.savez(
        folder / "features.npz",
        x_int8=x_int8,
        y=y,
        scale=SCALE,
        zero_point=np.int32(ZERO_POINT),
    )
    # As a SavedModel, with the weights and no code of ours.
    model.save(folder / "saved_model", include_optimizer=False, save_format="tf")
    converter = _converter(model)
    _write(folder / "kws_ref_model_float32.tflite", converter.convert(), _named_as_keywords)
    converter = _int8(_converter(model), x[:200], tf.int8)
    _write(folder / "kws_ref_model.tflite", converter.convert(), _named_as_keywords)


def _features() -> tuple[np.ndarray, np.ndarray]:
    """600 labelled inputs of 49 frames of 10 coefficients: a pattern for each class, and noise."""
    random = np.random.default_rng(SEED)
    y = random.permutation(np.arange(SAMPLES) % CLASSES).astype(np.int64)
    patterns = random.normal(0, 12, (CLASSES, 7, 10)).repeat(7, axis=1)
    level = np.where(np.arange(10) == 0, -20.0, 0.0)
    real = patterns[y] + level + random.normal(0, 14, (SAMPLES, 49, 10))
    x = np.clip(np.round(real / SCALE) + ZERO_POINT, -128, 127).astype(np.int8)
    # The whole range of the input, so that its scale is the one above.
    x[0, 0, 0], x[0, 0, 1] = -128, 127
    return x[..., None], y


def _keyword_model() -> Any:
    x = inputs = keras.Input((49, 10, 1), name="input_1")
    x = _convolution(x, L.Conv2D(64, (10, 4), strides=2, padding="same"))
    for _ in range(4):
        x = _convolution(x, L.DepthwiseConv2D(3, padding="same"))
        x = _convolution(x, L.Conv2D(64, 1, padding="same"))
    x = L.AveragePooling2D((25, 5))(x)
    outputs = L.Dense(CLASSES, activation="softmax", name="dense")(L.Flatten()(x))
    return keras.Model(inputs, outputs, name="functional_1")


def _convolution(x: Any, layer: Any) -> Any:
    return L.Activation("relu")(L.BatchNormalization(momentum=0.8)(layer(x)))


def _named_as_keywords(model: Any) -> None:
    _rename(model, "input_1", "Identity")


# --- MobileNet's structure, in uint8 ---------------------------------------------------------------


def images(folder: Path) -> None:
    random = np.random.default_rng(SEED)
    tall = random.normal(128, 60, (24, 21, 3)).repeat(20, axis=0).repeat(18, axis=1)
    pixels = np.clip(tall + random.normal(0, 12, tall.shape), 0, 255).astype(np.uint8)
    # A header of 54 bytes, as the real picture's; nothing reads what is in it.
    (folder / "cat.bmp").write_bytes(b"BM" + STAND_IN.encode()[:52].ljust(52) + pixels.tobytes())


def mobilenet(folder: Path) -> None:
    x = inputs = keras.Input((128, 128, 3), batch_size=1, name="input")
    x = L.Conv2D(8, 3, strides=2, padding="same", activation=tf.nn.relu6)(x)
    for filters, strides in [
        (16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1),
    ]:  # fmt: skip
        x = L.DepthwiseConv2D(3, strides=strides, padding="same", activation=tf.nn.relu6)(x)
        x = L.Conv2D(filters, 1, activation=tf.nn.relu6)(x)
    x = L.Reshape((1001,))(L.Conv2D(1001, 1, name="logits")(L.AveragePooling2D(4)(x)))
    model = keras.Model(inputs, L.Softmax()(x))
    random = np.random.default_rng(SEED)
    seen = random.uniform(-1, 1, (16, 128, 128, 3)).astype(np.float32)
    _spread(model, seen)
    converter = _int8(_converter(model), seen, tf.int8)
    converter._experimental_disable_per_channel = True
    path = folder / "mobilenet_v1_0.25_128_quant.tflite"
    _write(path, converter.convert(), _as_uint8)
    _compiled(path)


def _spread(model: Any, seen: np.ndarray) -> None:
    """Give every layer outputs of one size and the scores a winner, as training would."""
    for layer in model.layers:
        if not layer.weights:
            continue
        until = keras.Model(model.input, layer.output)
        size = float(np.std(until(seen).numpy()))
        kernel, bias = layer.get_weights()
        wanted = 8.0 if layer.name == "logits" else 1.5
        layer.set_weights([kernel * wanted / size, bias])


def _as_uint8(model: Any) -> None:
    """Make int8 tensors uint8: what is stored and the zero points move by 128."""
    types = schema.TensorType
    (graph,) = model.subgraphs
    for tensor in graph.tensors:
        if tensor.type != types.INT8:
            continue
        tensor.type = types.UINT8
        tensor.quantization.zeroPoint = [int(zero) + 128 for zero in tensor.quantization.zeroPoint]
        buffer = model.buffers[tensor.buffer]
        if buffer.data is not None and len(buffer.data):
            buffer.data = (np.asarray(buffer.data, np.uint8).astype(int) + 128).astype(np.uint8)
    for code in model.operatorCodes:
        code.version = 1
    _rename(model, "input", "MobilenetV1/Predictions/Reshape_1")
    for tensor in graph.tensors:
        tensor.shapeSignature = None


# --- an LSTM, and a net whose end is no convolution ------------------------------------------------


def lstm(folder: Path) -> None:
    inputs = keras.Input((28, 28), batch_size=1, name="x")
    outputs = L.Dense(10, activation="softmax")(
        L.Flatten()(L.LSTM(20, return_sequences=True)(inputs))
    )
    model = keras.Model(inputs, outputs)
    seen = np.random.default_rng(SEED).uniform(0, 1, (20, 28, 28)).astype(np.float32)
    seen[0, 0, 0], seen[0, 0, 1] = 0, 1
    path = folder / "keras_lstm_mnist_ptq.tflite"
    _write(path, _int8(_converter(model), seen, tf.uint8).convert())
    _compiled(path)


def pose(folder: Path) -> None:
    """Convolutions with branches, then the best place of each of 17 maps, computed as MoveNet does."""
    x = inputs = keras.Input((64, 64, 3), batch_size=1, name="input")
    x = _block(x, 8, 2)
    skips = []
    for filters in (8, 12, 16):
        x = _block(x, filters, 2)
        for _ in range(2):
            x = L.Add()([x, _block(_block(x, filters * 2, 1), filters, 1)])
        skips.append(x)
    for skip in (skips[1], skips[0]):
        x = L.UpSampling2D(2, interpolation="bilinear")(x)
        x = L.Add()([_block(x, 12, 1), _block(skip, 12, 1)])
    heads = [L.Conv2D(filters, 1)(_block(x, 12, 1)) for filters in (17, 34, 34)]
    net = keras.Model(inputs, heads)

    def places(image: Any) -> Any:
        heat, offsets, fine = net(tf.cast(image, tf.float32) / 127.5 - 1.0)
        heat = tf.sigmoid(heat)
        flat = tf.reshape(heat, [256, 17])
        best = tf.cast(tf.argmax(flat, axis=0, output_type=tf.int32), tf.int32)
        row, column = best // 16, best - (best // 16) * 16
        index = tf.stack([row, column, tf.range(17)], axis=-1)
        score = tf.gather_nd(tf.reshape(heat, [16, 16, 17]), index)
        parts = [tf.reshape(one, [16, 16, 17, 2]) for one in (offsets, fine)]
        moved = [tf.gather_nd(part, index) for part in parts]
        down, right = tf.unstack(moved[0] * moved[1], axis=-1)
        found = [tf.cast(row, tf.float32) + down, tf.cast(column, tf.float32) + right]
        found = [one * (1.0 / 16.0) for one in found]
        return tf.reshape(tf.stack([*found, score], axis=-1), [1, 1, 17, 3])

    signature = tf.TensorSpec((1, 64, 64, 3), tf.uint8, name="input")
    function = tf.function(places, input_signature=[signature]).get_concrete_function()
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], net)
    random = np.random.default_rng(SEED)
    seen = random.integers(0, 255, (8, 64, 64, 3), dtype=np.uint8)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([one[None]] for one in seen)
    path = folder / "movenet_single_pose_lightning_ptq.tflite"
    _write(path, converter.convert())
    _compiled(path, all_of_it=False)


def _block(x: Any, filters: int, strides: int) -> Any:
    x = L.DepthwiseConv2D(3, strides=strides, padding="same", activation="relu")(x)
    return L.Conv2D(filters, 1, activation="relu")(x)


# --- what is written byte by byte ------------------------------------------------------------------


def failing(folder: Path) -> None:
    """A file that is valid, without buffers, and whose one operator no runtime has."""
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.subgraphs, model.buffers = 3, [graph], []
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode = "fake-op-double"
    model.operatorCodes = [code]
    graph.tensors, graph.inputs, graph.outputs = [], [0], [1]
    for name, shape, kind in (
        ("in", [1, 3], schema.TensorType.UINT8),
        ("out", [], schema.TensorType.FLOAT32),
    ):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type = name, shape, kind
        graph.tensors.append(tensor)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0], [1]
    graph.operators = [operator]
    _pack(folder / "model_invoking_error.tflite", model)


def _compiled(path: Path, *, all_of_it: bool = True) -> None:
    """Write X_edgetpu.tflite: operators are one custom operator with nothing to run in it.

    These are all, or the convolutions and everything that they need.
    """
    model = _unpack(path.read_bytes())
    (graph,) = model.subgraphs
    taken = graph.operators if all_of_it else _before_convolutions(model)
    rest = [one for one in graph.operators if not any(one is other for other in taken)]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.CUSTOM
    code.customCode, code.version = "edgetpu-custom-op", 1
    model.operatorCodes.append(code)
    needed = {int(i) for one in rest for i in one.inputs} | {int(i) for i in graph.outputs}
    operator = schema.OperatorT()
    operator.opcodeIndex = len(model.operatorCodes) - 1
    operator.inputs = [int(i) for i in graph.inputs]
    operator.outputs = [int(i) for one in taken for i in one.outputs if int(i) in needed]
    operator.customOptions = list(f"{STAND_IN}: no program for an Edge TPU".encode())
    graph.operators = [operator, *rest]
    model.signatureDefs = None
    used = {int(i) for one in graph.operators for i in (*one.inputs, *one.outputs)}
    for index, tensor in enumerate(graph.tensors):
        if index not in used:
            tensor.buffer = 0
    _pack(path.with_name(f"{path.stem}_edgetpu.tflite"), model)


def _before_convolutions(model: Any) -> list[Any]:
    """Return the operators that are convolutions or compute what one reads, in their order."""
    codes = [code.builtinCode for code in model.operatorCodes]
    wanted = {schema.BuiltinOperator.CONV_2D, schema.BuiltinOperator.DEPTHWISE_CONV_2D}
    read: set[int] = set()
    taken = []
    for one in reversed(model.subgraphs[0].operators):
        if codes[one.opcodeIndex] in wanted or read & {int(i) for i in one.outputs}:
            read |= {int(i) for i in one.inputs}
            taken.insert(0, one)
    return taken


# --- helpers ---------------------------------------------------------------------------------------


def _converter(model: Any) -> Any:
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    return converter


def _int8(converter: Any, seen: np.ndarray, kind: Any) -> Any:
    def samples() -> Iterator[Sequence[np.ndarray]]:
        return ([one[None]] for one in seen)

    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = kind
    return converter


def _rename(model: Any, source: str, result: str) -> None:
    (graph,) = model.subgraphs
    graph.tensors[graph.inputs[0]].name = source
    graph.tensors[graph.outputs[0]].name = result
    model.signatureDefs = None


def _unpack(data: bytes) -> Any:
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(data, 0))


def _write(path: Path, data: bytes, change: Callable[[Any], None] | None = None) -> None:
    model = _unpack(data)
    if change is not None:
        change(model)
    # The converter writes its version and the time of day there.
    model.metadata = None
    _pack(path, model)


def _pack(path: Path, model: Any) -> None:
    model.description = STAND_IN
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))


def make(folder: Path) -> None:
    """Write everything into `folder`, which appears whole or not at all."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=".test-data-", dir=folder.parent))
    try:
        keras.utils.set_random_seed(SEED)
        tf.config.experimental.enable_op_determinism()
        keywords(part / "kws")
        (part / "coral").mkdir()
        for one in (images, mobilenet, lstm, pose, failing):
            one(part / "coral")
        (part / "README").write_text(f"Written by tests/make_data.py: {STAND_IN}.\n")
        (part / "stamp").write_text(stamp())
        shutil.rmtree(folder, ignore_errors=True)
        part.replace(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


if __name__ == "__main__":
    make(Path(sys.argv[1]) if len(sys.argv) > 1 else MADE)
