"""Launches through a delegate library: the stand-in of tests/standins on a real agent and real compiled files."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from agent_lab import ROOT, digest_of
from shared_data import is_made
from standins import graphs

from harness.devices import opening
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect, open_json_lines
from harness.devices.transports.local import LocalTransport
from harness.errors import Crashed, FellBack, ModelRejected, Unsupported
from harness.tflite import flatbuffer
from harness.tflite.compiled import EDGETPU
from harness.types import Device, Launch, LaunchOrder

pytest_plugins = ("agent_fixtures",)


@pytest.fixture
def coral(shared_data: Path) -> Path:
    return shared_data / "coral"


@pytest.fixture(name="external")
def _external(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "agents" / "python_tflite"))
    for name in ("external", "graph", "sysfs", "wire"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    import external  # type: ignore[import-not-found,unused-ignore]

    return external


def operators_of_pose(model: Path) -> Counter[str]:
    """The compiled file's operators, as counted without a runtime."""
    operators = Counter(flatbuffer.read(model).operators)
    if not is_made(model):
        assert (sum(operators.values()), operators["RESHAPE"]) == (60, 11)
    return operators


def run(
    dialect: JsonLinesDialect, order: LaunchOrder, model: Path, library: Path | str, **options: Any
) -> Launch:
    dialect.deploy({digest_of(model): model})
    known = {"target": "edgetpu"} | {k: v for k, v in options.items() if k in ("target", "kind")}
    given = {key: str(value) for key, value in options.items() if key not in known}
    return dialect.launch(
        replace(
            order,
            variant_digest=digest_of(model),
            delegate=str(library),
            delegate_options=given,
            **known,
        )
    )


def test_a_compiled_file_runs_through_its_delegate(
    dialect: JsonLinesDialect, order: LaunchOrder, coral: Path, standin_delegate: Path
) -> None:
    model = coral / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    launch = run(dialect, order, model, standin_delegate, device="usb:1", work_us=300)
    delegation = launch.delegation
    assert (delegation.delegate, delegation.delegated_ops, delegation.total_ops) == (
        "edgetpu",
        1,
        1,
    )
    assert (delegation.partitions, delegation.left, delegation.evidence) == (1, (), "graph walk")
    assert delegation.library == f"{standin_delegate} (stand-in of the tests, no Edge TPU)"
    (latency,) = [part for part in launch.samples if part.series == "latency"]
    assert min(latency.value) >= 300e3
    assert launch.first_ns is not None
    memory = run(dialect, order, model, standin_delegate, kind="memory")
    assert memory.delegation == delegation


def test_what_xnnpack_takes_of_the_rest_is_not_the_accelerators(
    dialect: JsonLinesDialect, order: LaunchOrder, coral: Path, standin_delegate: Path
) -> None:
    model = coral / "movenet_single_pose_lightning_ptq_edgetpu.tflite"
    delegation = run(dialect, order, model, standin_delegate).delegation
    # With XNNPACK's partitions the list of nodes shows seven DELEGATE entries.
    operators = operators_of_pose(model)
    assert (delegation.delegated_ops, delegation.total_ops, delegation.partitions) == (
        1,
        sum(operators.values()),
        1,
    )
    assert Counter(delegation.left) == operators - Counter({EDGETPU: 1})
    assert Counter(delegation.left)["RESHAPE"] == operators["RESHAPE"] > 0
    assert len(delegation.left) == delegation.total_ops - 1


@pytest.mark.parametrize("case", [("add", 6), ("half", 3), ("all", 7)], ids=str)
def test_any_delegate_is_counted(
    dialect: JsonLinesDialect,
    order: LaunchOrder,
    standin_delegate: Path,
    tmp_path: Path,
    case: tuple[str, int],
) -> None:
    take, taken = case
    model = graphs.chain(tmp_path / "chain.tflite", ["ADD"] * 6 + ["TANH"])
    delegation = run(dialect, order, model, standin_delegate, target="npu", take=take).delegation
    assert (delegation.delegate, delegation.delegated_ops, delegation.total_ops) == (
        "npu",
        taken,
        7,
    )
    assert len(delegation.left) == 7 - taken


def test_a_delegate_that_takes_nothing_is_no_launch(
    dialect: JsonLinesDialect,
    order: LaunchOrder,
    coral: Path,
    standin_delegate: Path,
    tmp_path: Path,
) -> None:
    for model in (
        graphs.chain(tmp_path / "chain.tflite", ["ADD"] * 6),
        coral / "mobilenet_v1_0.25_128_quant.tflite",
        coral / "mobilenet_v1_0.25_128_quant_edgetpu.tflite",
    ):
        with pytest.raises(FellBack, match="was loaded and took none of the .* operators"):
            run(dialect, order, model, standin_delegate, take="none")
    with pytest.raises(FellBack):  # not compiled: nothing for an Edge TPU in it
        run(dialect, order, coral / "mobilenet_v1_0.25_128_quant.tflite", standin_delegate)


