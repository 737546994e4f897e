"""The verdict: when a number is the accelerator's, and when there is none."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from harness.devices.delegation import (
    KINDS,
    DelegationVerdict,
    GraphNode,
    Timing,
    graph_walk,
    is_software,
    judge,
    kinds,
)
from harness.optimize import reference
from harness.types import (
    Accept,
    Adapter,
    Agreement,
    Cell,
    Compiled,
    Delegation,
    Launch,
    Tensor,
    Uncompiled,
    Variant,
)

FULL = Delegation(
    delegate="npu", delegated_ops=20, total_ops=20, partitions=1, evidence="graph walk"
)
HALF = replace(FULL, delegated_ops=10, left=("CONV_2D",))
COMPILED = {"edgetpu-custom-op": 1}
EDGE = replace(FULL, delegate="edgetpu", delegated_ops=1, total_ops=1)


def cell(target: str = "npu", accept: float | None = None, **variant: Any) -> Cell:
    known: dict[str, Any] = {"operators": {"CONV_2D": 20}, **variant}
    return Cell(
        model="m",
        recipe=f"int8@{target}",
        target=target,
        device="d",
        threads=1,
        variant=Variant(
            model="m",
            recipe=f"int8@{target}",
            target=target,
            path=Path("m.tflite"),
            digest="0" * 64,
            size_bytes=1,
            **known,
        ),
        accept=Accept(min_delegated=accept),
    )


def launch(told: Delegation, *flags: str, kind: Any = "timed") -> Launch:
    return Launch(
        id="l",
        cell_id="c",
        kind=kind,
        block=0,
        position=0,
        seed=0,
        runtime="r 1",
        delegation=told,
        wall_ns=1,
        flags=flags,
    )


def verdict(of: Cell, *told: Delegation, timing: Timing | None = None) -> DelegationVerdict:
    found = judge(of, [launch(one) for one in told], timing)
    assert found is not None
    return found


def test_all_operators_with_evidence_are_valid() -> None:
    found = verdict(cell(), FULL, FULL)
    assert (found.validity, found.status) == ("VALID", "ok")
    assert found.reason == "20/20 operators on npu; evidence: graph walk"


@pytest.mark.parametrize("target", ["npu", "xnnpack"])
def test_outputs_that_drifted_are_suspect(target: str) -> None:
    good = launch(replace(FULL, delegate=target))
    wrong = replace(good, flags=("outputs_drifted",))
    found = judge(cell(target), [good, wrong, replace(good, kind="memory")])
    assert found is not None
    assert (found.validity, found.status) == ("SUSPECT", "ok")
    assert found.reason.startswith("outputs drifted in 1 of 2 timed launches")


@pytest.mark.parametrize(
    ("told", "status", "words"),
    [
        (replace(FULL, delegated_ops=0, partitions=0), "fell_back", "no operator ran on npu"),
        (replace(FULL, delegate="none", delegated_ops=None), "fell_back", "no operator ran on npu"),
        (replace(FULL, delegate="xnnpack"), "fell_back", "which is the CPU"),
        (replace(FULL, evidence=""), "invalid", "there is no evidence that npu ran it"),
        (replace(FULL, evidence="log: Created delegate for NPU"), "invalid", "is not evidence"),
        (replace(FULL, delegated_ops=21), "invalid", "more than the file has"),
        (replace(FULL, total_ops=40, delegated_ops=40), "invalid", "the file has 20"),
        (replace(FULL, fully=False), "invalid", "says not all, the graph walk 20 of 20"),
        (replace(HALF, fully=True), "invalid", "says all, the graph walk 10 of 20"),
        (replace(FULL, left=("CONV_2D",)), "invalid", "CONV_2D left"),
        (replace(FULL, clock="run"), "invalid", "asynchronous enqueue"),
        (HALF, "partial", "10 of 20 operators stayed on the CPU: CONV_2D"),
        (
            replace(FULL, delegated_ops=None, total_ops=None, fully=False),
            "partial",
            "not which",
        ),
        (
            replace(FULL, delegated_ops=None, total_ops=None),
            "partial",
            "it is unknown whether operators stayed on the CPU",
        ),
    ],
)
def test_every_lie_is_invalid(told: Delegation, status: str, words: str) -> None:
    alone = verdict(cell(), told)
    assert (alone.validity, alone.status) == ("INVALID", status)
    assert words in alone.reason
    # One bad launch among good ones is enough, wherever it is.
    for mixed in ((FULL, told, FULL), (told, FULL), (FULL, FULL, told)):
        assert verdict(cell(), *mixed).validity == "INVALID"


def test_a_share_is_judged_when_reading() -> None:
    assert verdict(cell(accept=0.5), HALF).validity == "VALID"
    assert verdict(cell(accept=0.5), HALF).status == "partial"
    low = verdict(cell(accept=0.6), HALF)
    assert low.validity == "INVALID"
    assert "50% delegated, under min_delegated = 0.6" in low.reason


def test_the_adapter_that_only_says_fully_is_enough() -> None:
    told = Delegation(delegate="gpu", fully=True, clock="run+read", evidence="is_fully_accelerated")
    assert verdict(cell("gpu"), told).validity == "VALID"


@pytest.mark.parametrize(
    ("own", "validity"), [(1.0, "VALID"), (9.7, "SUSPECT"), (10.0, "SUSPECT"), (20.0, "VALID")]
)
def test_a_time_like_the_cpus_is_suspect(own: float, validity: str) -> None:
    found = verdict(cell(), FULL, timing=Timing(own=own, cpu=10.0))
    assert (found.validity, found.status) == (validity, "ok")


@pytest.mark.parametrize(
    ("own", "handed", "status"),
    [
        (0.1e6, 400_000, "invalid"),
        (1.9e6, 400_000, "invalid"),
        (2.1e6, 400_000, "ok"),
        (30e6, 400_000, "ok"),
        (6.9e6, 5_000_000, "invalid"),
        # Handing over nearly all of it: nothing can be told from the time.
        (6.9e6, 5_100_000, "ok"),
        # But what is shorter than either covers neither.
        (4.9e6, 9_000_000, "invalid"),
        (0.1e6, 9_000_000, "invalid"),
    ],
)
def test_a_time_without_the_reading_is_no_time(own: float, handed: int, status: str) -> None:
    told = replace(FULL, clock="run+read", handed_ns=handed, whole_ns=10_000_000)
    later = replace(told, handed_ns=2 * handed, whole_ns=12_000_000)
    found = verdict(cell(), told, later, timing=Timing(own=own, cpu=None))
    assert found.status == status
    if status == "invalid":
        assert "ms and a whole inference 10 ms" in found.reason


def test_an_npus_compiled_file_counts_the_originals_too() -> None:
    made = Compiled(
        compiler="ai-edge-litert 2.3.0 aot, qualcomm SM8750",
        mapped_ops=153,
        total_ops=157,
        left={"GATHER_ND": ""},
        source="partition statistics",
    )
    of = cell("npu", operators={"DISPATCH_OP": 5, "GATHER_ND": 4}, compiled=made)
    told = replace(FULL, delegated_ops=5, total_ops=9, partitions=5, left=("GATHER_ND",) * 4)
    found = verdict(of, told)
    assert (found.delegation.delegated_ops, found.delegation.total_ops) == (153, 157)
    assert (found.validity, found.status) == ("INVALID", "partial")
    more = verdict(of, replace(told, delegated_ops=6))
    assert (more.validity, more.status) == ("INVALID", "invalid")


def test_a_compiled_file_that_answers_otherwise_is_doubted() -> None:
    before = Uncompiled(path=Path("m.tflite"), digest="1" * 64)
    told = [launch(FULL)]
    close = Agreement(samples=8, top1=None, relative_error=0.02)
    far = replace(close, relative_error=0.4)
    for agreement, validity in ((None, "VALID"), (close, "VALID"), (far, "SUSPECT")):
        found = judge(cell(uncompiled=before), told, agreement=agreement)
        assert found is not None
        assert (found.validity, found.status) == (validity, "ok")
    assert found is not None
    assert "on the file it was compiled from: relative error 0.4" in found.reason


@pytest.mark.parametrize("error", [0.51, 3.17, 999.0, math.inf])
def test_values_far_off_are_doubted_though_the_classes_agree(error: float) -> None:
    wild = Agreement(samples=48, top1=1.0, relative_error=error)
    found = judge(cell(), [launch(FULL)], agreement=wild)
    assert found is not None
    assert found.validity == "SUSPECT"
    assert "though the classes agree" in found.reason
    honest = judge(cell(), [launch(FULL)], agreement=replace(wild, relative_error=0.3))
    assert honest is None or honest.validity == "VALID"


@pytest.mark.parametrize(
    ("metric", "direction"), [("mse", "lower"), ("mae", None), ("top1", "higher")]
)
def test_a_model_that_is_scored_by_an_error_is_compared_by_value(
    metric: str, direction: Any
) -> None:
    """An output of shape (1, 4) looks like classes; of a regression, the largest value says little."""
    (output,) = (Tensor(name="y", shape=(1, 4), dtype="float32"),)
    made = replace(cell().variant, outputs=(output,), metric=metric, metric_direction=direction)
    host = {"y": np.arange(32, dtype=np.float32).reshape(8, 4)}
    found = reference.compare({"y": host["y"] * 1000}, host, made)
    assert (found.top1 is None) == (metric != "top1")
    assert found.relative_error == pytest.approx(999)


def test_a_time_too_good_is_suspect() -> None:
    found = verdict(cell(), FULL, timing=Timing(own=1.0, cpu=1000.0))
    assert found.validity == "SUSPECT"
    assert "1,000 times faster" in found.reason
    # Held against one until the outputs were read, it is no enqueueing: a large GPU beside one thread.
    told = replace(FULL, clock="run+read", handed_ns=9, whole_ns=10)
    assert verdict(cell(), told, timing=Timing(own=11.0, cpu=11_000.0)).validity == "VALID"
    found = verdict(cell(), told, FULL, timing=Timing(own=11.0, cpu=11_000.0))
    assert found.validity == "SUSPECT"


def test_a_compiled_file_counts_the_originals_where_the_log_is() -> None:
    made = Compiled(
        compiler="Edge TPU Compiler version 16.0",
        mapped_ops=58,
        total_ops=60,
        left={"ARG_MAX": "Operation not supported"},
        source="m_edgetpu.log",
    )
    of = cell("edgetpu", operators={**COMPILED, "ARG_MAX": 2}, compiled=made)
    told = replace(EDGE, total_ops=3, left=("ARG_MAX", "ARG_MAX"))
    found = verdict(of, told)
    assert (found.delegation.delegated_ops, found.delegation.total_ops) == (58, 60)
    assert "2 of 60 operators stayed on the CPU: ARG_MAX (Operation not supported)" in found.reason
    assert "vendor's log" in kinds(found.delegation.evidence)
    assert found.status == "partial"


def test_without_the_log_only_names_are_known() -> None:
    of = cell("edgetpu", accept=0.5, operators={**COMPILED, "ARG_MAX": 2})
    found = verdict(of, replace(EDGE, total_ops=3, left=("ARG_MAX", "ARG_MAX")))
    assert (found.validity, found.status) == ("INVALID", "partial")
    assert (found.delegation.delegated_ops, found.delegation.total_ops) == (None, None)
    assert "ARG_MAX" in found.reason
    assert verdict(cell("edgetpu", operators=COMPILED), EDGE).validity == "VALID"


def test_a_compiler_that_mapped_nothing_or_contradicts_its_file() -> None:
    nothing = Compiled(compiler="c", mapped_ops=0, total_ops=20, source="log")
    found = verdict(cell("edgetpu", operators=COMPILED, compiled=nothing), EDGE)
    assert (found.validity, found.status) == ("INVALID", "fell_back")
    lie = Compiled(compiler="c", mapped_ops=20, total_ops=20, contradiction="the file has 3 left")
    found = verdict(cell("edgetpu", operators=COMPILED, compiled=lie), EDGE)
    assert (found.validity, found.status) == ("INVALID", "invalid")
    assert verdict(cell("edgetpu"), EDGE).status == "fell_back"


def test_the_cpu_is_asked_only_for_xnnpack() -> None:
    with_it = Delegation(
        delegate="xnnpack", delegated_ops=11, total_ops=12, evidence="graph walk", left=("SOFTMAX",)
    )
    without = replace(with_it, delegate="none", delegated_ops=0)
    assert verdict(cell("xnnpack"), with_it).validity == "VALID"
    assert verdict(cell("xnnpack"), without).validity == "VALID"
    promised = judge(cell("xnnpack"), [launch(without, "no_xnnpack")])
    assert promised is not None
    assert (promised.validity, promised.status) == ("SUSPECT", "ok")


def test_a_launch_without_a_model_says_nothing() -> None:
    assert judge(cell(), [launch(Delegation(delegate="none"), kind="bare")]) is None


def test_kinds_of_evidence() -> None:
    assert kinds("graph walk on this host; log: Created delegate") == ("graph walk",)
    assert kinds("; ".join(KINDS)) == KINDS
    assert kinds("no graph walk was made") == ()


@pytest.mark.parametrize(
    ("adapter", "software"),
    [
        (Adapter(name="SwiftShader Device (Subzero)", type="CPU / Software"), True),
        (Adapter(name="llvmpipe (LLVM 15.0.6, 256 bits)"), True),
        (Adapter(name="NVIDIA H100 80GB HBM3", type="discrete GPU", driver="Vulkan"), False),
        (Adapter(name="Mali-G76", type="integrated GPU"), False),
    ],
)
def test_software_adapters(adapter: Adapter, software: bool) -> None:
    assert is_software(adapter) == software


def test_the_walk_stops_at_a_partitions_edge() -> None:
    chain = [GraphNode(op=f"OP_{i}", inputs=(i,), outputs=(i + 1,)) for i in range(6)]
    taken = GraphNode(op="DELEGATE", inputs=(2,), outputs=(4,))
    found = graph_walk([*chain, taken], delegate="npu")
    assert (found.delegated_ops, found.total_ops, found.partitions) == (2, 6, 1)
    assert found.left == ("OP_0", "OP_1", "OP_4", "OP_5")
    assert graph_walk(chain).delegate == "none"
