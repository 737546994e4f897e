"""Inputs and outputs of single inferences with TensorFlow Lite's program: raw bytes in files."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.devices.dialects.benchmark_model.bundle import RunnerBundle
from harness.devices.dialects.benchmark_model.programs import RunnerProgram
from harness.errors import AgentError, Unsupported
from harness.tflite import flatbuffer
from harness.types import LaunchOrder, Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEdges:
    """The inputs and outputs of a file in its own order."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    signature: str | None
    """The signature to run, which a file with several needs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InferenceRun:
    """What the processes of one `infer` have in common."""

    order: LaunchOrder
    bundle: RunnerBundle
    program: RunnerProgram
    edges: ModelEdges


def edges_of(path: Path) -> ModelEdges:
    """Read a file's inputs and outputs; raises RecipeError if it cannot be read."""
    found = flatbuffer.read(path)
    names = [one.name for one in found.signatures]
    return ModelEdges(
        inputs=found.inputs, outputs=found.outputs, signature=names[0] if len(names) > 1 else None
    )


def samples(device: str, inputs: Mapping[str, np.ndarray[Any, Any]], most: int) -> int:
    """Return the number of samples; raises AgentError unless every input has 1 to `most`."""
    counts = {value.shape[0] if value.ndim else 0 for value in inputs.values()}
    if len(counts) != 1 or not 0 < min(counts) <= most:
        raise AgentError(
            f"{device}: infer takes 1 to {most} samples, the same number for every input"
        )
    return min(counts)


def matched(
    device: str, edges: ModelEdges, inputs: Mapping[str, np.ndarray[Any, Any]]
) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Yield the name of each input of the file with its samples; by tensor name, else by order."""
    if len(inputs) != len(edges.inputs):
        raise AgentError(
            f"{device}: the file has {len(edges.inputs)} inputs, and {len(inputs)} are given"
        )
    by_name = all(tensor.name in inputs for tensor in edges.inputs)
    for tensor, value in zip(edges.inputs, inputs.values(), strict=True):
        yield tensor.name, np.ascontiguousarray(inputs[tensor.name] if by_name else value)


def split(where: str, edges: ModelEdges, data: bytes | None) -> list[np.ndarray[Any, Any]]:
    """Split the program's output file: the bytes of every output, one after the other."""
    if data is None:
        raise AgentError(f"{where}: the program wrote no output file")
    found, at = [], 0
    for tensor in edges.outputs:
        try:
            dtype = np.dtype(tensor.dtype).newbyteorder("<")
        except TypeError as error:
            raise Unsupported(f"{where}: outputs of type {tensor.dtype} cannot be read") from error
        # A dynamic dimension is the batch, which is 1.
        shape = tuple(max(size, 1) for size in tensor.shape)
        size = math.prod(shape) * dtype.itemsize
        part = data[at : at + size]
        if len(part) != size:
            raise AgentError(
                f"{where}: the output file has {len(data)} bytes, too few for {tensor.name}"
            )
        value = np.frombuffer(part, dtype).reshape(shape).astype(tensor.dtype)
        found.append(value if value.ndim else value.reshape(1))
        at += size
    if at != len(data):
        raise AgentError(
            f"{where}: the output file has {len(data)} bytes, and the outputs have {at}"
        )
    return found
