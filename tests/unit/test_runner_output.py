"""The log and the result file of both programs named benchmark_model, whole, odd and damaged.

The fixtures are public logs, typed again: tensorflow#43541 (TensorFlow Lite's program), XNNPACK#999
(memory), and the formats of LiteRT's litert/tools/benchmark_litert_model.h and
xla/tsl/util/stats_calculator.h.
"""

from __future__ import annotations

import math
import struct
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parents[1] / "standins"))
import contextlib

from standin_runner import field, stats

from harness.devices.delegation import benchmark_log
from harness.devices.dialects.benchmark_model import causes, endings, programs, result_file, wire
from harness.devices.dialects.benchmark_model.endings import RunEnding
from harness.devices.dialects.benchmark_model.programs import LaunchFiles, RunnerProgram
from harness.devices.dialects.benchmark_model.tool_output import UnknownFormat, lines_of, read
from harness.devices.dialects.benchmark_model.wire import MalformedMessage
from harness.errors import (
    AgentError,
    AgentSilent,
    Crashed,
    FellBack,
    HarnessError,
    ModelRejected,
    OutOfMemory,
    RuntimeMissing,
    TransferFailed,
    Unsupported,
)
from harness.types import Dose, LaunchOrder

# tensorflow#43541
TFLITE = """\
STARTING!
Log parameter values verbosely: [0]
Min num runs: [50]
Num threads: [4]
Min warmup runs: [1]
Graph: [/data/local/tmp/tflite/denoising_32bit.tflite]
#threads used for CPU inference: [4]
Use gpu: [1]
Loaded model /data/local/tmp/tflite/denoising_32bit.tflite
INFO: Initialized TensorFlow Lite runtime.
INFO: Created TensorFlow Lite delegate for GPU.
INFO: Initialized OpenCL-based API.
INFO: Created 1 GPU delegate kernels.
Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.
The input model file size (MB): 7.07479
Initialized session in 870.557ms.
Running benchmark for at least 1 iterations and at least 0.5 seconds but terminate if exceeding 150 seconds.
count=4 first=130565 curr=120829 min=117370 max=130565 avg=122373 std=4930

Running benchmark for at least 50 iterations and at least 1 seconds but terminate if exceeding 150 seconds.
count=50 first=119212 curr=118055 min=113737 max=124776 avg=119375 std=1948

Inference timings in us: Init: 870557, First inference: 130565, Warmup (avg): 122373, Inference (avg): 119375
"""
# XNNPACK#999
MEMORY = (
    "Note: as the benchmark tool itself affects memory footprint, the following is only APPROXIMATE to the "
    "actual memory footprint of the model at runtime. Take the information at your discretion.\n"
    "Memory footprint delta from the start of the tool (MB): init=8.97656 overall=18.7227\n"
)
PEAK = "Overall peak memory footprint (MB) via periodic monitoring: 12.5\n"
# litert/tools/benchmark_litert_model.h; the times are those of the log above
LITERT = """\
INFO: STARTING!
INFO: [environment.cc:30] Creating LiteRT environment with options
INFO: [benchmark_litert_model.h:61]
========== BENCHMARK RESULTS ==========
INFO: [benchmark_litert_model.h:62] Model initialization: 870.56 ms
INFO: [benchmark_litert_model.h:63] Warmup (first):       130.57 ms
INFO: [benchmark_litert_model.h:65] Warmup (avg):         122.37 ms (4 runs)
INFO: [benchmark_litert_model.h:67] Inference (avg):      119.38 ms (50 runs)
INFO: [benchmark_litert_model.h:71] Inference (min):      113.74 ms
INFO: [benchmark_litert_model.h:73] Inference (max):      124.78 ms
INFO: [benchmark_litert_model.h:75] Inference (std):      1.95
INFO: [benchmark_litert_model.h:83] Throughput:           1.00 MB/s
INFO: [benchmark_litert_model.h:104] Peak memory usage not available. (peak_mem_mb <= 0)
INFO: [benchmark_litert_model.h:107] ======================================
"""
OLD = "STARTING!\nAverage inference timings in us: Warmup: 83235, Init: 38467, Inference: 79760.9\n"
LOGCAT = "05-30 15:16:45.362  3380  3380 I tflite  : "
OTHER = "05-30 15:16:45.400  9999  9999 I tflite  : "
PROGRAM = RunnerProgram(kind="tflite", flags=frozenset({"graph", "num_runs"}))
VALUES = (119.375, 113.737, 124.776, 1.948, 119.0, 115.0, 123.0, 870.557, 130.565, 122.373)


