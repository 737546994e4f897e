"""Parts of the agent that need a board, a clock or a model that this machine does not have."""

from __future__ import annotations

import itertools
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from agent_lab import SHORT, agent_module, digest_of

from harness.devices import opening
from harness.devices.dialects.python_agent import packing
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect, open_json_lines
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.local import LocalTransport
from harness.errors import RuntimeMissing
from harness.types import Device, Dose, LaunchOrder

pytest_plugins = ("agent_fixtures",)
pytestmark = pytest.mark.usefixtures("own_cache")


def _tree(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def _in_the_zip(expression: str, *arguments: str) -> Any:
    archive, _ = packing.agent_zip()
    opened = "import sys, json; sys.path.insert(0, sys.argv[1])"
    script = f"{opened}; import facts, sysfs; print(json.dumps({expression}))"
    argv = [sys.executable, "-c", script, str(archive), *arguments]
    return json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)


PI_5 = {
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/device-tree/serial-number": "a1b2c3d4e5f60718\0",
    "proc/cpuinfo": "processor\t: 0\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n",
    "proc/meminfo": "MemTotal:        8245408 kB\nMemFree: 1 kB\n",
    "proc/loadavg": "0.25 0.10 0.05 1/200 999\n",
    "proc/sys/kernel/random/boot_id": "11111111-2222-3333-4444-555555555555\n",
    "etc/machine-id": "f" * 32 + "\n",
    "sys/class/thermal/thermal_zone0/type": "gpu-thermal\n",
    "sys/class/thermal/thermal_zone0/temp": "99000\n",
    "sys/class/thermal/thermal_zone1/type": "cpu-thermal\n",
    "sys/class/thermal/thermal_zone1/temp": "48312\n",
    "sys/class/thermal/thermal_zone2/type": "soc-thermal\n",
    "sys/class/thermal/thermal_zone2/temp": "-274000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "1500000\n",
    "sys/devices/system/cpu/cpu1/cpufreq/scaling_cur_freq": "2400000\n",
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor": "ondemand\n",
    "sys/class/hwmon/hwmon0/name": "ina219\n",
    "sys/bus/usb/devices/1-1/idVendor": "1a6e\n",
    "sys/bus/usb/devices/1-1/idProduct": "089a\n",
    "usr/lib/aarch64-linux-gnu/libedgetpu.so.1": "",
    "usr/bin/vcgencmd": "#!/bin/sh\necho throttled=0x50005\n",
    # The processors of this test among those that this process may use.
    **{
        f"sys/devices/system/cpu/cpu{cpu}/cpufreq/stats/time_in_state": "600000 2089\n2400000 50\n"
        for cpu in os.sched_getaffinity(0)
    },
    **{
        f"sys/devices/system/cpu/cpu{cpu}/cpufreq/scaling_max_freq": "2200000\n"
        for cpu in os.sched_getaffinity(0)
    },
    # A fan cools and slows nothing.
    "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
    "sys/class/thermal/cooling_device0/cur_state": "4\n",
    "sys/class/thermal/cooling_device1/type": "cpufreq-cpu0\n",
    "sys/class/thermal/cooling_device1/cur_state": "2\n",
    "sys/class/thermal/cooling_device2/type": "intel_powerclamp\n",
    "sys/class/thermal/cooling_device2/cur_state": "-1\n",
}


def test_facts_of_a_board(tmp_path: Path) -> None:
    root = _tree(tmp_path, PI_5)
    (root / "usr/bin/vcgencmd").chmod(0o755)
    facts = _in_the_zip("facts.gather(sys.argv[2])", str(root))
    assert facts["board"] == "Raspberry Pi 5 Model B Rev 1.0"
    assert facts["chip"] == "brcm,bcm2712"
    assert facts["memory_total_bytes"] == 8245408 * 1024
    assert facts["temperature_c"] == 48.312
    assert facts["governor"] == "ondemand"
    assert facts["accelerators"] == ["edgetpu-library", "edgetpu-usb"]
    for path in ("usr/lib/aarch64-linux-gnu/libvulkan.so.1", "dev/dri/renderD128"):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).touch()
    found = _in_the_zip("facts.gather(sys.argv[2])", str(root))["accelerators"]
    assert found == [*facts["accelerators"], "vulkan-library", "gpu"]
    assert facts["sensors"] == ["thermal_zone", "cpufreq", "vcgencmd", "hwmon:ina219"]
    assert facts["extra"]["usb"] == ["1a6e:089a"]
    assert facts["extra"]["throttled"] == 0x50005
    assert _in_the_zip("sysfs.covariates(sys.argv[2])", str(root)) == {
        "temperature_c": 48.312,
        "frequency_mhz": 2400.0,
        "governor": "ondemand",
        "throttled": 0x50005,
        "max_mhz": 2200.0,
        "cooling": 2,
        "load_1m": 0.25,
        "power_mw": None,
        "seconds_at_mhz": {"600": 20.89, "2400": 0.5},
    }
    # Cards cloned from one image share their machine id; boards do not share their serial number.
    (root / "proc/device-tree/serial-number").write_text("another\0")
    assert _in_the_zip("facts.identity(sys.argv[2])", str(root)) != facts["identity"]
    (root / "etc/machine-id").write_text("0" * 32)
    (root / "proc/device-tree/serial-number").write_text("a1b2c3d4e5f60718\0")
    assert _in_the_zip("facts.identity(sys.argv[2])", str(root)) == facts["identity"]


