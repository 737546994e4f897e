"""What the vendor's tool says of its delegate, in the words of its source, judged as any other evidence."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.devices.delegation import judge
from harness.devices.delegation.benchmark_log import read
from harness.types import Cell, Delegation, Launch, Variant

CREATED = "INFO: Created TensorFlow Lite delegate for GPU.\nINFO: Created 1 GPU delegate kernels.\n"
TIMES = "Inference timings in us: Init: 870557, First inference: 130565, Inference (avg): 119375\n"
WHOLE = "Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.\n"
PART = (
    "Explicitly applied GPU delegate, and the model graph will be partially executed by the delegate w/ "
    "2 delegate kernels.\n"
)
NOTHING = "Though NNAPI delegate is explicitly applied, the model graph will not be executed by the delegate.\n"
REPLACED = "Replacing {} out of 65 node(s) with delegate ({}) node, yielding 2 partitions for the whole graph.\n"
GPU = REPLACED.format(64, "TfLiteGpuDelegateV2")
CPU = REPLACED.format(65, "TfLiteXNNPackDelegate")
LOGCAT = "05-30 15:16:45.362  3380  3380 I tflite  : "
UNSUPPORTED = (
    "ERROR: Following operations are not supported by GPU delegate:\n"
    "GATHER_ND: Operation is not supported.\nCAST: Input type INT32 to INT64.\n"
    "63 operations will run on the GPU, and the remaining 2 operations will run on the CPU.\n"
)


def verdict(log: str) -> tuple[str, str]:
    variant = Variant(
        model="m",
        recipe="r",
        target="gpu",
        path=Path("m"),
        digest="0" * 64,
        size_bytes=1,
        operators={"CONV_2D": 65},
    )
    cell = Cell(model="m", recipe="r", target="gpu", device="d", threads=1, variant=variant)
    launch = Launch(
        id="l",
        cell_id="c",
        kind="timed",
        block=0,
        position=0,
        seed=0,
        runtime="benchmark_model",
        delegation=read(log, "gpu"),
        wall_ns=1,
    )
    found = judge(cell, [launch])
    assert found is not None
    return found.validity, found.status


@pytest.mark.parametrize(
    ("log", "word", "status"),
    [
        (CREATED + WHOLE + TIMES, "VALID", "ok"),
        (CREATED + REPLACED.format(65, "LITERT_CL") + WHOLE + TIMES, "VALID", "ok"),
        ("".join(LOGCAT + line + "\n" for line in (CREATED + WHOLE).splitlines()), "VALID", "ok"),
        (CREATED + PART + TIMES, "INVALID", "partial"),
        (CREATED + GPU + PART + TIMES, "INVALID", "partial"),
        (CREATED + UNSUPPORTED + PART + TIMES, "INVALID", "partial"),
        (CREATED + NOTHING + CPU + TIMES, "INVALID", "fell_back"),
        (REPLACED.format(65, "TfLiteNnapiDelegate") + NOTHING + TIMES, "INVALID", "fell_back"),
        (CREATED + GPU + WHOLE + TIMES, "INVALID", "invalid"),
        (CREATED + TIMES, "INVALID", "invalid"),
        (CPU + TIMES, "INVALID", "invalid"),
        (CREATED + "Replacing 31 node(s) with delegate (X) node.\n" + TIMES, "INVALID", "partial"),
        ("Disallowed CPU fallback detected.\n", "INVALID", "partial"),
        ("", "INVALID", "invalid"),
    ],
)
def test_a_log_is_judged_by_what_it_says_of_the_graph(log: str, word: str, status: str) -> None:
    assert verdict(log) == (word, status)


def test_counts_and_names_are_read_where_they_are() -> None:
    assert read(GPU + PART, "gpu") == Delegation(
        delegate="gpu",
        delegated_ops=64,
        total_ops=65,
        partitions=2,
        evidence=f"benchmark_model log: {PART.removesuffix('.' + chr(10))}",
        fully=False,
    )
    found = read(UNSUPPORTED + PART, "gpu")
    assert (found.delegated_ops, found.total_ops, found.left) == (63, 65, ("CAST", "GATHER_ND"))
    old = read("Replacing 31 node(s) with delegate (TfLiteGpuDelegateV2) node.\n" + WHOLE, "gpu")
    assert (old.delegated_ops, old.total_ops, old.fully) == (None, None, True)


@given(st.text(alphabet="Replacing 0123 out of node(s) with delegate\n:Explicitly", max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    read(text, "gpu")
