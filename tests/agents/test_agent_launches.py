"""Real launches of real files through the dialect."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import statistics
import threading
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from agent_lab import LONG, SHORT, digest_of, launch_processes, wait_until
from conftest import missing
from standins.lookups import looked_up

from harness.devices import opening
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect, open_json_lines
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.local import LocalTransport
from harness.errors import (
    AgentError,
    AgentSilent,
    Crashed,
    ModelRejected,
    OutOfMemory,
    RuntimeMissing,
    TransferFailed,
    Unreachable,
    Unsupported,
)
from harness.tflite import indices
from harness.types import Device, LaunchOrder

pytest_plugins = ("agent_fixtures",)


def test_a_timed_launch_has_everything(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder
) -> None:
    dialect.deploy({order.variant_digest: kws})
    launch = dialect.launch(replace(order, dose=replace(SHORT, min_inferences=333)))
    assert (launch.id, launch.block, launch.position, launch.seed) == ("cell-timed-1-2", 1, 2, 7)
    assert launch.runtime.startswith("ai_edge_litert ")
    assert launch.delegation.delegate == "xnnpack"
    assert launch.delegation.delegated_ops == 11
    assert launch.delegation.total_ops == 13
    assert launch.delegation.left == ("AVERAGE_POOL_2D", "SOFTMAX")
    assert "graph walk" in launch.delegation.evidence
    assert "XNNPACK" in launch.delegation.evidence
    latency, set_input = launch.samples
    assert (latency.series, set_input.series) == ("latency", "set_input")
    assert len(latency) == launch.inferences >= 333
    assert list(latency.at_ns) == sorted(latency.at_ns)
    assert set(latency.count) == {1}
    assert launch.load_ns
    assert launch.first_ns
    p50 = statistics.median(latency.value)
    assert 1_000 < p50 < launch.first_ns
    assert launch.warmup
    assert launch.warmup.inferences >= 3
    assert launch.wall_ns > launch.load_ns + sum(latency.value)
    assert launch.drift is not None
    assert ("drift" in launch.flags) == (abs(launch.drift) > 0.02)
    assert ("unsteady" in launch.flags) == (not launch.warmup.steady)
    assert launch.cpu_share
    assert 0 < launch.cpu_share <= 1.05
    assert launch.involuntary_switches is not None
    assert launch.before.load_1m is not None
    assert launch.after.load_1m is not None


def test_random_indices_stay_in_their_table(
    dialect: JsonLinesDialect, tmp_path: Path, order: LaunchOrder
) -> None:
    model = looked_up(3).write(tmp_path / "table.tflite")
    limits = {name: limit.high for name, limit in indices.read(model).items()}
    asked = replace(order, variant_digest=digest_of(model), kind="memory")
    dialect.deploy({asked.variant_digest: model})

    assert limits == {"i": 2}
    assert dialect.launch(replace(asked, limits=limits)).first_ns
    with pytest.raises(AgentError, match="out of bounds"):
        dialect.launch(asked)


def test_an_inner_loop_averages(dialect: JsonLinesDialect, kws: Path, order: LaunchOrder) -> None:
    dialect.deploy({order.variant_digest: kws})
    single = dialect.launch(order).samples[0]
    launch = dialect.launch(replace(order, inner_loop=5, threads=2))
    latency = launch.samples[0]
    assert set(latency.count) == {5}
    assert launch.inferences == 5 * len(latency)
    assert 0.2 < statistics.median(latency.value) / statistics.median(single.value) < 5


def test_samples_over_the_line_come_as_a_file(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, workdir: Path
) -> None:
    dialect.deploy({order.variant_digest: kws})
    dose = replace(SHORT, min_inferences=40_000, max_seconds=120.0)
    launch = dialect.launch(replace(order, dose=dose))
    assert len(launch.samples[0]) >= 40_000
    assert all(map(math.isfinite, launch.samples[0].value))
    assert not list((workdir / "out").iterdir())


def test_memory_and_bare_launches(dialect: JsonLinesDialect, kws: Path, order: LaunchOrder) -> None:
    dialect.deploy({order.variant_digest: kws})
    found = {}
    for kind in ("memory", "bare"):
        launch = dialect.launch(replace(order, kind=kind))
        values = {one.series: one.value[0] for one in launch.samples}
        assert set(values) - {"pilot"} == {"peak_rss", "pss", "private_dirty"}
        assert ("pilot" in values) is (kind == "memory")
        assert 10e6 < values["pss"] <= values["peak_rss"] < 300e6
        found[kind] = values["peak_rss"]
        assert (launch.delegation.delegate == "xnnpack") == (kind == "memory")
    assert found["memory"] > found["bare"]


def test_nothing_is_sent_twice(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, workdir: Path
) -> None:
    dialect.deploy({order.variant_digest: kws})
    blob = workdir / "blobs" / order.variant_digest
    before = blob.stat().st_ino
    assert blob.stat().st_mode & 0o777 == 0o600
    assert workdir.stat().st_mode & 0o777 == 0o700
    dialect.close()
    dialect.deploy({order.variant_digest: kws})
    assert blob.stat().st_ino == before
    assert not list((workdir / "incoming").iterdir())
    assert len(list((workdir / "agents").iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("coral/model_invoking_error.tflite", ModelRejected, "fake-op-double"),
        ("coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite", Unsupported, "Edge TPU"),
    ],
)
def test_a_file_the_runtime_refuses(  # noqa: PLR0917 - fixtures
    dialect: JsonLinesDialect,
    shared_data: Path,
    order: LaunchOrder,
    name: str,
    error: type,
    reason: str,
) -> None:
    model = shared_data / name
    dialect.deploy({digest_of(model): model})
    with pytest.raises(error, match=reason):
        dialect.launch(replace(order, variant_digest=digest_of(model)))


@pytest.mark.parametrize("kind", ["truncated", "random", "empty"])
def test_a_file_that_is_none(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, tmp_path: Path, kind: str
) -> None:
    data = {
        "truncated": kws.read_bytes()[:20_000],
        "random": np.random.default_rng(0).bytes(5_000),
        "empty": b"",
    }
    model = tmp_path / "broken.tflite"
    model.write_bytes(data[kind])
    dialect.deploy({digest_of(model): model, order.variant_digest: kws})
    # A truncated flatbuffer may also crash the process. Both are reported, and the next launch works.
    with pytest.raises((ModelRejected, Crashed)):
        dialect.launch(replace(order, variant_digest=digest_of(model)))
    assert dialect.launch(order).samples


@pytest.mark.parametrize(
    "change",
    [
        {"target": "edgetpu"},
        {"delegate": "libx.so"},
        {"kind": "accuracy"},
        {"runtime": "none_such"},
    ],
)
def test_an_order_that_is_not_served(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, change: dict[str, str]
) -> None:
    dialect.deploy({order.variant_digest: kws})
    with pytest.raises(Unsupported, match="bench-one"):
        dialect.launch(replace(order, **change))


def test_a_launch_of_a_file_that_was_not_sent(
    dialect: JsonLinesDialect, order: LaunchOrder
) -> None:
    with pytest.raises(TransferFailed, match="not on this device"):
        dialect.launch(order)


def test_a_file_damaged_on_the_device(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, workdir: Path
) -> None:
    dialect.deploy({order.variant_digest: kws})
    blob = workdir / "blobs" / order.variant_digest
    blob.write_bytes(blob.read_bytes()[:-1] + b"\xff")
    with pytest.raises(TransferFailed, match="damaged"):
        dialect.launch(order)
    assert not blob.exists()
    dialect.deploy({order.variant_digest: kws})
    assert dialect.launch(order).samples


def _while_launching(
    dialect: JsonLinesDialect, order: LaunchOrder, workdir: Path, number: signal.Signals
) -> None:
    """Send a signal to the launch while `dialect.launch` waits for it."""

    def strike() -> None:
        os.kill(wait_until(lambda: launch_processes(workdir))[0], number)

    thread = threading.Thread(target=strike)
    thread.start()
    try:
        dialect.launch(order)
    finally:
        thread.join()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_launch_that_is_killed_is_a_crash_and_the_next_goes_on(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, workdir: Path, number: signal.Signals
) -> None:
    dialect.deploy({order.variant_digest: kws})
    with pytest.raises(Crashed, match=number.name):
        _while_launching(dialect, replace(order, dose=LONG), workdir, number)
    assert dialect.launch(order).samples


def test_a_launch_that_hangs_is_silent_and_the_next_goes_on(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, workdir: Path
) -> None:
    dialect.deploy({order.variant_digest: kws})
    with pytest.raises(AgentSilent, match="deadline of the order"):
        _while_launching(dialect, replace(order, timeout_seconds=2.0), workdir, signal.SIGSTOP)
    assert not launch_processes(workdir)
    assert dialect.launch(order).samples


@pytest.mark.parametrize("kilobytes", [120_000, 400_000])
def test_too_little_memory_is_said(  # noqa: PLR0917 - fixtures
    transport: LocalTransport,
    device: Device,
    kws: Path,
    order: LaunchOrder,
    tmp_path: Path,
    kilobytes: int,
) -> None:
    # With 120 MB of address space the runtime does not import; with 400 MB the model's input does not fit.
    model, digest = kws, order.variant_digest
    if kilobytes > 200_000:
        model = _huge_model(tmp_path / "huge.tflite")
        digest = digest_of(model)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nulimit -v {kilobytes}\nexec "{AgentOptions.of(device).python}" "$@"\n'
    )
    python.chmod(0o755)
    dialect = open_json_lines(transport, opening.with_options(device, python=str(python)))
    dialect.deploy({digest: model})
    with pytest.raises(OutOfMemory):
        dialect.launch(replace(order, variant_digest=digest))
    dialect.close()


def test_the_agent_killed_leaves_no_launch_behind_and_deploy_starts_again(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, workdir: Path
) -> None:
    dialect.deploy({order.variant_digest: kws})

    def strike() -> None:
        child = wait_until(lambda: launch_processes(workdir))[0]
        stat = Path(f"/proc/{child}/stat").read_text()
        os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)

    thread = threading.Thread(target=strike)
    thread.start()
    with pytest.raises(Unreachable, match="bench-one"):
        dialect.launch(replace(order, dose=LONG))
    thread.join()
    wait_until(lambda: not launch_processes(workdir))
    dialect.deploy({order.variant_digest: kws})
    assert dialect.launch(order).samples


def test_infer_gives_every_sample(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, shared_data: Path
) -> None:
    dialect.deploy({order.variant_digest: kws})
    data = np.load(shared_data / "kws" / "features.npz")
    inputs = {"input_1": data["x_int8"][:64]}
    outputs = dialect.infer(order, inputs)
    assert {name: (value.shape, str(value.dtype)) for name, value in outputs.items()} == {
        "Identity": ((64, 12), "int8")
    }
    assert (outputs["Identity"].argmax(axis=1) == data["y"][:64]).mean() > 0.85
    renamed = dialect.infer(order, {"any name": data["x_int8"][:3]})
    assert (renamed["Identity"] == outputs["Identity"][:3]).all()


def test_infer_with_large_arrays(
    dialect: JsonLinesDialect, shared_data: Path, order: LaunchOrder
) -> None:
    model = shared_data / "coral" / "mobilenet_v1_0.25_128_quant.tflite"
    dialect.deploy({digest_of(model): model})
    order = replace(order, variant_digest=digest_of(model))
    images = np.random.default_rng(0).integers(0, 255, (20, 128, 128, 3), dtype=np.uint8)
    (large,) = dialect.infer(order, {"input": images}).values()
    (small,) = dialect.infer(order, {"input": images[:2]}).values()
    assert large.shape == (20, 1001)
    assert (large[:2] == small).all()


@pytest.mark.parametrize(
    "inputs",
    [
        {"input_1": np.zeros((2, 49, 10, 1), np.float32)},
        {"input_1": np.zeros((2, 49, 9, 1), np.int8)},
        {"a": np.zeros((2, 49, 10, 1), np.int8), "b": np.zeros((2, 1), np.int8)},
    ],
)
def test_infer_with_other_inputs_than_the_file_takes(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, inputs: dict[str, np.ndarray]
) -> None:
    dialect.deploy({order.variant_digest: kws})
    with pytest.raises(ModelRejected, match="input"):
        dialect.infer(order, inputs)


@pytest.mark.parametrize("count", [0, 65])
def test_infer_takes_1_to_64(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, count: int
) -> None:
    dialect.deploy({order.variant_digest: kws})
    with pytest.raises(AgentError, match="64"):
        dialect.infer(order, {"input_1": np.zeros((count, 49, 10, 1), np.int8)})


def test_the_second_runtime_is_served(  # noqa: PLR0917 - fixtures
    transport: LocalTransport,
    device: Device,
    second_python: str,
    kws: Path,
    order: LaunchOrder,
    shared_data: Path,
) -> None:
    dialect = open_json_lines(transport, opening.with_options(device, python=second_python))
    dialect.deploy({order.variant_digest: kws})
    (runtime,) = dialect.hello().runtimes
    assert (runtime.name, runtime.version) == ("tflite_runtime", "2.14.0")
    assert runtime.numpy
    assert runtime.numpy.startswith("1.")
    launch = dialect.launch(order)
    assert launch.runtime == "tflite_runtime 2.14.0"
    assert launch.delegation.total_ops == 13
    data = np.load(shared_data / "kws" / "features.npz")
    (output,) = dialect.infer(order, {"input_1": data["x_int8"][:32]}).values()
    assert (output.argmax(axis=1) == data["y"][:32]).mean() > 0.8
    dialect.close()


def test_no_runtime_on_the_device(
    transport: LocalTransport, device: Device, kws: Path, order: LaunchOrder, tmp_path: Path
) -> None:
    venv.create(tmp_path / "bare", symlinks=True)
    python = str(tmp_path / "bare" / "bin" / "python")
    dialect = open_json_lines(transport, opening.with_options(device, python=python))
    dialect.deploy({order.variant_digest: kws})
    assert dialect.hello().runtimes == ()
    with pytest.raises(RuntimeMissing, match="edge-harness setup"):
        dialect.launch(order)
    dialect.close()


def _huge_model(path: Path) -> Path:
    """Write a float .tflite of one operator (ABS) on a vector of 1 GB."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tensors = []
    for name in (b"x", b"y"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.type, tensor.buffer = name, [1, 1 << 28], 0, 0
        tensors.append(tensor)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0], [1]
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.ABS
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0], [1], [operator]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers = [schema.BufferT()]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def test_each_thread_has_a_processor_of_its_own(
    dialect: JsonLinesDialect, kws: Path, order: LaunchOrder, workdir: Path
) -> None:
    usable = sorted(os.sched_getaffinity(0))
    if len(usable) < 2:
        missing("two threads on two processors need two processors")
    first, second = usable[:2]
    dialect.deploy({order.variant_digest: kws})
    dose = replace(SHORT, warmup_seconds=2.0, warmup_max_seconds=10.0)
    seen: list[bool] = []

    def placed() -> bool:
        places = []
        for child in launch_processes(workdir):
            with contextlib.suppress(OSError):
                tasks = Path(f"/proc/{child}/task").iterdir()
                places += [os.sched_getaffinity(int(task.name)) for task in tasks]
        return {first} in places and {second} in places

    watcher = threading.Thread(target=lambda: seen.append(bool(wait_until(placed))))
    watcher.start()
    launch = dialect.launch(replace(order, threads=2, dose=dose, processors=(first, second)))
    watcher.join()
    assert seen == [True]
    assert "unpinned" not in launch.flags
