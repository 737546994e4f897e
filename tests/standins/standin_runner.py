"""A STAND-IN for the vendors' programs named `benchmark_model`: TensorFlow Lite's and LiteRT's.

It takes their flags and runs the model by the real runtime (ai_edge_litert) of the Python that
runs it. The formats that it prints are those of the sources: LiteRT tflite/tools/benchmark/
benchmark_model.cc, benchmark_tflite_model.cc, command_line_flags.cc, litert/tools/
benchmark_litert_model.h and xla/tsl/util/stats_calculator.h. Its log says that it is a stand-in, so
its rows are `simulated`. tests/standins/runner_bundles.py writes KIND and FAULT in front.
"""

# ruff: noqa: ANN001, ANN201, ANN202, C901, PTH110, PTH123 - a program of its own, as small as can be

import os
import random
import struct
import sys
import time

KIND = globals().get("KIND", "tflite")
FAULT = globals().get("FAULT", "")
COMMON = {
    "num_runs": "50",
    "min_secs": "1",
    "max_secs": "150",
    "run_delay": "-1",
    "num_threads": "-1",
    "warmup_runs": "1",
    "warmup_min_secs": "0.5",
    "verbose": "false",
    "dry_run": "false",
    "report_peak_memory_footprint": "false",
    "memory_footprint_check_interval_ms": "50",
    "graph": "",
    "signature_to_run_for": "",
    "use_gpu": "false",
    "gpu_backend": "",
    "require_full_delegation": "false",
    "model_runtime_info_output_file": "",
    "result_file_path": "",
    "xnnpack_weight_cache_file_path": "",
}
CLASSIC = {
    "use_xnnpack": "true",
    "use_nnapi": "false",
    "gpu_precision_loss_allowed": "true",
    "external_delegate_path": "",
    "external_delegate_options": "",
    "delegate_serialize_dir": "",
    "delegate_serialize_token": "",
    "export_model_runtime_info": "false",
    "input_layer": "",
    "input_layer_shape": "",
    "input_layer_value_files": "",
    "output_filepath": "",
    "enable_op_profiling": "false",
}
LITERT = {
    "use_cpu": "true",
    "use_npu": "false",
    "dispatch_library_path": "",
    "compiler_plugin_library_path": "",
    "compiler_cache_path": "",
    "gpu_serialization_dir": "",
    "gpu_model_cache_key": "",
    "use_profiler": "false",
}
VENDOR = {"qualcomm_htp_performance_mode": "burst"}


def say(text, level="INFO") -> None:
    sys.stderr.write(f"{level}: {text}\n")


def usage(known) -> None:
    say(f"usage: {sys.argv[0]} <flags>\nFlags:", "ERROR")
    for name, default in known.items():
        sys.stderr.write(f"\t--{name}={default}\tstring\toptional\t\n")


def parsed():
    """Return the flags; unknown ones are only a warning, as in the vendors' programs."""
    known = {**COMMON, **(LITERT if KIND == "litert" else CLASSIC)}
    if sys.argv[1:2] == ["--help"]:
        if KIND == "litert":
            sys.stdout.write("\n  NPU Vendor Flags from LiteRT:\n")
            for name, default in VENDOR.items():
                sys.stdout.write(f"    --{name} (performance); default: {default};\n")
        usage(known)
        sys.exit(0 if KIND == "litert" else 1)
    say("STARTING!")
    given, unknown = dict(known), []
    for word in sys.argv[1:]:
        name, _, value = word.removeprefix("--").partition("=")
        if name in known:
            given[name] = value
        elif not (KIND == "litert" and name in VENDOR):
            unknown.append(word)
    if unknown or FAULT == "unconsumed":
        say("Unconsumed cmdline flags: " + " ".join(unknown or ["--allow_new=1"]), "WARN")
    return given


