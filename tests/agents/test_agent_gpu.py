"""Launches on a GPU by a real agent, with SwiftShader's software Vulkan: the full path, but slow."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from types import ModuleType
from typing import Any

import flatbuffers
import numpy as np
import pytest
from agent_lab import ROOT, SHORT, digest_of
from ai_edge_litert import schema_py_generated as schema
from lab.swiftshader import crashing
from standins import graphs

from harness import assets
from harness.devices import opening
from harness.devices.delegation import Timing, is_software, judge
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect, open_json_lines
from harness.devices.transports.local import open_local
from harness.errors import Crashed, FellBack, ModelRejected, Unsupported
from harness.optimize import reference
from harness.types import Cell, Device, Launch, LaunchOrder, Variant

pytest_plugins = ("agent_fixtures",)
pytestmark = pytest.mark.usefixtures("software_gpu")

UNARY = (
    *("ABS", "CEIL", "COS", "ELU", "EXP", "FLOOR", "HARD_SWISH", "LOGISTIC", "NEG", "RELU"),
    *("RELU6", "RELU_N1_TO_1", "ROUND", "SIGN", "SIN", "SQUARE", "TANH", "ADD", "MUL", "SUB"),
)


QUICK = dataclasses.replace(SHORT, warmup_max_seconds=0.2)


@pytest.fixture
def kws_float(shared_data: Path) -> Path:
    return shared_data / "kws" / "kws_ref_model_float32.tflite"


def launch(dialect: JsonLinesDialect, order: LaunchOrder, model: Path, **changes: Any) -> Launch:
    dialect.deploy({digest_of(model): model})
    changes = {"target": "gpu", **changes}
    return dialect.launch(dataclasses.replace(order, variant_digest=digest_of(model), **changes))


def latency(of: Launch) -> float:
    (samples,) = [part for part in of.samples if part.series == "latency"]
    return median(samples.value)


def cell(model: Path) -> Cell:
    digest = digest_of(model)
    variant = Variant(
        model="m", recipe="as_is@gpu", target="gpu", path=model, digest=digest, size_bytes=1
    )
    return Cell(model="m", recipe="as_is@gpu", target="gpu", device="d", threads=1, variant=variant)


def in_five_dimensions(path: Path, operators: Sequence[str]) -> Path:
    """A chain of tensors with five dimensions: XNNPACK takes them, a GPU does not."""
    graphs.chain(path, operators)
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(path.read_bytes(), 0))
    for tensor in model.subgraphs[0].tensors:
        tensor.shape = [1, 1, 1, 1, 8]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_a_float_model_runs_on_the_gpu_whole(
    dialect: JsonLinesDialect, order: LaunchOrder, kws_float: Path
) -> None:
    made = launch(dialect, order, kws_float)
    delegation = made.delegation
    assert (delegation.delegate, delegation.delegated_ops, delegation.total_ops) == ("gpu", 13, 13)
    assert (delegation.partitions, delegation.left, delegation.fully, delegation.clock) == (
        1,
        (),
        True,
        "run+read",
    )
    assert delegation.evidence == "is_fully_accelerated, by the GPU alone"
    assert delegation.settings == "float16 allowed"
    assert delegation.adapter is not None
    assert delegation.adapter.name.startswith("SwiftShader Device")
    assert delegation.adapter.type == "CPU"
    assert delegation.adapter.driver.startswith("SwiftShader driver ")
    assert delegation.adapter.driver[-1].isdigit()
    assert is_software(delegation.adapter)
    assert delegation.handed_ns is not None
    assert delegation.whole_ns is not None
    assert 0 < 4 * delegation.handed_ns < delegation.whole_ns
    assert made.cpu_share is None
    # Loading compiles the shaders, so it takes much longer than an inference.
    assert made.load_ns is not None
    assert made.load_ns > 5 * latency(made)
    found = judge(cell(kws_float), [made], Timing(own=latency(made), cpu=1.0))
    assert found is not None
    assert (found.validity, found.status) == ("VALID", "ok")
    memory = launch(dialect, order, kws_float, kind="memory").delegation
    times = {"handed_ns": delegation.handed_ns, "whole_ns": delegation.whole_ns}
    assert dataclasses.replace(memory, **times) == delegation


def test_its_outputs_are_the_cpus(
    dialect: JsonLinesDialect,
    order: LaunchOrder,
    kws_float: Path,
    shared_data: Path,
) -> None:
    data = np.load(shared_data / "kws" / "features.npz")
    real = (data["x_int8"][:16].astype(np.float32) - data["zero_point"]) * data["scale"]
    quantised = shared_data / "coral" / "mobilenet_v1_0.25_128_quant.tflite"
    cat = np.frombuffer((shared_data / "coral" / "cat.bmp").read_bytes(), np.uint8)[54:]
    pixels = cat[: 4 * 128 * 128 * 3].reshape(4, 128, 128, 3)
    for model, name, values in (
        (kws_float, "input_1", real.astype(np.float32)),
        (quantised, "input", pixels),
    ):
        dialect.deploy({digest_of(model): model})
        chosen = dataclasses.replace(
            order, kind="accuracy", variant_digest=digest_of(model), target="gpu"
        )
        got = dialect.infer(chosen, {name: values})
        wanted = reference.host_outputs(model, {name: values})
        assert got.keys() == wanted.keys()
        for output, array in wanted.items():
            assert got[output].shape == array.shape
            found, expected = got[output].astype(float), array.astype(float)
            assert (found.argmax(-1) == expected.argmax(-1)).all()
            # A GPU's exp and sums differ from the CPU's in the last bits.
            assert np.linalg.norm(found - expected) <= 0.05 * np.linalg.norm(expected)


def test_what_the_docs_list_is_taken_and_the_rest_is_named(
    dialect: JsonLinesDialect, order: LaunchOrder, tmp_path: Path
) -> None:
    model = graphs.chain(tmp_path / "unary.tflite", UNARY)
    delegation = launch(dialect, order, model).delegation
    assert (delegation.delegated_ops, delegation.total_ops, delegation.fully) == (
        len(UNARY),
        len(UNARY),
        True,
    )
    mixed = graphs.chain(tmp_path / "mixed.tflite", ["ADD", "TANH", "ADD", "LOG_SOFTMAX", "ADD"])
    made = launch(dialect, order, mixed)
    delegation = made.delegation
    assert (delegation.delegated_ops, delegation.total_ops, delegation.partitions) == (3, 5, 1)
    assert (delegation.left, delegation.fully) == (("LOG_SOFTMAX",), False)
    found = judge(cell(mixed), [made])
    assert found is not None
    assert (found.validity, found.status) == ("INVALID", "partial")
    assert found.reason == "2 of 5 operators stayed on the CPU: LOG_SOFTMAX"


def test_what_xnnpack_took_beside_it_is_not_the_gpus(
    dialect: JsonLinesDialect, order: LaunchOrder, tmp_path: Path
) -> None:
    # For GPU and CPU together is_fully_accelerated is true for this model, and XNNPACK runs all of it.
    model = in_five_dimensions(tmp_path / "five.tflite", ["ADD", "MUL"])
    with pytest.raises(FellBack, match=r"the GPU took no operator \(ADD, MUL not supported\)"):
        launch(dialect, order, model)


def test_models_that_the_gpu_path_does_not_load(
    dialect: JsonLinesDialect,
    order: LaunchOrder,
    shared_data: Path,
) -> None:
    coral = shared_data / "coral"
    with pytest.raises(ModelRejected, match="unresolved custom op: fake-op-double"):
        launch(dialect, order, coral / "model_invoking_error.tflite")
    with pytest.raises(ModelRejected, match="Variable tensors not yet supported"):
        launch(dialect, order, coral / "keras_lstm_mnist_ptq.tflite")


def test_without_a_gpu_there_is_no_number(
    dialect: JsonLinesDialect,
    order: LaunchOrder,
    kws_float: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("VK_ICD_FILENAMES", "VK_DRIVER_FILES"):
        monkeypatch.setenv(name, str(tmp_path / "absent.json"))
    with pytest.raises(Unsupported, match="no Vulkan driver of this machine shows one .*VK_ICD_F"):
        launch(dialect, order, kws_float)
    dialect.close()
    # In place of the system's loader, if there is one.
    (tmp_path / "libvulkan.so.1").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    reason = "the Vulkan loader is missing .*libvulkan.so.1.*apt-get install libvulkan1"
    with pytest.raises(Unsupported, match=reason):
        launch(dialect, order, kws_float)


def test_a_driver_that_crashes_takes_only_its_launch(
    dialect: JsonLinesDialect,
    order: LaunchOrder,
    kws_float: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if shutil.which("gcc") is None:
        pytest.skip("gcc builds the driver of this test: apt-get install gcc libc6-dev")
    for name, value in crashing(tmp_path).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(Crashed, match="SIGABRT"):
        launch(dialect, order, kws_float)
    assert launch(dialect, order, kws_float, target="xnnpack").delegation.delegate == "xnnpack"


def test_settings_are_recorded_and_unknown_ones_refused(
    dialect: JsonLinesDialect,
    order: LaunchOrder,
    kws_float: Path,
    tmp_path: Path,
) -> None:
    cache = tmp_path / "shader cache"
    given = {"precision": "float32", "cache": str(cache)}
    delegation = launch(dialect, order, kws_float, delegate_options=given).delegation
    assert delegation.settings == f"float32, shader cache {cache}"
    assert cache.is_dir()
    for wrong in ({"precision": "float64"}, {"presicion": "float32"}):
        with pytest.raises(Unsupported, match="options precision .float16, float32. and cache"):
            launch(dialect, order, kws_float, delegate_options=wrong)


def test_a_time_of_handing_over_alone_is_invalid(
    order: LaunchOrder,
    kws_float: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> None:
    """A seeded lie: an agent that reads the outputs once, and reports that it always does."""
    agents = tmp_path / "agents"
    shutil.copytree(ROOT / "agents", agents)
    source = agents / "python_tflite" / "gpu.py"
    honest, lie = (
        "        self._values = self.read()\n",
        "        self._values = self._values or self.read()\n",
    )
    text = source.read_text("utf-8")
    assert text.count(honest) == 1
    source.write_text(text.replace(honest, lie), "utf-8")
    monkeypatch.setattr(assets, "agents", lambda: agents)
    dialect: JsonLinesDialect = request.getfixturevalue("dialect")
    made = launch(dialect, order, kws_float)
    delegation = made.delegation
    assert (delegation.clock, delegation.fully) == ("run+read", True)
    assert delegation.whole_ns is not None
    own = latency(made)
    assert own < 0.2 * delegation.whole_ns
    # Judged right after the launch, and again from a record without samples.
    stored = dataclasses.replace(made, samples=())
    for one, timing in ((made, None), (stored, Timing(own=own, cpu=None))):
        found = judge(cell(kws_float), [one], timing)
        assert found is not None
        assert (found.validity, found.status) == ("INVALID", "invalid")
        assert "measured only the asynchronous enqueue" in found.reason


def test_another_runtime_has_no_gpu(
    device: Device, order: LaunchOrder, kws_float: Path, second_python: str
) -> None:
    other = opening.with_options(device, python=second_python)
    transport = open_local(other)
    dialect = open_json_lines(transport, other)
    try:
        with pytest.raises(Unsupported, match="the GPU needs ai-edge-litert 2"):
            launch(dialect, order, kws_float)
    finally:
        dialect.close()
        transport.close()


# --- what the runtime's log adds ------------------------------------------------------------------

REAL = {"name": "Mali-G76", "type": "integrated GPU", "driver": "ARM 1"}
SOFT = {"name": "llvmpipe (LLVM 15.0.6, 256 bits)", "type": "CPU", "driver": "Mesa 23"}
CHOSEN = "I0000 environment.cc:532] Selected adapter: Mali-G76, arch=bifrost, vendor=arm\n"
PART = (
    "ERROR: Following operations are not supported by GPU delegate:\n"
    "GATHER_ND: Operation is not supported.\nADD: Tensor dimensions must be less than 5. a_0\n"
    "112 operations will run on the GPU, and the remaining 45 operations will run on the CPU.\n"
    "I0000 delegate_kernel.cc:984] Initializing WebGPU-based API from graph.\n"
)


@pytest.fixture(name="gpu")
def _gpu(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "agents" / "python_tflite"))
    for name in ("gpu", "graph", "wire"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import gpu  # type: ignore[import-not-found,unused-ignore]

    return gpu


def gpu_delegation(fully: bool, *adapters: dict[str, str]) -> dict[str, Any]:
    return {"fully": fully, "evidence": "x", "adapters": list(adapters), "left": []}


def test_the_adapter_is_the_one_the_runtime_chose(gpu: ModuleType) -> None:
    assert gpu.read(gpu_delegation(True, SOFT, REAL), CHOSEN)["adapter"] == REAL
    # Without a named adapter the time may be the CPU's.
    assert gpu.read(gpu_delegation(True, REAL, SOFT), "")["adapter"] == SOFT
    assert gpu.read(gpu_delegation(True, REAL), "")["adapter"] == REAL


def test_a_model_in_part_is_counted_by_the_last_account(gpu: ModuleType) -> None:
    found = gpu.read(gpu_delegation(False, REAL), CHOSEN + PART.replace("112", "100") + PART)
    assert (found["delegated_ops"], found["total_ops"], found["partitions"]) == (112, 157, 1)
    assert found["left"] == ["ADD", "GATHER_ND"]
    assert found["evidence"] == "x; log: 112 operations on the GPU, 45 on the CPU"


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("", "unsupported"),
        (PART.replace("112", "some"), "unsupported"),
        (PART.replace("remaining 45", "other"), "unsupported"),
        (PART.replace("112 operations", "No operations"), "fell_back"),
    ],
)
def test_nobody_knows_how_much_is_no_number(gpu: ModuleType, log: str, kind: str) -> None:
    with pytest.raises(gpu.AgentFault) as caught:
        gpu.read(gpu_delegation(False, REAL), log)
    assert caught.value.kind == kind
