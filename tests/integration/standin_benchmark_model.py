#!/usr/bin/env python3
"""A STAND-IN for the vendor's benchmark_model: it measures nothing.

It takes the flags that the real tool takes, reads the number of operators of the file that it is
given from its size only, and prints a log of the documented form with made-up times. No binary of
the real tool is on the package indexes; what it prints is in the source of LiteRT
(tools/benchmark) and in logs of public issues.
"""

import sys
from pathlib import Path

FLAGS = {
    *("graph", "num_threads", "use_xnnpack", "use_gpu", "enable_op_profiling"),
    *("num_runs", "min_secs", "max_secs"),
}
HEADER = "\t[node type]\t[first]\t[avg ms]\t[%]\t[cdf%]\t[mem KB]\t[times called]\t[Name]"


def main() -> int:
    given = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
    unknown = sorted(set(given) - FLAGS)
    if unknown:
        sys.stderr.write("ERROR: unconsumed cmdline flags: " + " ".join(unknown) + "\n")
        return 1
    graph = Path(given["graph"])
    with graph.open("rb") as file:
        if file.read(8)[4:] != b"TFL3":
            sys.stderr.write("ERROR: Failed to load the model\n")
            return 1
    sys.stdout.write("STARTING!\nLoaded model " + given["graph"] + "\n")
    if given.get("enable_op_profiling") != "true":
        return 0
    slow = 2.0 if graph.stat().st_size > 250_000 else 1.0
    rows = [
        ("CONV_2D", 0.020 * slow, "[conv/Relu;conv/BiasAdd]:0"),
        ("SOFTMAX", 0.002, "[Identity]:1"),
    ]
    total = sum(row[1] for row in rows)
    sys.stderr.write(f"Inference timings in us: Init: 9, Inference (avg): {1e3 * total:.1f}\n")
    sys.stdout.write("Operator-wise Profiling Info for Regular Benchmark Runs:\n")
    sys.stdout.write("============ Run Order ============\n" + HEADER + "\n")
    for kind, ms, name in rows:
        sys.stdout.write(f"\t{kind}\t{ms:.3f}\t{ms:.3f}\t1.0%\t1.0%\t0.000\t1\t{name}\n")
    sys.stdout.write("\n============ Top by Computation Time ============\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
