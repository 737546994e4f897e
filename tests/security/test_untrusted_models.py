"""Code in a model's file is found before the file is loaded; a model without code passes.

Files are made here byte by byte, so that each case holds one thing. tests/integration has the files
that Keras and TensorFlow write.
"""

from __future__ import annotations

import base64
import io
import json
import marshal
import pickle
import stat
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standins import graphs

from harness.errors import RecipeError, Untrusted
from harness.optimize import trust
from harness.optimize.trust import configs, operators

CODE = base64.encodebytes(marshal.dumps((lambda x: x).__code__)).decode()
PICKLE = base64.b64encode(pickle.dumps({"a": list(range(30))})).decode()


def layer(kind: str, module: str | None = "keras.layers", **config: Any) -> dict[str, Any]:
    made = {"class_name": kind, "config": {"name": "one", **config}}
    return made if module is None else {"module": module, **made, "registered_name": None}


def model(*layers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "module": "keras",
        "class_name": "Sequential",
        "config": {"name": "m", "layers": layers},
    }


def function(module: str | None, name: str) -> dict[str, Any]:
    return {"module": module, "class_name": "function", "config": name, "registered_name": name}


DENSE = layer(
    "Dense", units=3, activation="relu", kernel_initializer=layer("Zeros", "keras.initializers")
)

