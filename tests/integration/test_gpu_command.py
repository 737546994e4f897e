"""A plan with a GPU as a user meets it; the GPU is SwiftShader's, the Edge TPU a stand-in, and rows say so."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, missing
from edge_command import edge
from lab.swiftshader import crashing
from shared_data import shared_file
from standins import graphs

QUICK = "[dose]\nlaunches = 2\nwarmup_seconds = 0.02\nwarmup_max_seconds = 0.2\nmin_seconds = 0.02\nmin_inferences = 10\n"


@pytest.fixture(name="bench")
def _bench(tmp_path: Path, standin_delegate: Path, software_gpu: Mapping[str, str]) -> Path:
    """A folder with a farm of one device with a CPU, a GPU and an Edge TPU, none of them what they are called."""
    profiles = tmp_path / "config" / "edge-harness" / "profiles"
    profiles.mkdir(parents=True)
    (profiles / "bench.toml").write_text(
        'title = "stand-ins"\narch = "any"\ntargets = ["xnnpack", "gpu", "edgetpu"]\n'
        '[[accelerators]]\nname = "stand-in"\ntarget = "edgetpu"\n'
        f'external_delegate = "{standin_delegate}"\noptions = {{ work_us = "100" }}\n'
    )
    common = f'address = "local:"\npython = "{sys.executable}"\nworkdir = "{tmp_path / "work"}"\n'
    (tmp_path / "farm.toml").write_text(
        f'[device.bench]\nprofile = "bench"\n{common}'
        'delegate_options = { gpu = { precision = "float32" } }\n'
        f'[device.board]\nprofile = "raspberry_pi_5"\n{common}'
    )
    return tmp_path


def rows(
    bench: Path, models: Mapping[str, tuple[Path, list[str]]], code: int, **more: str
) -> dict[tuple[str, str], dict[str, Any]]:
    path, device = bench / "plan.toml", more.pop("device", "bench")
    path.write_text(
        "".join(
            f'[[model]]\nname = "{name}"\npath = "{file}"\nrecipes = {json.dumps(recipes)}\n'
            for name, (file, recipes) in models.items()
        )
        + f'[run]\ndevices = ["{device}"]\n{QUICK}'
    )
    found = edge(bench, "run", path, "--json", code=code, **more)["rows"]
    return {(row["model"], row["recipe"]): row for row in found}


def test_one_plan_for_the_processor_a_gpu_and_an_edge_tpu(bench: Path) -> None:
    pair = "mobilenet_v1_0.25_128_quant"
    digits = ROOT / "harness" / "demo" / "data" / "digits.tflite"
    found = rows(
        bench,
        {
            "digits": (digits, ["float32", "float16@gpu", "float32@gpu"]),
            "net": (shared_file(f"coral/{pair}_edgetpu.tflite"), ["as_is@edgetpu"]),
        },
        code=0,
    )
    half = found["digits", "float16@gpu"]
    assert (half["status"], half["verdict"], half["delegate"]) == ("ok", "VALID", "gpu")
    assert half["delegated_ops"] == half["total_ops"] > 9
    assert "emulated" in half["flags"]
    name, kind, driver, settings = half["adapter"].split(", ")
    assert name.startswith("SwiftShader Device")
    assert (kind, driver.split()[0], settings) == ("CPU", "SwiftShader", "float32")
    assert half["latency_p50_ms"] > found["digits", "float32"]["latency_p50_ms"]
    assert half["load_ms"] > half["latency_p50_ms"]
    assert found["digits", "float32@gpu"]["total_ops"] == 9
    assert "emulated" not in found["digits", "float32"]["flags"]
    assert found["digits", "float32"]["delegate"] == "xnnpack"
    tpu = found["net", "as_is@edgetpu"]
    assert (tpu["status"], tpu["delegated_ops"], tpu["total_ops"]) == ("ok", 1, 1)
    shown = edge(bench, "show", "latest", code=0, COLUMNS="250")
    ratio = f"{half['delegated_ops']}/{half['total_ops']}"
    assert ratio in shown
    assert f"float16@gpu on bench: ok, VALID: {ratio} operators on gpu; evidence: is_fully" in shown
    assert "as_is@edgetpu on bench: ok, VALID: 1/1 operator on edgetpu" in shown


def test_what_a_gpu_cannot_run_is_told_before_it_is_sent(bench: Path) -> None:
    words = {"part": ["ADD", "TANH", "LOG_SOFTMAX"], "none": ["LOG_SOFTMAX", "LOG_SOFTMAX"]}
    models = {name: graphs.chain(bench / f"{name}.tflite", chain) for name, chain in words.items()}
    plan = {name: (path, ["as_is@gpu"]) for name, path in models.items()}
    plan |= {"lstm": (shared_file("coral/keras_lstm_mnist_ptq.tflite"), ["as_is@gpu"])}
    found = {name: row for (name, _), row in rows(bench, plan, code=1).items()}
    part = found["part"]
    assert (part["status"], part["verdict"], part["delegated_ops"]) == ("partial", "INVALID", 2)
    assert part["reason"] == "1 of 3 operators stayed on the CPU: LOG_SOFTMAX"
    assert part["latency_p50_ms"] is not None
    for name, reason in (
        ("none", "no operator of the model runs on a GPU: LOG_SOFTMAX x2"),
        ("lstm", "loads no model with state"),
    ):
        assert (found[name]["status"], found[name]["latency_p50_ms"]) == ("not_built", None)
        assert reason in found[name]["reason"]


def test_a_gpu_that_is_absent_or_crashes_leaves_the_others_alone(bench: Path) -> None:
    model = graphs.chain(bench / "adds.tflite", ["ADD"] * 6)
    plan = {"adds": (model, ["float32@gpu", "float32"])}
    absent = str(bench / "absent.json")
    found = rows(bench, plan, code=1, VK_ICD_FILENAMES=absent, VK_DRIVER_FILES=absent)
    gone = found["adds", "float32@gpu"]
    assert (gone["status"], gone["verdict"]) == ("unsupported", None)
    assert "no Vulkan driver of this machine shows one" in gone["reason"]
    assert gone["latency_p50_ms"] is None
    assert found["adds", "float32"]["status"] == "ok"
    if shutil.which("gcc") is None:
        missing("gcc builds the driver of this test: apt-get install gcc libc6-dev")
    found = rows(bench, plan, code=1, **crashing(bench))
    crashed = found["adds", "float32@gpu"]
    assert (crashed["status"], crashed["latency_p50_ms"]) == ("crashed", None)
    assert "SIGABRT" in crashed["reason"]
    assert found["adds", "float32"]["status"] == "ok"


def test_a_device_without_the_target_is_not_asked(bench: Path) -> None:
    model = graphs.chain(bench / "adds.tflite", ["ADD"])
    found = rows(bench, {"adds": (model, ["float32@gpu"])}, code=1, device="board")
    assert found["adds", "float32@gpu"]["reason"] == (
        "profile raspberry_pi_5 has no target gpu (it has: xnnpack)"
    )
    assert found["adds", "float32@gpu"]["status"] == "unsupported"
