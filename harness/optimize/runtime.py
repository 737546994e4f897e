"""Run a .tflite file on this host per sample. Only in a worker: a bad file may crash the process."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from harness import assets
from harness.errors import HarnessError, RecipeError
from harness.optimize import library_errors
from harness.optimize.beats import BEATS
from harness.tflite import rewrite
from harness.tflite.flatbuffer import FileFacts
from harness.tflite.numeric import Array

_CUSTOM = re.compile(r"unresolved custom op: ([^\s.]+)")


class Runner:
    """One file in one interpreter; inputs and outputs in the file's own dtypes.

    Raises RecipeError with the runtime's message if it refuses the file or an inference fails,
    MemoryError if it gives none, and HarnessError if no runtime is installed.
    """

    def __init__(self, path: Path, facts: FileFacts, threads: int = 1) -> None:
        """Load the file and allocate its tensors; open dimensions have the file's own size."""
        self.facts = facts
        try:
            self._interpreter = _interpreter(path, threads)
            self._interpreter.allocate_tensors()
            self._inputs = [
                (item["index"], tuple(item["shape"]))
                for item in self._interpreter.get_input_details()
            ]
        except (RuntimeError, ValueError) as error:
            if not str(error).strip():
                raise MemoryError(rewrite.NO_REASON) from error
            raise RecipeError(f"the runtime refuses the file: {_reason(error)}") from error

    def invoke(self, sample: Sequence[Array]) -> list[Array]:
        """Run one sample (inputs in order, without batch) and return copies of the outputs."""
        try:
            for (index, shape), array in zip(self._inputs, sample, strict=True):
                self._interpreter.set_tensor(index, array.reshape(shape))
            self._interpreter.invoke()
        except (RuntimeError, ValueError) as error:
            if not str(error).strip():
                raise MemoryError(rewrite.NO_REASON) from error
            raise RecipeError(f"an inference failed: {_reason(error)}") from error
        BEATS.beat()
        return [
            _without_batch(self._interpreter.get_tensor(item["index"]))
            for item in self._interpreter.get_output_details()
        ]

    def operators(self) -> list[dict[str, Any]]:
        """Return the runtime's nodes, including those of delegates."""
        found: list[dict[str, Any]] = self._interpreter._get_ops_details()  # noqa: SLF001 - the only way to see delegates
        return found


def run(
    path: Path, facts: FileFacts, inputs: Mapping[str, Array], threads: int = 1
) -> dict[str, Array]:
    """Run (n, ...) arrays by tensor name through a file; outputs as (n, ...) by tensor name."""
    runner = Runner(path, facts, threads)
    missing = [tensor.name for tensor in facts.inputs if tensor.name not in inputs]
    if missing:
        raise RecipeError(f"{path.name}: no array for the inputs {', '.join(missing)}")
    columns = [inputs[tensor.name] for tensor in facts.inputs]
    rows = [runner.invoke(sample) for sample in _rows(columns)]
    return {
        tensor.name: np.stack([row[i] for row in rows]) for i, tensor in enumerate(facts.outputs)
    }


def _rows(columns: Sequence[Array]) -> Iterator[tuple[Array, ...]]:
    return iter(zip(*columns, strict=True))


def _reason(error: Exception) -> str:
    custom = _CUSTOM.search(str(error))
    if custom:
        return (
            f"{custom[1]} is a custom operator, which only a runtime made with it can run; replace "
            "the layer that it comes from"
        )
    return library_errors.brief(error)


def _without_batch(array: Array) -> Array:
    return array[0] if array.ndim and array.shape[0] == 1 else array


def _interpreter(path: Path, threads: int) -> Any:  # noqa: ANN401 - untyped library
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise HarnessError(
            f"running {path.name} on this host needs ai-edge-litert ({error}); "
            f"{assets.install_command('light')}"
        ) from error
    return Interpreter(str(path), num_threads=threads)
