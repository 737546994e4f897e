"""The agent's GPU beside run and read by hand in one process: `python gpu_beside.py MODEL` prints both p50s, ns.

Inference by inference in turn, so that whatever else the machine does meets both alike.
"""

from __future__ import annotations

import gc
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "agents" / "python_tflite"))

import arrays
import gpu
import numpy as np
import runtimes
from ai_edge_litert.compiled_model import CompiledModel, HardwareAccelerator

WARMUP, SAMPLES, MOST_SECONDS = 20, 1000, 20.0

path = sys.argv[1]
order: dict[str, Any] = {"threads": 1, "delegate_options": {}}
ours = gpu.Gpu().load(order, runtimes.load("ai_edge_litert"), path)
model = CompiledModel.from_file(path, hardware_accel=HardwareAccelerator.GPU)
inputs, outputs = model.create_input_buffers(0), model.create_output_buffers(0)
for place, (entry, buffer) in enumerate(zip(ours.get_input_details(), inputs, strict=True)):
    value = arrays.fill(tuple(entry["shape"]), entry["dtype"], place)
    ours.set_tensor(entry["index"], value)
    buffer.write(value)
reads = [
    (each.read, int(np.prod(told["shape"])), np.dtype(told["dtype"]))
    for each in outputs
    for told in [each.get_tensor_details()]
]


def by_hand() -> None:
    model.run_by_index(0, inputs, outputs)
    for read, size, dtype in reads:
        read(size, dtype)


clock = time.perf_counter_ns
for _ in range(WARMUP):
    ours.invoke()
    by_hand()
gc.collect()
gc.disable()
samples: tuple[list[int], list[int]] = ([], [])
until = clock() + int(MOST_SECONDS * 1e9)
while len(samples[0]) < SAMPLES and clock() < until:
    for times, call in zip(samples, (ours.invoke, by_hand), strict=True):
        began = clock()
        call()
        times.append(clock() - began)
print(*(sorted(times)[len(times) // 2] for times in samples), len(samples[0]))
