"""The vendor's profile log: the documented forms are read, and no input breaks the parser."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from harness.analysis.layers.tool_log import parse

TABS = (
    "\t             [node type]\t          [start]\t  [first]\t [avg ms]\t     [%]\t  [cdf%]\t"
    "  [mem KB]\t[times called]\t[Name]\n"
)

OLD = (
    "STARTING!\n"
    "Graph: [model.tflite]\n"
    "INFO: Created TensorFlow Lite XNNPACK delegate for CPU.\n"
    "count=50 first=32891 curr=33978 min=32641 max=34005 avg=33209.4 std=450\n"
    "\n"
    "Inference timings in us: Init: 855, First inference: 49060, Warmup (avg): 34825.1, "
    "Inference (avg): 33209.4\n"
    "Profiling Info for Benchmark Initialization:\n"
    "============================== Run Order ==============================\n"
    + TABS
    + "\t         AllocateTensors\t            0.000\t    0.085\t    0.085\t100.000%\t100.000%\t"
    "     0.000\t        1\tAllocateTensors/0\n"
    "\n"
    "Operator-wise Profiling Info for Regular Benchmark Runs:\n"
    "============================== Run Order ==============================\n"
    + TABS
    + "\t                 CONV_2D\t            0.000\t   20.161\t   20.067\t 60.480%\t 60.480%\t"
    "     0.000\t        1\t[a/Relu;a/conv with blanks]:0\n"
    "\t       DEPTHWISE_CONV_2D\t           20.158\t   13.100\t   13.115\t 39.520%\t100.000%\t"
    "     0.000\t        1\t[Identity]:1\n"
    "\n"
    "============================== Top by Computation Time ==============================\n"
    + TABS
    + "\t                 CONV_2D\t            0.000\t   20.161\t   20.067\t 60.480%\t 60.480%\t"
    "     0.000\t        1\t[a/Relu;a/conv with blanks]:0\n"
    "\n"
    "Number of nodes executed: 2\n"
    "============================== Summary by node type ==============================\n"
    "\t             [Node type]\t  [count]\t  [avg ms]\t    [avg %]\t    [cdf %]\t  [mem KB]\t"
    "[times called]\n"
    "\t                 CONV_2D\t        1\t    20.067\t    60.480%\t    60.480%\t     0.000\t"
    "        1\n"
    "\n"
    "Timings (microseconds): count=50 first=33261 curr=33300 min=33000 max=34000 avg=33182 std=99\n"
    "Memory (bytes): count=0\n"
    "2 nodes observed\n"
)

PHONE = """\
05-30 13:04:39.021 25935 25935 I tflite  : Operator-wise Profiling Info for Regular Benchmark Runs:
05-30 13:04:39.021 25935 25935 I tflite  : ============================== Run Order ==============================
05-30 13:04:39.021 25935 25935 I tflite  :           [node type]  [first]  [avg ms]     [%]    [cdf%]  [mem KB] [times called] [Name]
05-30 13:04:39.021 25935 25935 I tflite  :   TfLiteNnapiDelegate    3.826     4.011  62.037%   62.037%     0.000         1     []:64
05-30 13:04:39.021 25935 25935 I tflite  : RESIZE_NEAREST_NEIGHBOR  0.052     0.058   0.899%   62.936%     0.000         1     [x y]:38
05-30 13:04:39.021 25935 25935 I tflite  :
05-30 13:04:39.021 25935 25935 I tflite  : ============================== Top by Computation Time ==============================
05-30 13:04:39.021 25935 25935 I tflite  :   TfLiteNnapiDelegate    3.826     4.011  62.037%   62.037%     0.000         1     []:64
"""

XNNPACK = """\
Operator-wise Profiling Info for Regular Benchmark Runs:
============================== Run Order ==============================
\t[node type]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]
\tTfLiteXNNPackDelegate\t4.0\t3.9\t95.0%\t95.0%\t0.000\t1\t[out]:64
\tSOFTMAX\t0.2\t0.2\t5.0%\t100.0%\t0.000\t1\t[Identity]:63

