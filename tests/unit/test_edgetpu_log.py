"""The Edge TPU compiler's account, in its documented form and checked against real compiled files."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared_data import shared_file

from harness.optimize.targets import edgetpu, edgetpu_log
from harness.tflite import flatbuffer
from harness.tflite.compiled import EDGETPU

STDOUT = """Edge TPU Compiler version 16.0.384591198
Searching for valid delegate with step 10
Try to compile segment with 84 ops
Started a compilation timeout timer of 180 seconds.

Model compiled successfully in 2270 ms.

Input model: m.tflite
Input size: 5.21MiB
Output model: m_edgetpu.tflite
Output size: 6.51MiB
On-chip memory used for caching model parameters: 6.02MiB
On-chip memory remaining for caching model parameters: 1.02MiB
Off-chip memory used for streaming uncached model parameters: 41.75KiB
Number of Edge TPU subgraphs: 1
Total number of operations: 16
Operation log: m_edgetpu.log

Number of operations that will run on Edge TPU: 12
Number of operations that will run on CPU: 4

Operator                       Count      Status

ADD                            10         Mapped to Edge TPU
LOGISTIC                       1          More than one subgraph is not supported
CONCATENATION                  1          Operation is otherwise supported, but not mapped due to some unspecified limitation
CONCATENATION                  2          Mapped to Edge TPU
LOGISTIC                       1          Operation version not supported
CUSTOM                         1          Operation not supported
Compilation child process completed within timeout period.
Compilation succeeded!
"""
FILE = {EDGETPU: 1, "LOGISTIC": 2, "CONCATENATION": 1, "TFLite_Detection_PostProcess": 1}


@pytest.fixture(name="coral")
def _coral() -> Path:
    return shared_file("coral")


def test_the_whole_account_is_read() -> None:
    account = edgetpu_log.read(STDOUT)
    assert account.version == "16.0.384591198"
    assert (account.mapped_ops, account.total_ops, account.subgraphs) == (12, 16, 1)
    assert (account.on_chip_bytes, account.off_chip_bytes) == (6312428, 42752)
    assert account.left == {
        "CONCATENATION": (
            "Operation is otherwise supported, but not mapped due to some unspecified limitation"
        ),
        "CUSTOM": "Operation not supported",
        "LOGISTIC": "More than one subgraph is not supported, Operation version not supported",
    }
    assert (account.refusal, account.failure) == (None, None)
    assert edgetpu_log.contradiction(account, FILE, EDGETPU) is None


def test_a_fully_mapped_file_has_no_lines_per_device() -> None:
    account = edgetpu_log.read("Number of Edge TPU subgraphs: 1\nTotal number of operations: 31\n")
    assert (account.mapped_ops, account.total_ops) == (31, 31)
    assert edgetpu_log.contradiction(account, {EDGETPU: 1}, EDGETPU) is None
    assert edgetpu_log.contradiction(account, {EDGETPU: 1, "ADD": 2}, EDGETPU) is not None


@pytest.mark.parametrize(
    ("operators", "message"),
    [
        ({**FILE, EDGETPU: 2}, "1 subgraph by the log, 2 edgetpu-custom-op in the file"),
        ({**FILE, "LOGISTIC": 1}, "2 LOGISTIC left on the CPU by the log, 1 in the file"),
        ({**FILE, "SOFTMAX": 1}, "does not leave on the CPU: SOFTMAX x1, TFLite_Detection"),
        ({EDGETPU: 1}, "left on the CPU by the log, 0 in the file"),
        ({"ADD": 16}, "12 operators mapped by the log, none in the file"),
    ],
)
def test_a_log_that_contradicts_its_file(operators: dict[str, int], message: str) -> None:
    found = edgetpu_log.contradiction(edgetpu_log.read(STDOUT), operators, EDGETPU)
    assert found is not None
    assert message in found


def test_a_log_that_contradicts_itself() -> None:
    for line, other in (
        ("Total number of operations: 16", "Total number of operations: 17"),
        ("will run on Edge TPU: 12", "will run on Edge TPU: 13"),
        ("will run on CPU: 4", "will run on CPU: 0"),
    ):
        account = edgetpu_log.read(STDOUT.replace(line, other))
        assert "are stated and" in (edgetpu_log.contradiction(account, FILE, EDGETPU) or "")
    nothing = edgetpu_log.read("ADD                 3          Operation not supported\n")
    assert nothing.mapped_ops == 0
    assert "no operator mapped" in (edgetpu_log.contradiction(nothing, FILE, EDGETPU) or "")


@pytest.mark.parametrize(
    ("text", "refusal", "failure"),
    [
        ("Invalid model: m.tflite\nModel not quantized\n", "Model not quantized", "Invalid model"),
        ("Internal compiler error. Aborting! \n", None, "Internal compiler error"),
        (
            "Compilation failed: Compilation failed due to large activation tensors in model.\n",
            "large activation tensors",
            "large activation tensors",
        ),
        (
            (
                "ERROR: Attempting to use a delegate that only supports static-sized tensors with a "
                "graph that has dynamic-sized tensors.\n"
            ),
            "static-sized",
            "ERROR: Attempting",
        ),
        ("", None, None),
    ],
)
def test_refusals_are_distinguished_from_failures(
    text: str, refusal: str | None, failure: str | None
) -> None:
    account = edgetpu_log.read(text)
    assert (refusal is None) == (account.refusal is None)
    assert (failure is None) == (account.failure is None)
    assert refusal is None or refusal in (account.refusal or "")
    assert failure is None or failure in (account.failure or "")


@given(st.text(alphabet="ADD 0129\n:.MapedtoEgTPUCunrf-chiKBomvsl", max_size=400))
def test_any_text_gives_an_account(text: str) -> None:
    account = edgetpu_log.read(text)
    edgetpu_log.contradiction(account, FILE, EDGETPU)
    assert account.total_ops is None or account.total_ops >= 0


@pytest.mark.parametrize(
    "name",
    ["mobilenet_v1_0.25_128_quant", "keras_lstm_mnist_ptq", "movenet_single_pose_lightning_ptq"],
)
def test_a_true_account_fits_each_real_pair(coral: Path, name: str, tmp_path: Path) -> None:
    before = flatbuffer.read(coral / f"{name}.tflite").operators
    after = flatbuffer.read(coral / f"{name}_edgetpu.tflite").operators
    left = {name: count for name, count in after.items() if name != EDGETPU}
    # Google's compiler leaves an operator under its name, and never more of them than there were.
    assert all(count <= before[name] for name, count in left.items())
    rows = [(name, n - left.get(name, 0), "Mapped to Edge TPU") for name, n in before.items()]
    rows += [(name, n, "Operation not supported") for name, n in left.items()]
    table = "".join(f"{name:<30} {n:<10} {why}\n" for name, n, why in rows if n)
    account = edgetpu_log.read(f"Edge TPU Compiler version 16.0.384591198\n{table}")
    assert account.total_ops == sum(before.values())
    assert edgetpu_log.contradiction(account, after, EDGETPU) is None
    # Beside the file as the compiler leaves it.
    model = tmp_path / f"{name}_edgetpu.tflite"
    assert edgetpu.read_log_beside(model, after) is None
    model.with_suffix(".log").write_text(f"Edge TPU Compiler version 16.0\n{table}")
    found = edgetpu.read_log_beside(model, after)
    assert found is not None
    assert (found.mapped_ops, found.contradiction) == (account.mapped_ops, None)
    for other in set(before) - set(left):  # a log of another model
        wrong = edgetpu_log.read(
            f"{other}      {before[other]}      Operation not supported\n{table}"
        )
        assert edgetpu_log.contradiction(wrong, after, EDGETPU) is not None