@pytest.mark.parametrize("failure", ["device not found", "empty"])
def test_a_library_that_refuses_says_why_or_is_diagnosed(
    dialect: JsonLinesDialect, order: LaunchOrder, kws: Path, standin_delegate: Path, failure: str
) -> None:
    reason = "it gives no reason" if failure == "empty" else failure
    with pytest.raises(Unsupported) as caught:
        run(dialect, order, kws, standin_delegate, fail=failure)
    assert f"{reason}; no Edge TPU was found" in str(caught.value)
    with pytest.raises(Unsupported) as caught:
        run(dialect, order, kws, standin_delegate, target="npu", fail=failure)
    assert str(caught.value).endswith(f"for npu is not usable here: {reason}")


def test_a_library_that_cannot_be_loaded(
    dialect: JsonLinesDialect, order: LaunchOrder, kws: Path, standin_delegate: Path, tmp_path: Path
) -> None:
    other = bytearray(standin_delegate.read_bytes())
    other[18:20] = (0xF7).to_bytes(2, "little")
    foreign, text = tmp_path / "libforeign.so", tmp_path / "libtext.so"
    foreign.write_bytes(other)
    text.write_text("#!/bin/sh\necho this is no library at all\n")
    for library, reason in (
        ("libno_such_delegate.so.1", "libno_such_delegate.so.1: cannot open shared object"),
        (foreign, "it is not a library of this machine's architecture (x86_64)"),
        (text, "libtext.so: "),
        ("libc.so.6", "undefined symbol: tflite_plugin_create_delegate"),
    ):
        with pytest.raises(Unsupported) as caught:
            run(dialect, order, kws, library)
        assert reason in str(caught.value).replace("aarch64", "x86_64")
        assert f"the delegate {library} for edgetpu is not usable here" in str(caught.value)


def test_a_library_that_writes_to_the_answers_pipe_fails_only_its_launch(
    dialect: JsonLinesDialect, order: LaunchOrder, standin_delegate: Path, tmp_path: Path
) -> None:
    model = graphs.chain(tmp_path / "chain.tflite", ["ADD"])
    beside: list[dict[str, Any]] = [{"junk": "junk"}, {"junk": "{}"}, {"bytes": 9}]
    alone = (
        *("[1]", "{}", '{"delegation": NaN}', '{"delegation": null, "x": 1e999}', "[" * 9999),
        *('{"error": "text"}', '{"error": {"kind": 3, "reason": []}}'),
        '{"delegation": 3, "window": 4}',
    )
    for options in [*beside, *({"junk": text, "exits": 1} for text in alone)]:
        with pytest.raises(Crashed, match="the launch's answer cannot be read"):
            run(dialect, order, model, standin_delegate, target="npu", take="add", **options)
    with pytest.raises(Crashed, match="answer is over 1 MiB"):
        run(dialect, order, model, standin_delegate, target="npu", take="add", junk_mib=2)
    # The same agent goes on: nothing was connected again.
    assert run(dialect, order, model, standin_delegate, target="npu", take="add").samples


def test_a_library_that_closes_the_answers_pipe_is_named_for_it(
    dialect: JsonLinesDialect, order: LaunchOrder, standin_delegate: Path, tmp_path: Path
) -> None:
    model = graphs.chain(tmp_path / "chain.tflite", ["ADD"])
    with pytest.raises(Crashed, match="closed its answer's pipe .* the agent ended it") as caught:
        run(dialect, order, model, standin_delegate, target="npu", take="add", closes=1)
    assert "out-of-memory" not in str(caught.value)


@pytest.mark.parametrize("options", [{"fail": "crash"}, {"crash_at": 1}, {"crash_at": 30}])
def test_a_delegate_that_segfaults_takes_only_its_launch(
    dialect: JsonLinesDialect,
    order: LaunchOrder,
    coral: Path,
    standin_delegate: Path,
    options: dict[str, Any],
) -> None:
    model = coral / "keras_lstm_mnist_ptq_edgetpu.tflite"
    with pytest.raises(Crashed, match="SIGSEGV") as caught:
        run(dialect, order, model, standin_delegate, device="pci:0", **options)
    assert "stand-in delegate: device=pci:0" in str(caught.value)
    assert run(dialect, order, model, standin_delegate).delegation.delegated_ops == 1


