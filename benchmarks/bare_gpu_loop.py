"""What a user would write for a GPU: `python bare_gpu_loop.py MODEL` prints the p50 of run and read, in ns.

Fresh process, the model on the GPU alone, WARMUP_SECONDS of warm-up, garbage collection off; every run with the
reading of all outputs is timed until there are 30 of them and 0.3 s have passed.
"""

from __future__ import annotations

import gc
import os
import sys
import time

import numpy as np
from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator

model = CompiledModel.from_file(sys.argv[1], hardware_accel=HardwareAccelerator.GPU)
inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
for each in inputs:
    told = each.get_tensor_details()
    pattern = np.arange(np.prod(told["shape"])) % 251
    whole = np.issubdtype(np.dtype(told["dtype"]), np.integer)
    each.write((pattern if whole else pattern / 251).astype(told["dtype"]))
reads = [
    (each, int(np.prod(each.get_tensor_details()["shape"])), each.get_tensor_details()["dtype"])
    for each in outputs
]

clock = time.perf_counter_ns


def once() -> int:
    began = clock()
    model.run_by_index(0, inputs, outputs)
    for buffer, size, dtype in reads:
        buffer.read(size, np.dtype(dtype))
    return clock() - began


until = clock() + int(float(os.environ.get("WARMUP_SECONDS", "0.2")) * 1e9)
while clock() < until:
    once()
gc.collect()
gc.disable()
samples: list[int] = []
until = clock() + 300_000_000
while clock() < until or len(samples) < 30:
    samples.append(once())
print(sorted(samples)[len(samples) // 2])