Delegate internal:
============================== Run Order ==============================
\t[node type]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]
\tConvolution (NHWC, F32) IGEMM\t3.0\t2.9\t75.0%\t75.0%\t0.000\t1\tDelegate/Convolution (NHWC, F32) IGEMM:0
\tFully Connected (NC, F32) GEMM\t1.0\t1.0\t25.0%\t100.0%\t0.000\t1\tDelegate/Fully Connected (NC, F32) GEMM:1
"""


def test_reads_the_run_order_of_the_regular_runs_only() -> None:
    found = parse(OLD)

    assert [(one.type, one.name, one.node) for one in found.operators] == [
        ("CONV_2D", "a/Relu;a/conv with blanks", 0),
        ("DEPTHWISE_CONV_2D", "Identity", 1),
    ]
    assert [one.avg_ns for one in found.operators] == pytest.approx([20.067e6, 13.115e6])
    assert found.operators[0].first_ns == pytest.approx(20.161e6)
    assert found.inference_avg_ns == pytest.approx(33209.4e3)


def test_reads_a_phones_log_split_by_blanks_and_without_a_start() -> None:
    found = parse(PHONE)

    assert [(one.type, one.name, one.node) for one in found.operators] == [
        ("TfLiteNnapiDelegate", "", 64),
        ("RESIZE_NEAREST_NEIGHBOR", "x y", 38),
    ]
    assert found.operators[1].avg_ns == pytest.approx(58e3)
    assert found.inference_avg_ns is None


def test_a_delegates_own_operators_are_listed_apart() -> None:
    found = parse(XNNPACK)

    assert [one.type for one in found.operators if not one.inside] == [
        "TfLiteXNNPackDelegate",
        "SOFTMAX",
    ]
    assert [one.type for one in found.operators if one.inside] == [
        "Convolution (NHWC, F32) IGEMM",
        "Fully Connected (NC, F32) GEMM",
    ]


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("count=1 curr=1058871", None),
        ("count=50 first=1 curr=1 min=1 max=1 avg=880688 std=12426", 880688e3),
        ("count=50 avg=1.21e+06 std=3", 1.21e9),
        (
            "Average inference timings in us: Warmup: 83235, Init: 38467, Inference: 79760.9",
            79760.9e3,
        ),
        ("Inference timings in us: Init: 1, Inference (avg): nan", None),
        ("Memory (bytes): count=0 avg=7", None),
    ],
)
def test_finds_the_average_inference(line: str, wanted: float | None) -> None:
    assert parse(line).inference_avg_ns == (None if wanted is None else pytest.approx(wanted))


@pytest.mark.parametrize("average", ["nan", "inf", "-1.0", "1e999", "0x10", ""])
def test_a_line_with_an_invalid_time_is_no_operator(average: str) -> None:
    found = parse(XNNPACK.replace("\t3.9\t", f"\t{average}\t")).operators

    assert "TfLiteXNNPackDelegate" not in [one.type for one in found]
    assert "SOFTMAX" in [one.type for one in found]


_PIECES = st.sampled_from(
    [
        *OLD.splitlines(),
        *PHONE.splitlines(),
        *XNNPACK.splitlines(),
        "",
        "\t\t\t",
        "[node type]\t[avg ms]",
    ]
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(_PIECES, st.text(max_size=80)), max_size=60))
@example(
    [
        "=== Run Order ===",
        "[node type] [avg ms]",
        "A 1e400",
        "B 9" + "9" * 5000,
        "C 1 [x]:" + "9" * 5000,
    ]
)
def test_no_log_breaks_the_parser(lines: list[str]) -> None:
    found = parse("\n".join(lines))

    for one in found.operators:
        assert one.type
        assert math.isfinite(one.avg_ns)
        assert one.avg_ns >= 0
    assert found.inference_avg_ns is None or found.inference_avg_ns > 0


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_a_damaged_log_gives_fewer_but_never_other_numbers(data: st.DataObject) -> None:
    lines = OLD.splitlines()
    kept = [line for line in lines if data.draw(st.booleans())]

    found = parse("\n".join(kept))

    assert {round(one.avg_ns) for one in found.operators} <= {20067000, 13115000, 85000}