def test_facts_of_a_bare_tree_are_null_and_broken_files_too(tmp_path: Path) -> None:
    facts = _in_the_zip("facts.gather(sys.argv[2])", str(tmp_path))
    assert facts["identity"]
    assert [facts[key] for key in ("board", "chip", "governor", "temperature_c")] == [None] * 4
    assert facts["sensors"] == []
    garbage = dict.fromkeys(PI_5, "\xff garbage")
    root = _tree(tmp_path / "garbage", garbage)
    (root / "usr/bin/vcgencmd").chmod(0o755)
    covariates = _in_the_zip("sysfs.covariates(sys.argv[2])", str(root))
    assert covariates["temperature_c"] is covariates["throttled"] is covariates["load_1m"] is None
    assert covariates["max_mhz"] is covariates["cooling"] is None


@pytest.mark.parametrize(
    "files",
    [
        {"proc/vmstat": "pgfault 3\noom_kill 2\n"},
        {
            "proc/self/cgroup": "0::/user.slice\n",
            "sys/fs/cgroup/user.slice/memory.events": "oom 1\noom_kill 2\n",
        },
        {
            "proc/self/cgroup": "4:memory:/box\n",
            "sys/fs/cgroup/memory/box/memory.oom_control": "under_oom 0\noom_kill 2\n",
        },
    ],
)
def test_kills_for_memory_are_counted(tmp_path: Path, files: dict[str, str]) -> None:
    assert agent_module("sysfs").oom_kills(str(_tree(tmp_path, files))) == 2


def _sleeping(*milliseconds: float) -> Any:
    times = itertools.chain(milliseconds, itertools.repeat(milliseconds[-1]))
    return lambda: time.sleep(next(times) / 1000)


def test_warm_up_ends_steady_after_its_minimum() -> None:
    dose = asdict(Dose(warmup_seconds=0.05))
    warmup, median_ns = agent_module("timing").warm_up(_sleeping(2.0), dose)
    assert warmup["inferences"] >= 3
    assert warmup["seconds"] >= 0.05
    assert median_ns > 2_000_000


def test_the_cap_counts_from_the_minimum_and_flags() -> None:
    ever_slower = itertools.count(1)
    values = {"n": 0}

    def invoke() -> None:
        values["n"] = next(ever_slower)
        stop = time.perf_counter_ns() + 2_000 * (1 + values["n"] // 20) ** 2
        while time.perf_counter_ns() < stop:
            pass

    dose = asdict(Dose(warmup_seconds=0.02, warmup_max_inferences=60))
    warmup, _ = agent_module("timing").warm_up(invoke, dose)
    assert not warmup["steady"]
    assert warmup["inferences"] >= 60
    assert warmup["seconds"] > 0.02


@pytest.mark.parametrize(
    ("times", "steady"), [((60.0,), True), ((180.0, 160.0, 80.0, 50.0), False)]
)
def test_a_slow_model_is_judged_by_halves(times: tuple[float, ...], steady: bool) -> None:
    dose = asdict(Dose(warmup_seconds=0.1, warmup_max_seconds=0.5))
    warmup, _ = agent_module("timing").warm_up(_sleeping(*times), dose)
    assert warmup["inferences"] < 40
    assert warmup["steady"] is steady


def test_measuring_ends_by_both_minima_or_the_maximum() -> None:
    timing = agent_module("timing")
    dose = asdict(Dose(min_inferences=10, min_seconds=0.05, max_seconds=5))
    found = timing.measure(_sleeping(1.0), dose, 1, 1_000_000, 1)
    assert len(found["taken"]) >= 10
    assert found["at"][-1] - found["at"][0] >= 0.04 * 1e9
    assert found["cpu_share"] < 0.5
    dose = asdict(Dose(min_inferences=1000, min_seconds=0.05, max_seconds=0.1))
    assert len(timing.measure(_sleeping(5.0), dose, 1, 5_000_000, 1)["taken"]) <= 21
    # Storage sized by a wrong expectation grows.
    dose = asdict(Dose(min_inferences=10, min_seconds=0.05, max_seconds=5))
    assert len(timing.measure(lambda: None, dose, 1, 10**9, 1)["taken"]) > 1000


def test_drift_is_flagged() -> None:
    slower = itertools.count(1)
    dose = asdict(Dose(min_inferences=30, min_seconds=0.0))
    found = agent_module("timing").measure(
        lambda: time.sleep(next(slower) / 10_000), dose, 1, 10**6, 1
    )
    assert found["drift"] > 0.5
    assert "drift" in found["flags"]


def test_tflite_runtime_with_numpy_2_names_the_mend(  # noqa: PLR0917 - fixtures
    transport: LocalTransport,
    device: Device,
    second_python: str,
    kws: Path,
    order: LaunchOrder,
    tmp_path: Path,
) -> None:
    (package,) = Path(second_python).parents[1].glob("lib/python*/site-packages/tflite_runtime")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "tflite_runtime").symlink_to(package)
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\nPYTHONPATH={tmp_path}/path exec "{AgentOptions.of(device).python}" "$@"\n'
    )
    python.chmod(0o755)
    dialect = open_json_lines(transport, opening.with_options(device, python=str(python)))
    dialect.deploy({order.variant_digest: kws})
    assert [one.name for one in dialect.hello().runtimes][:2] == [
        "ai_edge_litert",
        "tflite_runtime",
    ]
    with pytest.raises(RuntimeMissing, match="numpy<2"):
        dialect.launch(replace(order, runtime="tflite_runtime"))
    dialect.close()