def result(values: tuple[float, ...] = VALUES, runs: int = 50) -> bytes:
    latency = b"".join(field(number, 5, value) for number, value in enumerate(values, 1))
    return field(2, 2, latency) + field(4, 2, field(2, 0, runs) + field(3, 0, 4))


def ended(log: str, code: int = 0, **parts: object) -> RunEnding:
    return RunEnding(code=code, late=False, log=log, **parts)  # type: ignore[arg-type]


def read_ending(ending: RunEnding, target: str = "gpu") -> endings.RunResult:
    return endings.read(ending, PROGRAM, target, "phone: tflite", "edge-harness setup phone")


@pytest.mark.parametrize(
    "log",
    [
        TFLITE,
        TFLITE + MEMORY,
        "".join(f"{LOGCAT}{line}\n" for line in TFLITE.splitlines()),
        "".join(f"{LOGCAT}{line}\n{OTHER}count=1 x=1\n" for line in TFLITE.splitlines()),
        TFLITE.replace("\n", "\r\n"),
    ],
)
def test_tensorflow_lites_log_is_read_wherever_it_comes_from(log: str) -> None:
    report = read(log).report
    assert report is not None
    assert (report.runs, report.warmup_runs) == (50, 4)
    assert report.avg_ns == pytest.approx(119_375_000)
    assert report.init_ns == pytest.approx(870_557_000)
    assert report.first_ns == pytest.approx(130_565_000)
    assert report.median_ns is None, "this version reports none, and none is invented"


def test_litert_log_is_read_in_its_own_precision() -> None:
    report = read(LITERT).report
    assert report is not None
    assert (report.runs, report.warmup_runs) == (50, 4)
    assert report.avg_ns == pytest.approx(119_380_000)
    assert report.first_ns == pytest.approx(130_570_000)
    assert report.peak_bytes is None


def test_the_line_of_an_old_version_has_no_number_of_runs_and_is_refused() -> None:
    with pytest.raises(UnknownFormat, match="0 runs"):
        read(OLD)
    report = read("count=50 first=1 curr=1 min=1 max=90000 avg=79760.9 std=1\n" + OLD).report
    assert report is not None
    assert report.avg_ns == pytest.approx(79_760_900)


def test_a_part_of_one_block_of_results_beside_the_other_is_no_error() -> None:
    part = "INFO: [benchmark_litert_model.h:62] Model initialization: 1.00 ms\n"
    report = read(part + TFLITE).report
    assert report is not None
    assert report.avg_ns == pytest.approx(119_375_000)


def test_peak_memory_is_read() -> None:
    report = read(TFLITE + PEAK).report
    assert report is not None
    assert report.peak_bytes == 12.5 * 1024 * 1024