def test_a_stick_pulled_in_the_middle_of_a_launch(
    dialect: JsonLinesDialect,
    order: LaunchOrder,
    coral: Path,
    standin_delegate: Path,
    tmp_path: Path,
) -> None:
    from threading import Timer

    model, stick = coral / "keras_lstm_mnist_ptq_edgetpu.tflite", tmp_path / "stick"
    stick.touch()
    long = replace(order, dose=replace(order.dose, min_seconds=20.0, max_seconds=20.0))
    run(dialect, order, model, standin_delegate, pulled=stick)
    timer = Timer(1.0, stick.unlink)
    timer.start()
    with pytest.raises(Crashed, match="USB transfer error 2"):
        run(dialect, long, model, standin_delegate, pulled=stick)
    timer.join()
    assert run(dialect, order, model, standin_delegate).inferences > 0


def test_a_compiled_file_where_no_delegate_is(
    dialect: JsonLinesDialect, order: LaunchOrder, coral: Path
) -> None:
    model = coral / "mobilenet_v1_0.25_128_quant_edgetpu.tflite"
    dialect.deploy({digest_of(model): model})
    order = replace(order, variant_digest=digest_of(model))
    with pytest.raises(Unsupported, match="compiled for an Edge TPU and no Edge TPU delegate"):
        dialect.launch(order)
    with pytest.raises(Unsupported, match="target edgetpu .* no delegate for it is named"):
        dialect.launch(replace(order, target="edgetpu"))


def test_a_damaged_file_is_the_runtimes_business(
    dialect: JsonLinesDialect, order: LaunchOrder, standin_delegate: Path, tmp_path: Path
) -> None:
    damaged = tmp_path / "damaged.tflite"
    damaged.write_bytes(b"\0\0\0\0TFL3" + bytes(100))
    with pytest.raises(ModelRejected):
        run(dialect, order, damaged, standin_delegate)


def stick(root: Path, identity: str, speed: str, *, node: bool = True) -> None:
    folder = root / "sys/bus/usb/devices/1-2"
    folder.mkdir(parents=True)
    vendor, product = identity.split(":")
    facts = {"idVendor": vendor, "idProduct": product, "speed": speed, "busnum": "1", "devnum": "7"}
    for name, value in facts.items():
        (folder / name).write_text(value + "\n")
    if node:
        (root / "dev/bus/usb/001").mkdir(parents=True)
        (root / "dev/bus/usb/001/007").touch()


def test_a_machine_without_an_edge_tpu(external: ModuleType, tmp_path: Path) -> None:
    stick(tmp_path, "046d:c31c", "12")
    (only,) = external.diagnosis(str(tmp_path))
    assert only == "no Edge TPU was found: no USB 1a6e:089a or 18d1:9302, no /dev/apex_0"


def test_sticks_before_and_after_their_firmware(external: ModuleType, tmp_path: Path) -> None:
    stick(tmp_path / "a", "1a6e:089a", "480")
    first, then = external.diagnosis(str(tmp_path / "a"))
    assert first == "USB 1a6e:089a (its firmware is not loaded yet) at 480 Mbit/s"
    assert "too old or too new" in then
    stick(tmp_path / "b", "18d1:9302", "5000")
    assert external.diagnosis(str(tmp_path / "b"))[0].endswith("at 5000 Mbit/s")
    stick(tmp_path / "c", "18d1:9302", "480")
    assert "a USB 2 link: slow" in external.diagnosis(str(tmp_path / "c"))[0]


def test_a_stick_without_rights_and_a_module(external: ModuleType, tmp_path: Path) -> None:
    stick(tmp_path, "18d1:9302", "5000", node=False)
    (tmp_path / "dev").mkdir()
    (tmp_path / "dev/apex_0").touch()
    usb, pcie, _ = external.diagnosis(str(tmp_path))
    assert f"this user may not use {tmp_path}/dev/bus/usb/001/007: add the udev rule" in usb
    assert pcie == "PCIe /dev/apex_0"


@pytest.fixture(name="old")
def _old(
    transport: LocalTransport, device: Device, second_python: str
) -> Iterator[JsonLinesDialect]:
    opened = open_json_lines(transport, opening.with_options(device, python=second_python))
    yield opened
    opened.close()


def test_an_older_runtime_takes_the_same_libraries(
    old: JsonLinesDialect, order: LaunchOrder, coral: Path, standin_delegate: Path
) -> None:
    model = coral / "movenet_single_pose_lightning_ptq_edgetpu.tflite"
    launch = run(old, order, model, standin_delegate)
    assert launch.runtime == "tflite_runtime 2.14.0"
    delegation = launch.delegation
    total = sum(operators_of_pose(model).values())
    assert (delegation.delegated_ops, delegation.total_ops, delegation.partitions) == (1, total, 1)