def _two_inputs(path: Path) -> Path:
    """Write a .tflite that subtracts its second input from its first (both float 1x3), with a signature."""
    import flatbuffers
    from ai_edge_litert import schema_py_generated as schema

    tensors = []
    for name in (b"first:0", b"second:0", b"difference:0"):
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.shapeSignature = name, [1, 3], [-1, 3]
        tensors.append(tensor)
    operator = schema.OperatorT()
    operator.inputs, operator.outputs = [0, 1], [2]
    operator.builtinOptionsType, operator.builtinOptions = (
        schema.BuiltinOptions.SubOptions,
        schema.SubOptionsT(),
    )
    code = schema.OperatorCodeT()
    code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.SUB
    graph = schema.SubGraphT()
    graph.tensors, graph.inputs, graph.outputs, graph.operators = tensors, [0, 1], [2], [operator]
    signature = schema.SignatureDefT()
    signature.signatureKey = b"serving_default"
    signature.inputs = [_named(schema, b"a", 0), _named(schema, b"b", 1)]
    signature.outputs = [_named(schema, b"c", 2)]
    model = schema.ModelT()
    model.version, model.operatorCodes, model.subgraphs = 3, [code], [graph]
    model.buffers, model.signatureDefs = [schema.BufferT()], [signature]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _named(schema: ModuleType, name: bytes, index: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, index
    return entry


@pytest.mark.parametrize("names", [("first:0", "second:0"), ("a", "b")])
def test_several_inputs_are_matched_by_name(
    dialect: JsonLinesDialect, order: LaunchOrder, tmp_path: Path, names: tuple[str, str]
) -> None:
    model = _two_inputs(tmp_path / "two.tflite")
    order = replace(order, variant_digest=digest_of(model))
    dialect.deploy({order.variant_digest: model})
    first = np.arange(12, dtype=np.float32).reshape(4, 3)
    second = np.ones((4, 3), np.float32)
    # In another order: the names decide.
    given = {names[1]: second, names[0]: first}
    outputs = dialect.infer(order, given)
    assert list(outputs) == ["difference:0"]
    assert (outputs["difference:0"] == first - second).all()
    assert dialect.launch(replace(order, dose=replace(SHORT, min_inferences=50))).samples


def test_a_traceback_from_the_zip_has_the_line_numbers_of_the_sources() -> None:
    archive, _ = packing.agent_zip()
    script = "import sys; sys.path.insert(0, sys.argv[1]); import digests; digests.of_file(None)"
    argv = [sys.executable, "-c", script, str(archive)]
    stderr = subprocess.run(argv, check=False, capture_output=True, text=True).stderr
    source = packing.assets.agents() / "python_tflite" / "digests.py"
    place = re.search(r'\.zip/digests\.py", line (\d+), in of_file', stderr)
    assert place is not None, stderr
    assert "isfile(path" in source.read_text().splitlines()[int(place[1]) - 1]


def test_the_agent_needs_nothing_of_its_folder(tmp_path: Path) -> None:
    """A module in the working directory with one of our names must not be imported."""
    (tmp_path / "wire.py").write_text("raise SystemExit('the wrong wire')")
    archive, digest = packing.agent_zip()
    target = tmp_path / "w" / "agents" / f"{digest}.zip"
    target.parent.mkdir(parents=True)
    target.write_bytes(archive.read_bytes())
    request = {"v": 1, "id": 1, "verb": "bye"}
    reply = subprocess.run(
        [sys.executable, str(target)],
        input=json.dumps(request).encode() + b"\n",
        capture_output=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ},
    )
    assert json.loads(reply.stdout) == {"id": 1, "event": "result"}