@pytest.mark.parametrize(
    ("line", "median"),
    [
        ("count=50 first=5 curr=5 min=4 max=9 avg=5.5 std=1 p5=4 median=5 p95=9", 5_000),
        ("count=50 curr=123(all same) p5=123 median=123 p95=123", 123_000),
        ("count=1 curr=123 p5=123 median=123 p95=123", 123_000),
        ("count=2 first=1 curr=3e+06 min=1 max=3e+06 avg=1.5e+06 std=1 p5=1 median=1 p95=1", 1_000),
    ],
)
def test_every_form_of_the_line_of_statistics_is_read(line: str, median: float) -> None:
    avg = 5.5 if "5.5" in line else 1.5e6 if "1.5e" in line else 123
    end = f"Inference timings in us: Init: 1, First inference: 5, Warmup (avg): 5, Inference (avg): {avg:g}"
    report = read(f"{line}\n{end}\n").report
    assert report is not None
    assert (report.median_ns, report.avg_ns) == (median, avg * 1000)


@pytest.mark.parametrize(
    "line",
    [
        "count=50 mean=5 deviation=1",
        "count=50 first=x curr=5",
        "count=50 first=5; curr=5",
        "count=2.5 curr=1",
        "count=50 count=50",
        "count=3 p5=1(all same)",
        "Inference timings in us: Init: 1, Inference (avg): five",
        "Inference timings in ms: 5".replace(" ms", " us"),
        "INFO: [benchmark_litert_model.h:67] Inference (avg):      119.38 us (50 runs)",
        "INFO: [benchmark_litert_model.h:67] Inference (avg):      fast",
        "Overall peak memory footprint (MB) via periodic monitoring: much",
    ],
)
def test_a_line_of_another_version_is_named(line: str) -> None:
    with pytest.raises(UnknownFormat) as error:
        read(f"STARTING!\n{line}\n")
    assert line.rpartition("] ")[2][:20] in str(error.value)
    with pytest.raises(AgentError, match="unknown format"):
        read_ending(ended(f"STARTING!\n{line}\n"))


def test_the_result_file_is_read_first_and_its_median_is_used() -> None:
    found = read_ending(ended(TFLITE, result=result()))
    assert found.report.source == "result file"
    assert found.report.median_ns == pytest.approx(119_000_000)
    assert found.delegation.fully is True
    assert read_ending(ended(TFLITE)).report.source == "log"


