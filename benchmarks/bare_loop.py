"""The bare loop a user would write: `python bare_loop.py MODEL THREADS [PROCESSOR...]` prints p50 in ns.

Fresh process, half a second of warm-up (or WARMUP_SECONDS of the environment), garbage collection off, every invoke timed on its own
until there are 100 of them and 0.15 s have passed: the same dose as one launch of ours. The second
line is the process's peak resident memory in bytes (VmHWM). With processors, its threads get one
each, as launches of ours do.
"""

from __future__ import annotations

import gc
import os
import sys
import time
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter

processors = [int(word) for word in sys.argv[3:]]
if processors:
    os.sched_setaffinity(0, processors)
tasks = Path("/proc/self/task")
before = {each.name for each in tasks.iterdir()}
interpreter = Interpreter(sys.argv[1], num_threads=int(sys.argv[2]))
interpreter.allocate_tensors()
made = sorted({each.name for each in tasks.iterdir()} - before, key=int)
if len(processors) > 1 and len(made) == len(processors) - 1:
    for thread, processor in zip(["0", *made], processors, strict=True):
        os.sched_setaffinity(int(thread), [processor])
for each in interpreter.get_input_details():
    # A plain pattern: numpy.random would add memory of its own to what is compared.
    pattern = np.arange(np.prod(each["shape"])).reshape(each["shape"]) % 251
    whole = np.issubdtype(each["dtype"], np.integer)
    interpreter.set_tensor(
        each["index"], (pattern - 125 if whole else pattern / 251).astype(each["dtype"])
    )

invoke, clock = interpreter.invoke, time.perf_counter_ns
until = clock() + int(float(os.environ.get("WARMUP_SECONDS", "0.5")) * 1e9)
while clock() < until:
    invoke()
gc.collect()
gc.disable()
samples: list[int] = []
until = clock() + 150_000_000
while clock() < until or len(samples) < 100:
    began = clock()
    invoke()
    samples.append(clock() - began)
print(sorted(samples)[len(samples) // 2])
for line in Path("/proc/self/status").read_text().splitlines():
    if line.startswith("VmHWM:"):
        print(int(line.split()[1]) * 1024)
