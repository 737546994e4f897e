"""Plans for lab devices with faults: quick launches, files of a known size."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

from .__main__ import farm_entry
from .device import LabDevice

DIGITS = Path(__file__).parents[2] / "harness" / "demo" / "data" / "digits.tflite"
QUICK = {
    "launches": 1,
    "min_inferences": 5,
    "min_seconds": 0.0,
    "max_seconds": 5.0,
    "warmup_seconds": 0.0,
    "warmup_min_inferences": 1,
    "warmup_max_inferences": 5,
    "warmup_max_seconds": 0.5,
}


def model(path: Path, extra_bytes: int = 0) -> Path:
    """Write the digits model with incompressible bytes after it; returns the path.

    A runtime reads a .tflite from its root and ignores bytes after it. The bytes differ for every
    path, so no device has the file yet.
    """
    tail = random.Random(str(path)).randbytes(extra_bytes + 8)
    path.write_bytes(DIGITS.read_bytes() + tail)
    return path


def plan(
    folder: Path,
    devices: Sequence[LabDevice],
    models: Mapping[str, Path],
    *,
    dose: Mapping[str, float] | None = None,
    patience_seconds: float = 60.0,
) -> tuple[Path, Path]:
    """Write a plan of these models, unchanged, and its farm; returns both paths."""
    entries = "".join(
        f"[[model]]\nname = {json.dumps(name)}\npath = {json.dumps(str(path))}\n"
        for name, path in models.items()
    )
    given = "".join(f"{key} = {value}\n" for key, value in {**QUICK, **(dose or {})}.items())
    written, farm = folder / "plan.toml", folder / "farm.toml"
    names = json.dumps([device.name for device in devices])
    written.write_text(
        f"{entries}[run]\nrecipes = ['as_is']\ndevices = {names}\n"
        f"patience_seconds = {patience_seconds}\n[dose]\n{given}"
    )
    farm.write_text("\n".join(farm_entry(device.entry) for device in devices))
    return written, farm


def digest(path: Path) -> str:
    """Return a file's sha256, its name on a device."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def greedy(path: Path, megabytes: int) -> Path:
    """Write a .tflite with one input and one output number that needs this much memory for its tensors."""
    path.write_bytes(_tiling(megabytes * 1_000_000 // 4, summed=True))
    return path


def wide(path: Path, numbers: int) -> Path:
    """Write a .tflite with one input number and this many outputs; no device has it, as with `model`."""
    path.write_bytes(_tiling(numbers, summed=False) + random.Random(str(path)).randbytes(8))
    return path


def _tiling(count: int, *, summed: bool) -> bytes:
    """Make a model that copies a number, and optionally adds up the copies."""
    import flatbuffers  # type: ignore[import-untyped]
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    shapes = {"x": [1, 1], "times": [2], "copies": [1, count], "axis": [1], "sum": [1, 1]}
    constants = {"times": [1, count], "axis": [1]}
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.operatorCodes, model.buffers = 3, [], [schema.BufferT()]
    graph.tensors, graph.operators = [], []
    graph.inputs, graph.outputs = [0], [4 if summed else 2]
    for name, shape in shapes.items():
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name.encode(), shape, 0
        tensor.type = schema.TensorType.FLOAT32
        if name in constants:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.array(constants[name], np.int32).tobytes(), np.uint8)
            tensor.type, tensor.buffer = schema.TensorType.INT32, len(model.buffers)
            model.buffers.append(buffer)
        graph.tensors.append(tensor)
    steps = [("TILE", [0, 1], 2), ("SUM", [2, 3], 4)]
    for kind, inputs, output in steps if summed else steps[:1]:
        operator, code = schema.OperatorT(), schema.OperatorCodeT()
        operator.inputs, operator.outputs = inputs, [output]
        operator.opcodeIndex = len(model.operatorCodes)
        code.builtinCode = code.deprecatedBuiltinCode = getattr(schema.BuiltinOperator, kind)
        if kind == "SUM":
            operator.builtinOptionsType = schema.BuiltinOptions.ReducerOptions
            operator.builtinOptions = schema.ReducerOptionsT()
            operator.builtinOptions.keepDims = True
        model.operatorCodes.append(code)
        graph.operators.append(operator)
    model.subgraphs = [graph]
    builder = flatbuffers.Builder()
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    return bytes(builder.Output())
