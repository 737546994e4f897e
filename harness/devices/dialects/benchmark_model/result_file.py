"""Read the file that `--result_file_path` names: a BenchmarkResult of Protocol Buffers.

Source: LiteRT tflite/tools/benchmark/proto/benchmark_result.proto. The numbers of fields below are
that file's; unknown fields are those of newer versions and are ignored, a known field of another
type is an unknown format.
"""

from __future__ import annotations

from harness.devices.dialects.benchmark_model import wire
from harness.devices.dialects.benchmark_model.report import NS_PER_MS, ToolReport
from harness.devices.dialects.benchmark_model.wire import MalformedMessage

LATENCY, MEMORY, MISC = 2, 3, 4
AVG, MIN, MAX, STDDEV, MEDIAN, P5, P95, INIT, FIRST, WARM_UP = range(1, 11)
INIT_KB, OVERALL_KB, PEAK_MB = range(1, 4)
SIZE_MB, NUM_RUNS, NUM_WARMUP_RUNS, THROUGHPUT = range(1, 5)

_MB = 1 << 20
"""The program divides by 1024 twice (tflite/profiling/memory_usage_monitor.h)."""


def read(data: bytes) -> ToolReport:
    """Read a result file; raises MalformedMessage if it is not one, or not of this format."""
    whole = wire.parse(data)
    latency, misc = whole.message(LATENCY), whole.message(MISC)
    if latency is None or misc is None:
        raise MalformedMessage("it has no latency_metrics or no misc_metrics")
    average, runs = latency.number(AVG), misc.integer(NUM_RUNS)
    if average is None or runs is None:
        raise MalformedMessage("it has no avg_ms or no num_runs")
    warmups = misc.integer(NUM_WARMUP_RUNS)
    memory = whole.message(MEMORY)
    peak = memory.number(PEAK_MB) if memory is not None else None
    report = ToolReport(
        source="result file",
        runs=runs,
        avg_ns=float(round(average * NS_PER_MS)),
        median_ns=_ns(latency.number(MEDIAN)),
        min_ns=_ns(latency.number(MIN)),
        max_ns=_ns(latency.number(MAX)),
        p5_ns=_ns(latency.number(P5)),
        p95_ns=_ns(latency.number(P95)),
        init_ns=_ns(latency.number(INIT)),
        # Without a warm-up the field is there and 0.
        first_ns=_ns(latency.number(FIRST)) or None,
        warmup_runs=warmups,
        warmup_avg_ns=_ns(latency.number(WARM_UP)),
        peak_bytes=peak * _MB if peak is not None and peak > 0 else None,
    )
    problem = report.problem()
    if problem is not None:
        raise MalformedMessage(problem)
    return report


def _ns(milliseconds: float | None) -> float | None:
    # The file has 32-bit floats: a whole microsecond would be a few parts in 10^8 off.
    return None if milliseconds is None else float(round(milliseconds * NS_PER_MS))
