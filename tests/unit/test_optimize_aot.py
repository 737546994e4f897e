"""The tool behind `aot`: its account is checked against the files, its log gives a reason."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.errors import RecipeError
from harness.optimize.targets import aot

SETTINGS = aot.AotSettings(vendor="qualcomm", soc="SM8750")


class Facts:
    """A file's operators."""

    def __init__(self, **operators: int) -> None:
        self.operators = operators


def account(
    monkeypatch: pytest.MonkeyPatch, made: Facts, *parts: tuple[int, int, int]
) -> aot.Compiled:
    read = {"made": made, "source": Facts(CONV_2D=6, SOFTMAX=1)}
    monkeypatch.setattr(aot.flatbuffer, "read", lambda path: read[path.name])
    reports = [aot.SubgraphReport(offloaded=a, total=b, partitions=c) for a, b, c in parts]
    return aot.account(reports, Path("made"), Path("source"), SETTINGS)


def test_an_account_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    found = account(monkeypatch, Facts(DISPATCH_OP=2, SOFTMAX=1), (6, 7, 2))
    assert (found.mapped_ops, found.total_ops, found.subgraphs) == (6, 7, 2)
    assert (dict(found.left), found.contradiction) == ({"SOFTMAX": ""}, None)
    # Without statistics, the taken operators are those that the file no longer has.
    silent = account(monkeypatch, Facts(DISPATCH_OP=1, SOFTMAX=1))
    assert (silent.mapped_ops, silent.total_ops, silent.source) == (6, 7, "both files")


@pytest.mark.parametrize(
    ("made", "part", "message"),
    [
        (Facts(DISPATCH_OP=1, SOFTMAX=1), (7, 7, 1), "0 operators on the CPU.* its file has 1"),
        (Facts(DISPATCH_OP=1), (6, 7, 1), "1 operator on the CPU.* its file has 0"),
        (Facts(DISPATCH_OP=2), (7, 7, 1), "1 partition, and its file has 2"),
    ],
)
def test_an_account_that_contradicts_the_file(
    monkeypatch: pytest.MonkeyPatch, made: Facts, part: tuple[int, int, int], message: str
) -> None:
    found = account(monkeypatch, made, part)
    assert found.contradiction is not None
    assert re.search(message, found.contradiction)


def test_a_compilation_that_takes_no_operator_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RecipeError, match="took no operator of source for SM8750: CONV_2D"):
        account(monkeypatch, Facts(CONV_2D=6), (0, 7, 0))


def test_reasons_are_read_from_a_log() -> None:
    log = (
        "└ Could not load shared library /a/libPlug.so: libQnnIr.so: cannot open shared object file: No such\n"
        "ERROR: [plugin_manager.cc:1] nothing"
    )
    found = aot.failure_reason(log, SETTINGS, "m.tflite")
    assert "libQnnIr.so missing; pip install ai-edge-litert-sdk-qualcomm" in found
    assert 'libraries="/path/to/lib"' in found
    refused = aot.failure_reason(
        "INFO: a\nERROR: [model_load.cc:316] Too odd.\n", SETTINGS, "m.tflite"
    )
    assert refused == "qualcomm's compiler refuses m.tflite: Too odd."
    raised = "Traceback:\n  x\nFileNotFoundError: Failed to find apply plugin binary. No AOT on your platform.\n"
    assert aot.failure_reason(raised, SETTINGS, "m.tflite").endswith(
        "binary. No AOT on your platform."
    )
    assert "it printed nothing" in aot.failure_reason("", SETTINGS, "m.tflite")


@given(st.text() | st.binary().map(lambda data: data.decode("utf-8", "replace")))
def test_any_log_gives_a_reason(log: str) -> None:
    for vendor in aot.PACKAGES:
        found = aot.failure_reason(log * 50, aot.AotSettings(vendor=vendor, soc="X"), "m.tflite")
        assert 0 < len(found) < 2500