BAD: dict[str, Any] = {
    "Lambda": model(layer("Lambda", function={"class_name": "__lambda__", "config": {}})),
    "a Lambda of tf-keras": model(layer("Lambda", None, function=[CODE, None, None])),
    "a Lambda inside a layer": model(layer("TimeDistributed", layer=layer("Lambda"))),
    "a Lambda of another module": model(layer("core.Lambda", "keras.src.layers.core.lambda_layer")),
    "a registered Lambda": model(layer("keras>Lambda", None)),
    "code in any text": model(layer("Dense", note=CODE)),
    "code as letters": model(
        layer("Dense", note=marshal.dumps((lambda x: x).__code__).decode("latin-1"))
    ),
    "code in the compiled part": {**model(DENSE), "compile_config": {"loss": CODE}},
    "code in the compiled part of a model inside": model(
        {**layer("Sequential", layers=[]), "compile_config": {"loss": layer("Evil", "evil")}}
    ),
    "a function in the training part of a model inside": model(
        layer("Dense", inner={"training_config": {"loss": function("os", "system")}})
    ),
    "code in base64 as Python reads it": model(layer("Dense", note=f"-{CODE[:9]}-\n{CODE[9:]}")),
    "a pickle": model(layer("Dense", note=PICKLE)),
    "a saved model inside": model(layer("TFSMLayer", filepath="/tmp/m")),
    "a torch module": model(layer("TorchModuleWrapper", module="...")),
    "a jax function": model(layer("JaxLayer", call_fn="f")),
    "another module": model(layer("Popen", "subprocess")),
    "a module like Keras's": model(layer("Dense", "keras_evil.layers")),
    "a helper of Keras": model(layer("GetFile", "keras.src.utils.file_utils")),
    "a function of Keras's helpers": model(layer("get_file", "keras.utils")),
    "a function as a class": model(layer("enable_unsafe_deserialization", "keras.config")),
    "a builtin": model(layer("Dense", activation=function("builtins", "exec"))),
    "an import": model(layer("__import__", "builtins")),
    "a function of a module": model(layer("Dense", activation=function("os", "system"))),
    "a download": model(layer("Dense", activation=function("keras.utils", "get_file"))),
    "a custom class by its module": model(layer("Swish", "my.layers")),
    "a custom class by its name": model({**layer("Swish", None), "registered_name": "my>Swish"}),
    "a custom class of tf-keras": model(layer("my>Swish", None)),
    "an operator that writes": model(layer("TFOpLambda", None, function="io.write_file")),
    "a raw operator": model(layer("TFOpLambda", None, function="raw_ops.ReadFile")),
    "a Python function": model(layer("TFOpLambda", None, function="py_function")),
    "a node that writes": model(
        layer("TensorFlowOpLayer", None, node_def='name: "a" op: "WriteFile"')
    ),
    "a method": model(layer("ClassMethod", None, cls_ref="x", method_name="y")),
    "a vocabulary file": model(layer("StringLookup", vocabulary="/etc/passwd")),
}
GOOD: dict[str, Any] = {
    "a model of Keras 3": model(DENSE, layer("DTypePolicy", "keras", dtype="float32")),
    "a model of tf-keras": {"class_name": "Functional", "config": {"layers": [layer("Dense", None)]}},
    "a functional model": {**model(DENSE), "module": "keras.src.models.functional", "class_name": "Functional", "registered_name": "Functional"},
    "an operation": model(layer("Add", "keras.src.ops.numpy")),
    "a function of Keras": model(layer("Dense", activation=function("builtins", "relu"))),
    "an activation": model(layer("Dense", activation=function("keras.activations", "gelu"))),
    "pure operators": model(layer("TFOpLambda", None, function="math.multiply"), layer("TFOpLambda", None, function="compat.v1.nn.softmax"), layer("TFOpLambda", None, function="__operators__.getitem")),
    "a node that adds": model(layer("TensorFlowOpLayer", None, node_def='name: "a" op: "AddV2"')),
    "quantisation-aware": model(layer("QuantizeWrapperV2", "tensorflow_model_optimization.python.core.quantization.keras.quantize_wrapper")),
    "a vocabulary": model(layer("StringLookup", vocabulary=["a", "b"])),
    "a custom loss": {**model(DENSE), "compile_config": {"loss": function("my.losses", "mine")}},
    "long text in base64": model(layer("Dense", note=base64.b64encode(bytes(range(200))).decode())),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_code_in_a_config_is_found(name: str) -> None:
    assert list(configs.findings(json.dumps(BAD[name])))


@pytest.mark.parametrize("name", GOOD)
def test_a_config_without_code_passes(name: str) -> None:
    assert list(configs.findings(json.dumps(GOOD[name]))) == []


@given(st.recursive(st.none() | st.booleans() | st.floats(allow_nan=False) | st.text(), lambda part: st.lists(part) | st.dictionaries(st.sampled_from(["class_name", "config", "module", "registered_name", "layers", "name", "function", "node_def", "vocabulary"]) | st.text(), part)))  # fmt: skip
def test_any_json_is_walked_to_its_end(value: Any) -> None:
    assert all(isinstance(one, str) for one in configs.findings(json.dumps(value)))


def test_a_config_that_is_nested_without_end_is_refused(tmp_path: Path) -> None:
    path = keras_file(tmp_path, "[" * 100_000)
    with pytest.raises(RecipeError, match=r"m\.keras: not a whole keras file"):
        trust.check(path, "keras")


# --- archives ----------------------------------------------------------------------------------


def keras_file(folder: Path, config: Any = None, **entries: bytes) -> Path:
    path = folder / "m.keras"
    text = config if isinstance(config, str) else json.dumps(config or model(DENSE))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.15.1"}))
        archive.writestr("config.json", text)
        archive.writestr("model.weights.h5", hdf5())
        for name, data in entries.items():
            archive.writestr(name, data)
    return path


def hdf5(**attributes: str) -> bytes:
    h5py = pytest.importorskip("h5py")
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        file.create_group("layers/dense")["kernel"] = np.ones((3, 3), np.float32)
        for name, text in attributes.items():
            file.attrs[name] = text
    return buffer.getvalue()


def refused(path: Path, form: str) -> str:
    with pytest.raises(Untrusted) as caught:
        trust.check(path, form)
    message = str(caught.value)
    assert message.startswith(f"{path}: its ")
    assert "--trust-model" in message
    assert "trust = true" in message
    return message


def test_a_keras_archive_passes_and_one_with_a_lambda_is_refused(tmp_path: Path) -> None:
    trust.check(keras_file(tmp_path), "keras")
    assert 'Lambda "one"' in refused(keras_file(tmp_path, BAD["Lambda"]), "keras")


def test_an_h5_passes_and_one_with_a_lambda_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.h5"
    path.write_bytes(hdf5(model_config=json.dumps(GOOD["a model of tf-keras"])))
    trust.check(path, "h5")
    path.write_bytes(hdf5(model_config=json.dumps(BAD["a Lambda of tf-keras"])))
    assert "Python code" in refused(path, "h5")
    path.write_bytes(
        hdf5(model_config=json.dumps(model(DENSE)), training_config=json.dumps({"loss": CODE}))
    )
    assert "marshalled" in refused(path, "h5")


@pytest.mark.parametrize("name", ["../out", "/etc/out", "a/../../out", "..\\out"])
def test_an_entry_outside_of_the_archive_is_refused(tmp_path: Path, name: str) -> None:
    assert "outside" in refused(keras_file(tmp_path, **{name: b"x"}), "keras")


def test_a_link_a_double_entry_and_a_bomb_are_refused(tmp_path: Path) -> None:
    path = keras_file(tmp_path)
    link = zipfile.ZipInfo("assets/link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    assert "symbolic link" in refused(path, "keras")
    path = keras_file(tmp_path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("config.json", "{}")
    assert "twice" in refused(path, "keras")
    path = keras_file(tmp_path)
    with zipfile.ZipFile(path, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("assets/bomb", b"\0" * (101 << 20))
    assert "unpacks to" in refused(path, "keras")


def test_weights_in_other_files_and_pickled_ones_are_refused(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "m.h5"
    config = json.dumps(model(DENSE))
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config
        file["w"] = h5py.ExternalLink("/etc/passwd", "/")
    assert "another file" in refused(path, "h5")
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config
        file.create_dataset("w", (4,), "i1", external=[("/etc/passwd", 0, 4)])
    assert "another file" in refused(path, "h5")
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = config
        layout = h5py.VirtualLayout((4,), "i1")
        layout[:] = h5py.VirtualSource("other.h5", "w", (4,), "i1")
        file.create_virtual_dataset("w", layout)
    assert "another file" in refused(path, "h5")
    buffer = io.BytesIO()
    np.savez(buffer, w=np.array([{"a": 1}], object))
    with zipfile.ZipFile(keras_file(tmp_path), "a") as archive:
        archive.writestr("model.weights.npz", buffer.getvalue())
    assert "pickled" in refused(tmp_path / "m.keras", "keras")


@pytest.mark.parametrize("form", ["keras", "h5"])
@given(data=st.binary(max_size=200))
def test_a_damaged_archive_is_refused_by_name(
    tmp_path_factory: pytest.TempPathFactory, form: str, data: bytes
) -> None:
    path = tmp_path_factory.mktemp("damaged") / f"m.{form}"
    path.write_bytes(data)
    with pytest.raises(RecipeError, match=path.name):
        trust.check(path, form)


# --- SavedModels -------------------------------------------------------------------------------


def field(number: int, value: bytes | str | int) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3]) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def varint(number: int) -> bytes:
    out = b""
    while number > 127:
        out += bytes([number & 127 | 128])
        number >>= 7
    return out + bytes([number])


def node(name: str, operator: str, *inputs: str, calls: str = "", **texts: str) -> bytes:
    made = field(1, name) + field(2, operator) + b"".join(field(3, one) for one in inputs)
    for key, text in texts.items():
        made += field(5, field(1, key) + field(2, field(2, text)))
    if calls:
        made += field(5, field(1, "f") + field(2, field(10, field(1, calls))))
    return made


def saved_model(
    folder: Path,
    nodes: list[bytes],
    functions: Mapping[str, list[bytes]] | None = None,
    *,
    save: str = "",
    restore: str = "",
    signature: str = "",
    collections: Mapping[str, bytes] | None = None,
    objects: bytes = b"",
) -> Path:
    library = b"".join(
        field(1, field(1, field(1, name)) + b"".join(field(3, one) for one in body))
        for name, body in (functions or {}).items()
    )
    graph = b"".join(field(1, one) for one in nodes) + field(2, library)
    saver = field(1, "saver_filename:0") + field(2, save) + field(3, restore)
    meta = field(2, graph) + field(3, saver)
    for key, value in (collections or {}).items():
        meta += field(4, field(1, key) + field(2, value))
    if signature:
        output = field(1, "y") + field(2, field(1, signature))
        meta += field(5, field(1, "serving_default") + field(2, field(2, output)))
    meta += field(7, objects)
    folder.mkdir(exist_ok=True)
    (folder / "saved_model.pb").write_bytes(field(1, 1) + field(2, meta))
    return folder


PLAIN = [
    node("saver_filename", "Placeholder"),
    node("v", "VarHandleOp"),
    node("serve", "StatefulPartitionedCall", "v", calls="serve"),
    node("save", "StatefulPartitionedCall", "saver_filename", "v", calls="save"),
    node("restore", "StatefulPartitionedCall", "saver_filename", calls="restore"),
]
FUNCTIONS = {
    "serve": [node("m", "MatMul"), node("say", "PrintV2", output_stream="stderr")],
    "save": [node("s", "SaveV2"), node("g", "MergeV2Checkpoints"), node("n", "ShardedFilename")],
    "restore": [node("r", "RestoreV2")],
}
ENDS = {"save": "save:0", "restore": "restore"}


def test_a_saved_model_passes_with_its_own_saver(tmp_path: Path) -> None:
    trust.check(saved_model(tmp_path / "m", PLAIN, FUNCTIONS, **ENDS), "saved_model")
    # As TensorFlow 1 wrote it: the saver's nodes are in the graph, and the saver in a collection.
    old = [
        node("save/Const", "Placeholder"),
        node("save/SaveV2", "SaveV2", "save/Const", "v"),
        node("save/control", "Identity", "save/Const", "^save/SaveV2"),
        node("save/RestoreV2", "RestoreV2", "save/Const"),
        node("save/Assign", "Assign", "v", "save/RestoreV2"),
        node("save/all", "NoOp", "^save/Assign"),
        node("v", "VariableV2"),
        node("y", "MatMul", "v"),
    ]
    saver = field(2, "save/control:0") + field(3, "save/all")
    path = saved_model(
        tmp_path / "old",
        old,
        save="save/control:0",
        restore="save/all",
        signature="y:0",
        collections={"savers": field(2, field(1, saver))},
    )
    trust.check(path, "saved_model")


WRITE = node("w", "WriteFile", "c")
SAVED: dict[str, dict[str, Any]] = {
    "a node": {"nodes": [*PLAIN, WRITE]},
    "a function": {"functions": {**FUNCTIONS, "initialize": [WRITE]}},
    "Python": {"functions": {**FUNCTIONS, "serve": [node("p", "EagerPyFunc")]}},
    "a function of Python": {"nodes": [*PLAIN, node("p", "PyFunc")]},
    "a log in a file": {"nodes": [*PLAIN, node("p", "PrintV2", output_stream="file:///tmp/x")]},
    "a checkpoint in serving": {"functions": {**FUNCTIONS, "serve": [node("s", "SaveV2")]}},
    "saving while restoring": {"functions": {**FUNCTIONS, "restore": [node("s", "SaveV2")]}},
    "the saver's function in serving": {
        "nodes": [*PLAIN, node("other", "PartitionedCall", calls="save")]
    },
    "the saver's node in a signature": {"signature": "save:0"},
    "the saver's node as initialiser": {
        "collections": {"saved_model_main_op": field(1, field(1, "restore"))}
    },
    "the saver's node used": {"nodes": [*PLAIN, node("y", "Identity", "save")]},
    "a name that is there twice": {"nodes": [*PLAIN, node("save", "SaveV2")]},
    "the saver's function in an object": {"objects": field(2, field(1, "save"))},
    "a table from a file": {"nodes": [*PLAIN, node("t", "InitializeTableFromTextFileV2")]},
    "a data set": {"nodes": [*PLAIN, node("t", "TextLineDataset")]},
    "the network": {"nodes": [*PLAIN, node("t", "RpcCall")]},
    "a descriptor": {"nodes": [*PLAIN, node("t", "DecodeProtoV2", descriptor_source="/tmp/x")]},
    "a hidden graph": {"nodes": [*PLAIN, node("t", "DatasetFromGraph")]},
}


@pytest.mark.parametrize("name", SAVED)
def test_operators_that_reach_out_of_a_saved_model_are_refused(tmp_path: Path, name: str) -> None:
    parts = {"nodes": PLAIN, "functions": FUNCTIONS, **ENDS, **SAVED[name]}
    assert "its operator" in refused(saved_model(tmp_path / "m", **parts), "saved_model")


def test_code_in_the_configs_of_a_saved_model_is_refused(tmp_path: Path) -> None:
    path = saved_model(tmp_path / "m", PLAIN, FUNCTIONS, **ENDS)
    metadata = path / "keras_metadata.pb"
    metadata.write_bytes(field(1, field(5, json.dumps(BAD["a Lambda of tf-keras"]))))
    assert "Python code" in refused(path, "saved_model")
    # A custom class matters only where Keras makes the layers again, for training.
    metadata.write_bytes(field(1, field(5, json.dumps(BAD["a custom class by its module"]))))
    trust.check(path, "saved_model")
    with pytest.raises(Untrusted, match=r"my\.layers"):
        trust.check(path, "saved_model", trains=True)
    metadata.unlink()
    user = field(1, "_tf_keras_layer") + field(3, json.dumps(BAD["a Lambda of tf-keras"]))
    path = saved_model(path, PLAIN, FUNCTIONS, **ENDS, objects=field(1, field(4, user)))
    assert "Python code" in refused(path, "saved_model")


@given(st.data())
def test_a_damaged_saved_model_is_refused_or_read(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = saved_model(tmp_path_factory.mktemp("damaged") / "m", PLAIN, FUNCTIONS, **ENDS)
    file = path / "saved_model.pb"
    whole = bytearray(file.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    file.write_bytes(whole[: data.draw(st.integers(0, len(whole)))])
    try:
        trust.check(path, "saved_model")
    except RecipeError as error:
        assert str(path) in str(error)


def test_flex_operators_of_a_tflite_file_are_refused(tmp_path: Path) -> None:
    trust.check(graphs.chain(tmp_path / "plain.tflite", ["ADD", "FlexErf"]), "tflite")
    path = graphs.chain(tmp_path / "m.tflite", ["ADD", "FlexWriteFile"])
    assert "FlexWriteFile" in refused(path, "tflite")


REFUSED = (
    "ReadFile WriteFile MatchingFiles SaveV2 RestoreV2 PyFunc EagerPyFunc PyFuncStateless "
    "TFRecordDatasetV2 CSVDataset SnapshotDatasetV2 WholeFileReaderV2 CreateSummaryFileWriter "
    "DataServiceDatasetV4 RpcServer InitializeTableFromTextFile LoadAndRemapMatrix CollectiveReduceV2"
)


@pytest.mark.parametrize("name", REFUSED.split())
def test_each_kind_of_operator_is_refused(name: str) -> None:
    assert operators.refusal(name)


@pytest.mark.parametrize(
    "name", ["MatMul", "ReadVariableOp", "HashTableV2", "LookupTableFindV2", "TensorArrayReadV3"]
)
def test_operators_that_only_compute_pass(name: str) -> None:
    assert operators.refusal(name) is None


def test_a_plan_is_trusted_as_a_whole(tmp_path: Path) -> None:
    from harness import api

    graphs.chain(tmp_path / "m.tflite", ["ADD"])
    plan = tmp_path / "plan.toml"
    plan.write_text('[model]\npath = "m.tflite"\n[run]\nrecipes = ["as_is"]\n')
    assert not api.read_plan(plan).models[0].source.trust
    assert api.read_plan(plan, trust_model=True).models[0].source.trust
    plan.write_text('[model]\npath = "m.tflite"\ntrust = true\n[run]\nrecipes = ["as_is"]\n')
    assert api.read_plan(plan).models[0].source.trust