def test_a_result_file_that_contradicts_the_log_is_no_result() -> None:
    other = result((60.0, 59.0, 61.0, 1.0, 60.0, 60.0, 60.0, 870.0, 130.0, 122.0))
    with pytest.raises(AgentError, match="contradict each other"):
        read_ending(ended(TFLITE, result=other))
    with pytest.raises(AgentError, match="contradict each other"):
        read_ending(ended(TFLITE, result=result(runs=49)))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no latency_metrics"),
        (b"\x0a\x02hi", "no latency_metrics"),
        (result()[:30], "ends after"),
        (field(2, 2, field(1, 0, 5)) + field(4, 2, field(2, 0, 5)), "wire type"),
        (result((math.nan, *VALUES[1:])), "nan"),
        (result((-1.0, *VALUES[1:])), "avg"),
        (result((999.0, *VALUES[1:])), "above max"),
        (result(runs=0), "0 runs"),
        (b"\xff" * 20, "10 bytes"),
    ],
)
def test_a_result_file_of_another_format_is_named(data: bytes, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        result_file.read(data)


def test_fields_of_newer_versions_are_ignored() -> None:
    newer = result() + field(9, 2, b"new") + field(10, 0, 7)
    assert result_file.read(newer) == result_file.read(result())


def test_a_failed_run_counts_before_its_files() -> None:
    with pytest.raises(ModelRejected, match="exit code 1"):
        read_ending(ended(TFLITE, 1, result=result()))


@pytest.mark.parametrize(
    ("code", "log", "kind", "text"),
    [
        (137, TFLITE, OutOfMemory, "lmkd"),
        (134, "terminate called", Crashed, "SIGABRT"),
        (139, "", Crashed, "signal 11"),
        (127, "sh: not found", RuntimeMissing, "edge-harness setup phone"),
        (126, "Permission denied", RuntimeMissing, "Permission denied"),
        (1, 'CANNOT LINK EXECUTABLE "x": library "liby.so" not found', RuntimeMissing, "liby.so"),
        (1, "ERROR: Disallowed CPU fallback detected.", FellBack, "remove require_full_delegation"),
        (1, "ERROR: write: No space left on device", TransferFailed, "full"),
        (1, "ERROR: Failed to load model x", ModelRejected, "Failed to load model x"),
        (0, "STARTING!\nLoaded model", AgentError, "ends before the results"),
        (0, TFLITE[:900], AgentError, "ends before the results"),
    ],
)
def test_each_end_of_a_run_is_the_error_that_it_is(
    code: int, log: str, kind: type[HarnessError], text: str
) -> None:
    with pytest.raises(kind, match=text) as error:
        read_ending(ended(log, code))
    assert type(error.value) is kind


def test_a_run_past_its_deadline_is_silent() -> None:
    with pytest.raises(AgentSilent, match="deadline"):
        read_ending(replace(ended(TFLITE, 137), late=True))


def test_an_ignored_flag_is_a_refusal_but_not_a_vendors_flag_that_help_lists() -> None:
    log = TFLITE.replace("STARTING!\n", "STARTING!\nWARN: Unconsumed cmdline flags: --allow_fp16\n")
    with pytest.raises(ModelRejected, match="--allow_fp16"):
        read_ending(ended(log, result=result()))
    vendor = log.replace("--allow_fp16", "--qualcomm_x=1")
    known = RunnerProgram(kind="litert", flags=frozenset({"qualcomm_x"}))
    assert endings.read(ended(vendor), known, "gpu", "w", "s").report.runs == 50


def test_operators_that_a_gpu_leaves_have_the_cause_and_the_change() -> None:
    log = (
        "ERROR: Following operations are not supported by GPU delegate:\n"
        "TRANSPOSE_CONV: Max version supported: 3. Requested version 4.\n"
        "CAST: Tensor type(INT64) is not supported.\n"
        "NEW_OP: a reason that the table does not have\n"
        "123 operations will run on the GPU, and the remaining 156 operations will run on the CPU.\n"
    )
    found = causes.left_behind(lines_of(log))
    assert list(found) == ["TRANSPOSE_CONV", "CAST", "NEW_OP"]
    assert "newer program" in found["TRANSPOSE_CONV"]
    assert "tf.int32" in found["CAST"]
    assert found["NEW_OP"] == "a reason that the table does not have"
    part = log + TFLITE.replace("completely executed", "partially executed").replace(
        "by the delegate.", "by the delegate w/ 2 delegate kernels."
    )
    made = read_ending(ended(part)).delegation
    assert made.left == ("CAST", "NEW_OP", "TRANSPOSE_CONV")
    assert "tf.int32" in made.left_why["CAST"]


def test_litert_lines_of_delegation_are_evidence() -> None:
    line = (
        "INFO: Replacing 70 out of 70 node(s) with delegate (LITERT_CL) node, yielding 1 partitions"
    )
    found = benchmark_log.read(line, "gpu")
    assert (found.delegated_ops, found.total_ops, found.delegate) == (70, 70, "gpu")


# --- flags ---------------------------------------------------------------------------------------


def order(**changes: object) -> LaunchOrder:
    base = LaunchOrder(
        cell_id="c",
        kind="timed",
        block=0,
        position=0,
        variant_digest="d" * 64,
        target="xnnpack",
        threads=2,
        dose=Dose(),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


FILES = LaunchFiles(model="/m", result="/r", runtime_info="/i", libraries="/b")
ALL = frozenset(
    [
        "graph",
        "num_threads",
        "num_runs",
        "min_secs",
        "max_secs",
        "warmup_runs",
        "warmup_min_secs",
        "result_file_path",
        "use_xnnpack",
        "use_gpu",
        "use_npu",
        "use_cpu",
        "use_nnapi",
        "external_delegate_path",
        "external_delegate_options",
        "gpu_backend",
        "export_model_runtime_info",
        "model_runtime_info_output_file",
        "xnnpack_weight_cache_file_path",
        "delegate_serialize_dir",
        "delegate_serialize_token",
        "gpu_serialization_dir",
        "gpu_model_cache_key",
        "dispatch_library_path",
        "compiler_plugin_library_path",
        "compiler_cache_path",
        "report_peak_memory_footprint",
    ]
)
CLASSIC = RunnerProgram(kind="tflite", flags=ALL)
LITERT_TOOL = RunnerProgram(kind="litert", flags=ALL)


@pytest.mark.parametrize(
    ("program", "changes", "wanted"),
    [
        (CLASSIC, {}, {"use_xnnpack": "true", "export_model_runtime_info": "true"}),
        (CLASSIC, {"target": "gpu"}, {"use_gpu": "true"}),
        (CLASSIC, {"target": "nnapi"}, {"use_nnapi": "true"}),
        (
            CLASSIC,
            {"target": "tpu", "delegate": "/l.so", "delegate_options": {"a": "1", "b": "2"}},
            {"external_delegate_path": "/l.so", "external_delegate_options": "a:1;b:2"},
        ),
        (
            CLASSIC,
            {"target": "gpu", "delegate_options": {"gpu_backend": "gl"}},
            {"gpu_backend": "gl"},
        ),
        (LITERT_TOOL, {}, {"use_cpu": "true"}),
        (LITERT_TOOL, {"target": "gpu"}, {"use_gpu": "true"}),
        (LITERT_TOOL, {"target": "npu"}, {"use_npu": "true", "dispatch_library_path": "/b"}),
        (CLASSIC, {"kind": "memory"}, {"report_peak_memory_footprint": "true", "num_runs": "5"}),
    ],
)
def test_an_order_becomes_the_programs_own_flags(
    program: RunnerProgram, changes: dict[str, object], wanted: dict[str, str]
) -> None:
    made = programs.command_line(program, order(**changes), FILES)
    assert wanted.items() <= made.flags.items()
    assert ("export_model_runtime_info" in made.flags) == (program.kind == "tflite")
    assert made.flags["num_threads"] == "2"
    assert ("ADSP_LIBRARY_PATH" in made.environment) == (changes.get("target") == "npu")


@pytest.mark.parametrize(
    ("program", "changes", "why"),
    [
        (CLASSIC, {"target": "npu"}, "LiteRT's program"),
        (LITERT_TOOL, {"target": "edgetpu"}, "no target edgetpu"),
        (LITERT_TOOL, {"delegate": "/l.so"}, "loads no delegate library"),
        (CLASSIC, {"dose": Dose(scenario="offline")}, "single only"),
        (CLASSIC, {"target": "gpu", "delegate_options": {"gpu_new": "1"}}, "--gpu_new"),
        (replace(CLASSIC, flags=ALL - {"use_gpu"}), {"target": "gpu"}, "--use_gpu"),
    ],
)
def test_an_order_that_a_program_cannot_follow_is_refused_before_it_runs(
    program: RunnerProgram, changes: dict[str, object], why: str
) -> None:
    with pytest.raises(Unsupported, match=why):
        programs.command_line(program, order(**changes), FILES)


@pytest.mark.parametrize("target", ["xnnpack", "gpu", "npu"])
def test_a_cache_is_given_to_whatever_has_one(target: str) -> None:
    cached = replace(FILES, cache="/cache")
    made = programs.command_line(LITERT_TOOL, order(target=target), cached)
    assert any("/cache" in value for value in made.flags.values())
    assert not any(
        "/cache" in one
        for one in programs.command_line(LITERT_TOOL, order(target=target), FILES).words()
    )


def test_an_older_program_without_result_files_is_used_by_its_log() -> None:
    old = replace(
        CLASSIC,
        flags=ALL
        - {"result_file_path", "model_runtime_info_output_file", "export_model_runtime_info"},
    )
    made = programs.command_line(old, order(), FILES)
    assert not {"result_file_path", "export_model_runtime_info"} & set(made.flags)


def test_the_two_programs_are_told_apart_by_help() -> None:
    flags = "\t--graph=\tstring\toptional\t\n\t--num_runs=50\tint32\toptional\texpected number of runs\n"
    classic = programs.recognise(1, "usage: benchmark_model <flags>\nFlags:\n" + flags)
    assert classic is not None
    assert (classic.kind, classic.has("num_runs")) == ("tflite", True)
    vendor = "\n  NPU Vendor Flags from LiteRT:\n    --qualcomm_log_level (x); default: off;\n"
    litert = programs.recognise(0, vendor + flags)
    assert litert is not None
    assert (litert.kind, litert.has("qualcomm_log_level")) == ("litert", True)
    assert programs.recognise(0, "usage: something else") is None
    assert programs.recognise(127, "not found") is None


# --- fuzzers -------------------------------------------------------------------------------------

_PIECES = st.sampled_from(
    [*TFLITE.splitlines(True), *LITERT.splitlines(True), OLD, PEAK, LOGCAT, OTHER]
)


@settings(deadline=None)
@given(st.lists(_PIECES | st.text(max_size=40), max_size=12).map("".join))
def test_any_log_is_read_or_refused_with_its_line(text: str) -> None:
    with contextlib.suppress(UnknownFormat):
        read(text)
    for code in (0, 1, 137):
        with contextlib.suppress(HarnessError):
            read_ending(ended(text, code))
    causes.left_behind(lines_of(text))


@settings(deadline=None)
@given(st.integers(0, len(TFLITE)))
def test_a_log_that_is_cut_has_no_other_numbers(at: int) -> None:
    whole = read(TFLITE).report
    assert whole is not None
    try:
        part = read(TFLITE[:at]).report
    except UnknownFormat:
        return
    # The last number may itself be cut; it then contradicts the statistics of the line above.
    assert part is None or part.avg_ns == whole.avg_ns


@settings(deadline=None)
@given(
    st.binary(max_size=200)
    | st.tuples(st.integers(0, 80), st.binary(max_size=4)).map(
        lambda change: result()[: change[0]] + change[1] + result()[change[0] + len(change[1]) :]
    )
)
def test_any_result_file_is_read_or_refused(data: bytes) -> None:
    try:
        report = result_file.read(data)
    except MalformedMessage:
        return
    assert report.runs >= 1
    assert math.isfinite(report.avg_ns)


@settings(deadline=None)
@given(st.binary(max_size=100))
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        found = wire.parse(data)
    except MalformedMessage:
        return
    for number in list(found.fields)[:5]:
        for get in (
            found.number,
            found.integer,
            found.text,
            found.message,
            found.messages,
            found.integers,
        ):
            with contextlib.suppress(MalformedMessage):
                get(number)


@settings(deadline=None)
@given(st.lists(st.integers(0, 10_000_000), min_size=1, max_size=30))
def test_every_line_that_the_calculator_writes_is_understood(values: list[int]) -> None:
    mean = sum(values) / len(values)
    end = f"Inference timings in us: Init: 1, First inference: 1, Warmup (avg): 1, Inference (avg): {mean:g}"
    report = read(f"{stats(values)}\n{end}\n").report
    assert report is not None
    assert report.runs == len(values)
    assert report.median_ns == sorted(values)[len(values) // 2] * 1000


def test_numbers_of_a_message_are_signed_and_floats_little_endian() -> None:
    found = wire.parse(
        field(1, 0, (1 << 64) - 5) + field(2, 5, 1.5) + b"\x21" + struct.pack("<d", 1.0)
    )
    assert found.integer(1) == -5
    assert found.number(2) == 1.5
    with pytest.raises(MalformedMessage, match="wire type"):
        found.number(1)