def stats(values) -> str:
    """Return the line of StatWithPercentiles, of microseconds."""
    ordered = sorted(values)
    count = len(ordered)
    at = [ordered[count * p // 100] if count else 0 for p in (5, 50, 95)]
    ends = "p5={} median={} p95={}".format(*at)
    if count == 0:
        return f"count=0 {ends}"
    if count == 1:
        return f"count=1 curr={values[0]} {ends}"
    if ordered[0] == ordered[-1]:
        return f"count={count} curr={values[0]}(all same) {ends}"
    mean = sum(values) / count
    std = int((sum((one - mean) ** 2 for one in values) / count) ** 0.5)
    if FAULT == "unknown_format":
        return f"count={count} mean={mean:g} deviation={std}"
    return (
        f"count={count} first={values[0]} curr={values[-1]} min={ordered[0]} max={ordered[-1]} "
        f"avg={mean:g} std={std} {ends}"
    )


def loop(invoke, count, seconds, longest):
    say(
        f"Running benchmark for at least {count} iterations and at least {seconds:g} seconds but "
        f"terminate if exceeding {longest:g} seconds."
    )
    times, failed = [], False
    begin = time.perf_counter()
    while True:
        now = time.perf_counter() - begin
        if not ((len(times) < count or now < seconds) and now <= longest):
            break
        start = time.perf_counter_ns()
        try:
            invoke()
        except (RuntimeError, ValueError) as error:
            say(str(error), "ERROR")
            failed = True
        times.append((time.perf_counter_ns() - start) // 1000)
    say(stats(times) + "\n")
    return times, failed


def interpreter(flags):
    from ai_edge_litert import interpreter as lite

    threads = int(flags["num_threads"])
    delegates, kind = [], None
    if KIND == "tflite" and flags["external_delegate_path"]:
        options = dict(
            one.split(":", 1) for one in flags["external_delegate_options"].split(";") if one
        )
        delegates = [lite.load_delegate(flags["external_delegate_path"], options)]
        kind = "EXTERNAL"
    elif flags["use_gpu"] == "true" or flags.get("use_npu") == "true":
        say("Following operations are not supported by GPU delegate:", "ERROR")
        sys.stderr.write("CONV_2D: Operation is not supported.\n")
        say("Failed to apply GPU delegate.", "ERROR")
        say("Benchmarking failed.", "ERROR")
        sys.exit(1)
    made = lite.Interpreter(
        model_path=flags["graph"],
        num_threads=threads if threads > 0 else None,
        experimental_delegates=delegates,
    )
    made.allocate_tensors()
    return made, kind


def placements(made):
    """Yield (number, operator, delegate's number or None), and the delegates' numbers."""
    nodes = made._get_ops_details()
    delegates = [one for one in nodes if one["op_name"] == "DELEGATE"]
    producer = {
        tensor: one["index"]
        for one in nodes
        if one["op_name"] != "DELEGATE"
        for tensor in one["outputs"]
    }
    by_index = {one["index"]: one for one in nodes}
    taken = {}
    for delegate in delegates:
        edge, todo = set(delegate["inputs"]), list(delegate["outputs"])
        while todo:
            index = producer.get(todo.pop())
            if index is None or index in taken:
                continue
            taken[index] = delegate["index"]
            todo += [one for one in by_index[index]["inputs"] if one not in edge]
    return nodes, taken


def write_info(made, path, name):
    from ai_edge_litert import model_runtime_info_pb2 as proto

    nodes, taken = placements(made)
    details = proto.ModelRuntimeDetails()
    graph = details.subgraphs.add()
    graph.subgraph_id, graph.subgraph_type, graph.name = 0, 1, "main"
    for one in nodes:
        node = graph.nodes.add()
        node.id = one["index"]
        if one["op_name"] == "DELEGATE":
            node.name = node.type = name
            node.delegate_node_details.delegate_name = name
            node.delegate_node_details.tflite_node_ids_replaced.extend(
                sorted(index for index, owner in taken.items() if owner == one["index"])
            )
        else:
            node.name, node.type = one["op_name"], "3"
            if one["index"] in taken:
                node.delegated_to_node_id = taken[one["index"]]
    graph.execution_plan.extend(one["index"] for one in nodes if one["index"] not in taken)
    with open(path, "wb") as file:
        file.write(details.SerializeToString())
    return len(taken), sum(one["op_name"] != "DELEGATE" for one in nodes), nodes


def field(number, kind, content):
    def varint(value):
        out = b""
        while value > 0x7F:
            out += bytes([value & 0x7F | 0x80])
            value >>= 7
        return out + bytes([value])

    head = varint(number << 3 | kind)
    if kind == 5:
        return head + struct.pack("<f", content)
    return head + (varint(content) if kind == 0 else varint(len(content)) + content)


def write_result(path, init_us, warmup, times, peak_mb) -> None:
    ordered, count = sorted(times), len(times)
    mean = sum(times) / count
    std = (sum((one - mean) ** 2 for one in times) / count) ** 0.5
    numbers = (
        mean,
        ordered[0],
        ordered[-1],
        std,
        *(ordered[count * p // 100] for p in (50, 5, 95)),
        init_us,
        warmup[0] if warmup else 0,
        sum(warmup) / len(warmup) if warmup else 0,
    )
    latency = b"".join(field(i, 5, one / 1000) for i, one in enumerate(numbers, 1))
    memory = field(3, 5, peak_mb) if peak_mb else b""
    misc = field(2, 0, count) + field(3, 0, len(warmup))
    with open(path, "wb") as file:
        file.write(
            field(2, 2, latency) + (field(3, 2, memory) if memory else b"") + field(4, 2, misc)
        )


def peak():
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM")) / 1024


def report(flags, init_us, warmup, times) -> None:
    mean = sum(times) / len(times)
    warm = sum(warmup) / len(warmup) if warmup else 0
    first = warmup[0] if warmup else 0
    peak_mb = peak() if flags["report_peak_memory_footprint"] == "true" else 0
    if KIND == "litert":
        place = "[benchmark_litert_model.h:61] "
        for text in (
            "\n========== BENCHMARK RESULTS ==========",
            f"Model initialization: {init_us / 1000:.2f} ms",
            f"Warmup (first):       {first / 1000:.2f} ms",
            f"Warmup (avg):         {warm / 1000:.2f} ms ({len(warmup)} runs)",
            f"Inference (avg):      {mean / 1000:.2f} ms ({len(times)} runs)",
            f"Inference (min):      {min(times) / 1000:.2f} ms",
            f"Inference (max):      {max(times) / 1000:.2f} ms",
            "Inference (std):      0.01",
            "Throughput:           1.00 MB/s",
        ):
            say(place + text)
    say(
        f"Inference timings in us: Init: {init_us}, First inference: {first}, "
        f"Warmup (avg): {warm:g}, Inference (avg): {mean:g}"
    )
    if peak_mb:
        say(f"Overall peak memory footprint (MB) via periodic monitoring: {peak_mb:g}")
    if flags["result_file_path"]:
        write_result(flags["result_file_path"], init_us, warmup, times, peak_mb)


def profile(nodes, mean_us) -> None:
    """Print a profile in which every operator takes the same time: the runtime does not tell them."""
    plain = [one for one in nodes if one["op_name"] != "DELEGATE"]
    ms = mean_us / 1000 / len(plain)
    columns = ("node type", "first", "avg ms", "%", "cdf%", "mem KB", "times called", "Name")
    lines = [
        "Operator-wise Profiling Info for Regular Benchmark Runs:",
        f"{'=' * 30} Run Order {'=' * 30}",
        "".join(f"\t[{one}]" for one in columns),
    ]
    for one in plain:
        kind, number = one["op_name"], one["index"]
        lines.append(
            f"\t{kind}\t{ms:.4f}\t{ms:.4f}\t1.0%\t1.0%\t0.000\t1\t[standin/{kind}]:{number}"
        )
    lines += ["", f"{'=' * 30} Top by Computation Time {'=' * 30}", ""]
    sys.stdout.write("\n".join(lines))


def main() -> int:
    flags = parsed()
    say("STAND-IN for benchmark_model, no vendor's program")
    if FAULT == "no_space":
        say("Failed to write: No space left on device", "ERROR")
        return 1
    if FAULT == "library":
        sys.stderr.write('CANNOT LINK EXECUTABLE "benchmark_model": library "libx.so" not found\n')
        return 1
    begin = time.perf_counter_ns()
    try:
        made, kind = interpreter(flags)
    except (RuntimeError, ValueError, OSError) as error:
        say(f"Failed to load model {flags['graph']}: {error}", "ERROR")
        return 1
    init_us = (time.perf_counter_ns() - begin) // 1000
    say(f"Loaded model {flags['graph']}")
    cache = flags["xnnpack_weight_cache_file_path"]
    if cache:
        say("weight cache " + ("loaded" if os.path.exists(cache) else "built"))
        with open(cache, "ab") as file:
            file.write(b"x")
    name = "TestDelegate" if kind else "TfLiteXNNPackDelegate"
    info = flags["model_runtime_info_output_file"]
    done, total, nodes = write_info(made, info or os.devnull, name)
    parts = sum(one["op_name"] == "DELEGATE" for one in nodes)
    if parts:
        say(
            f"Replacing {done} out of {total} node(s) with delegate ({name}) node, yielding {parts} partitions for subgraph 0.",
            "VERBOSE",
        )
    say(f"Initialized session in {init_us / 1000:g}ms.")
    fill(made, flags)
    if FAULT == "crash":
        os.abort()
    if FAULT == "killed":
        os.kill(os.getpid(), 9)
    if FAULT == "hang":
        time.sleep(600)
    longest = float(flags["max_secs"])
    warmup, _ = loop(
        made.invoke, int(flags["warmup_runs"]), float(flags["warmup_min_secs"]), longest
    )
    times, failed = loop(made.invoke, int(flags["num_runs"]), float(flags["min_secs"]), longest)
    if FAULT == "truncated":
        return 0
    report(flags, init_us, warmup, times)
    if flags.get("enable_op_profiling") == "true":
        profile(nodes, sum(times) / len(times))
    if flags.get("output_filepath"):
        with open(flags["output_filepath"], "wb") as file:
            file.writelines(
                made.get_tensor(one["index"]).tobytes() for one in made.get_output_details()
            )
    # A failing inference stops nothing; the results are written and only the exit code tells.
    return 1 if failed or FAULT == "failed_invoke" else 0


def fill(made, flags) -> None:
    import numpy as np

    files = [
        one.split(":", 1)[1] for one in flags.get("input_layer_value_files", "").split(",") if one
    ]
    chance = random.Random(0)
    for place, one in enumerate(made.get_input_details()):
        if files:
            with open(files[place], "rb") as file:
                data = file.read()
            value = np.frombuffer(data, one["dtype"]).reshape(one["shape"])
        elif np.issubdtype(one["dtype"], np.integer):
            value = np.full(one["shape"], chance.randrange(2), one["dtype"])
        else:
            value = np.full(one["shape"], chance.uniform(-1, 1), one["dtype"])
        made.set_tensor(one["index"], value)


if __name__ == "__main__":
    sys.exit(main())
