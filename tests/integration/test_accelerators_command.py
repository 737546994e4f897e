"""A plan with accelerators as a user meets it: real compiled files, stand-ins for what is on no machine here."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from edge_command import edge
from shared_data import is_made, shared_file
from standins import compiler, graphs

from harness.tflite import flatbuffer

QUICK = "[dose]\nlaunches = 2\nwarmup_seconds = 0.02\nmin_seconds = 0.02\nmin_inferences = 20\n"
HOWS = {
    "edgetpu": {"work_us": "100"},
    "npu": {"take": "add", "work_us": "50"},
    "takes-none": {"take": "none"},
    "takes-half": {"take": "half"},
    "crashes": {"take": "add", "crash_at": "15"},
    "refuses": {"fail": "empty"},
    "garbage": {"take": "all"},
    "does-nothing": {"lie": "nothing"},
}


@pytest.fixture(name="bench")
def _bench(tmp_path: Path, standin_delegate: Path) -> Path:
    """A folder with a farm of one device, whose profile has a target for every way of the stand-in."""
    profiles = tmp_path / "config" / "edge-harness" / "profiles"
    profiles.mkdir(parents=True)
    targets = ["xnnpack", *HOWS, "absent", "nowhere"]
    entries = [
        f'[[accelerators]]\nname = "stand-in"\ntarget = "{target}"\n'
        f'external_delegate = "{standin_delegate}"\n'
        f"options = {{ {', '.join(f'{key} = {json.dumps(word)}' for key, word in how.items())} }}\n"
        for target, how in HOWS.items()
    ]
    entries.append(
        '[[accelerators]]\nname = "none"\ntarget = "absent"\nexternal_delegate = "libabsent.so.1"\n'
    )
    (profiles / "bench.toml").write_text(
        f'title = "stand-ins"\narch = "any"\ntargets = {json.dumps(targets)}\n\n'
        + "\n".join(entries)
    )
    (tmp_path / "farm.toml").write_text(
        f'[device.bench]\nprofile = "bench"\naddress = "local:"\npython = "{sys.executable}"\n'
        f'workdir = "{tmp_path / "work"}"\n'
        'delegate_options = { edgetpu = { device = "usb:0" } }\n'
    )
    graphs.chain(tmp_path / "adds.tflite", ["ADD"] * 6)
    graphs.chain(tmp_path / "mixed.tflite", ["ADD"] * 6 + ["TANH"])
    return tmp_path


def plan(bench: Path, models: Mapping[str, tuple[Path, list[str]]], extra: str = "") -> Path:
    path = bench / "plan.toml"
    path.write_text(
        "".join(
            f'[[model]]\nname = "{name}"\npath = "{file}"\nrecipes = {json.dumps(recipes)}\n'
            for name, (file, recipes) in models.items()
        )
        + f'[run]\ndevices = ["bench"]\n{QUICK}{extra}'
    )
    return path


def by_name(rows: list[dict[str, Any]]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["model"], row["recipe"]): row for row in rows}


def test_one_plan_says_of_every_row_what_ran_where(bench: Path) -> None:
    written = plan(
        bench,
        {
            "net": (shared_file("coral/mobilenet_v1_0.25_128_quant.tflite"), ["as_is"]),
            "net-tpu": (shared_file("coral/mobilenet_v1_0.25_128_quant_edgetpu.tflite"), ["as_is"]),
            "pose-tpu": (
                shared_file("coral/movenet_single_pose_lightning_ptq_edgetpu.tflite"),
                ["as_is"],
            ),
            "adds": (bench / "adds.tflite", ["float32", "float32@npu"]),
            "mixed": (bench / "mixed.tflite", ["float32@npu"]),
        },
    )
    rows = by_name(edge(bench, "run", written, "--json", code=0)["rows"])

    def told(model: str, recipe: str = "as_is") -> tuple[Any, ...]:
        row = rows[model, recipe]
        return row["status"], row["verdict"], row["delegated_ops"], row["total_ops"]

    assert told("net") == ("ok", "VALID", 29, 31)
    assert told("net-tpu") == ("ok", "VALID", 1, 1)
    assert told("adds", "float32@npu") == ("ok", "VALID", 6, 6)
    assert told("mixed", "float32@npu") == ("partial", "INVALID", 6, 7)
    assert told("pose-tpu") == ("partial", "INVALID", None, None)
    assert all(row["latency_p50_ms"] is not None for row in rows.values())
    # A stand-in's rows say so themselves.
    assert "(stand-in of the tests, no Edge TPU)" in rows["net-tpu", "as_is"]["evidence"]
    assert "(stand-in of the tests, no Edge TPU)" in rows["mixed", "float32@npu"]["evidence"]
    # The delegate says that it works that long; what was timed is its work.
    assert rows["net-tpu", "as_is"]["latency_p50_ms"] >= 0.1
    assert rows["mixed", "float32@npu"]["reason"] == "1 of 7 operators stayed on the CPU: TANH"
    pose = shared_file("coral/movenet_single_pose_lightning_ptq_edgetpu.tflite")
    reshapes = flatbuffer.read(pose).operators["RESHAPE"]
    assert reshapes == 11 or is_made(pose)
    assert f"RESHAPE x{reshapes}" in rows["pose-tpu", "as_is"]["reason"]
    shown = edge(bench, "show", "latest", code=0, COLUMNS="250")
    assert "6/7" in shown
    assert "net-tpu as_is on bench: ok, VALID: 1/1 operator on edgetpu; evidence: graph" in shown
    assert "adds float32 on bench: ok, VALID: xnnpack was made on the CPU, 6/6" in shown
    best = edge(bench, "pick", "latest", "--minimize", "latency_p50_ms", "--json", code=0)
    out = {row["model"] for row in best["rows"] if not row["qualifies"]}
    assert out == {"mixed", "pose-tpu"}
    more = ["pick", "latest", "--minimize", "latency_p50_ms", "--min-delegated", "0.8", "--json"]
    out = {row["model"] for row in edge(bench, *more, code=0)["rows"] if not row["qualifies"]}
    assert out == {"pose-tpu"}


def test_every_lie_ends_without_a_number_and_the_others_go_on(bench: Path) -> None:
    pair = "mobilenet_v1_0.25_128_quant"
    lying = bench / "lying_edgetpu.tflite"
    lying.write_bytes(shared_file(f"coral/{pair}_edgetpu.tflite").read_bytes())
    lying.with_suffix(".log").write_text(
        "Edge TPU Compiler version 16.0.384591198\n"
        "CONV_2D     15     Mapped to Edge TPU\nSOFTMAX     1     Operation not supported\n"
    )
    nothing = compiler.install(bench / "bin", "nothing")
    contradicting = compiler.install(bench / "bin2", "contradict")
    targets = ["takes-none", "crashes", "absent", "nowhere", "npu"]
    written = plan(
        bench,
        {
            "adds": (bench / "adds.tflite", [f"as_is@{target}" for target in targets]),
            "mixed": (
                bench / "mixed.tflite",
                ["as_is@takes-half", "float32@edgetpu", "as_is@garbage"],
            ),
            "plain": (
                shared_file(f"coral/{pair}.tflite"),
                [
                    *("as_is@edgetpu", f'edgetpu(compiler="{nothing}")'),
                    *(f'edgetpu(compiler="{contradicting}")', "as_is@refuses"),
                ],
            ),
            "lying": (lying, ["as_is"]),
            "compiled": (
                shared_file(f"coral/{pair}_edgetpu.tflite"),
                ["as_is@xnnpack", "as_is@edgetpu", "as_is@does-nothing"],
            ),
        },
    )
    rows = by_name(edge(bench, "run", written, "--json", code=1)["rows"])
    statuses = {
        ("adds", "as_is@takes-none"): ("fell_back", "took none of the 6 operators"),
        ("adds", "as_is@crashes"): ("crashed", "SIGSEGV"),
        ("adds", "as_is@absent"): ("unsupported", "libabsent.so.1: cannot open shared object"),
        ("adds", "as_is@nowhere"): ("unsupported", "no delegate for it is named"),
        ("mixed", "as_is@takes-half"): ("partial", "4 of 7 operators stayed on the CPU: ADD x3"),
        ("mixed", "float32@edgetpu"): ("not_built", "the Edge TPU takes full int8 models"),
        # It took all and computed nonsense.
        ("mixed", "as_is@garbage"): ("inaccurate", "outputs differ from the host's"),
        ("plain", "as_is@edgetpu"): ("fell_back", "took none of the 31 operators"),
        ("plain", f'edgetpu(compiler="{nothing}")'): ("not_built", "mapped no operator"),
        ("plain", f'edgetpu(compiler="{contradicting}")'): (
            "invalid",
            "left on the CPU by the log",
        ),
        ("plain", "as_is@refuses"): ("unsupported", "it gives no reason"),
        ("lying", "as_is"): ("invalid", "1 SOFTMAX left on the CPU by the log, 0 in the file"),
        ("compiled", "as_is@xnnpack"): ("unsupported", "compiled for an Edge TPU and no Edge TPU"),
    }
    for key, (status, words) in statuses.items():
        row = rows[key]
        assert row["status"] == status, (key, row["reason"])
        assert words in row["reason"], (key, row["reason"])
        assert (row["latency_p50_ms"] is None) == (status != "partial")
        # Where nothing was tried there is nothing to judge.
        untried = row["target"] == "xnnpack" or status in {"not_built", "unsupported"}
        assert row["verdict"] == (None if untried else "INVALID")
    assert (rows["adds", "as_is@npu"]["status"], rows["adds", "as_is@npu"]["verdict"]) == (
        "ok",
        "VALID",
    )
    # A file that was given compiled has no reference: its outputs speak for themselves.
    given, lazy = rows["compiled", "as_is@edgetpu"], rows["compiled", "as_is@does-nothing"]
    assert (given["status"], given["verdict"]) == ("ok", "VALID")
    assert (lazy["status"], lazy["verdict"]) == ("ok", "SUSPECT")
    assert "do not depend on the inputs" in lazy["verdict_reason"]
    assert {"outputs_unreferenced", "suspect"} <= set(lazy["flags"])
    assert "outputs_unreferenced" in given["flags"]
    asked = ["pick", "latest", "--minimize", "latency_p50_ms", "--where", "model==compiled"]
    assert edge(bench, *asked, "--json", code=0)["winner"]["recipe"] == "as_is@edgetpu"
    anyway = edge(bench, *asked, "--include-suspect", "--json", code=0)
    assert anyway["winner"]["recipe"] == "as_is@does-nothing"


def test_a_compiled_recipe_counts_the_original_and_says_what_streams(bench: Path) -> None:
    program = compiler.install(bench / "bin", "offchip")
    recipe = f'edgetpu(compiler="{program}")'
    original = shared_file("coral/mobilenet_v1_0.25_128_quant.tflite")
    written = plan(bench, {"net": (original, ["as_is", recipe])}, "[accept]\nmin_delegated = 0.9\n")
    rows = by_name(edge(bench, "run", written, "--json", code=0)["rows"])
    row = rows["net", recipe]
    assert (row["delegated_ops"], row["total_ops"], row["status"]) == (30, 31, "partial")
    # The stand-in computes nothing, and the host knows what the file was compiled from.
    assert row["verdict"] == "SUSPECT"
    assert "differ from the host's on the file it was compiled from" in row["verdict_reason"]
    assert "off_chip" in row["flags"]
    assert "Edge TPU Compiler 16.0.384591198-standin" in row["evidence"]
    assert "SOFTMAX (Operation is otherwise supported" in row["reason"]


def test_layers_asks_the_accelerator_too(bench: Path) -> None:
    written = plan(bench, {"adds": (bench / "adds.tflite", ["as_is@npu"])})
    run = edge(bench, "run", written, "--json", code=0)["run"]
    found = edge(bench, "layers", run, "--launches", "1", "--json", code=0)
    (layers,) = found["layers"]
    # The stand-in works 50 us for each part it is given, whatever is in it.
    assert layers["whole_ns"] >= 50e3


def test_a_file_compiled_for_an_npu_needs_what_loads_it(
    bench: Path, qualcomm_libraries: Path
) -> None:
    step = f'aot(vendor="qualcomm", soc="SM8750", libraries="{qualcomm_libraries}")'
    net = shared_file("coral/mobilenet_v1_0.25_128_quant.tflite")
    models = {"net": (net, [f"{step}@garbage", step, f"{step}@xnnpack", "as_is"])}
    rows = by_name(edge(bench, "run", plan(bench, models), "--json", code=1)["rows"])
    taken, alone, cpu = (rows["net", recipe] for recipe in models["net"][1][:3])
    # The stand-in takes the operator that Qualcomm's compiler made; what counts is the original file.
    assert (taken["delegated_ops"], taken["total_ops"]) == (31, 31)
    # It does nothing, and is held against the file that was compiled, on the host.
    assert (taken["status"], taken["verdict"]) == ("ok", "SUSPECT")
    assert "differ from the host's on the file it was compiled from" in taken["verdict_reason"]
    assert "aot, qualcomm SM8750, partition statistics" in taken["evidence"]
    assert "stand-in of the tests" in taken["evidence"]
    assert (alone["status"], alone["latency_p50_ms"]) == ("fell_back", None)
    assert "took none of the 1 operators" in alone["reason"]
    assert (cpu["status"], cpu["latency_p50_ms"]) == ("rejected", None)
    assert "unresolved custom op: DISPATCH_OP" in cpu["reason"]
