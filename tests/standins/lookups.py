"""Small .tflite files of named tensors that look values up in tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

WORDS = {
    "SELECT_V2": "SelectV2",
    "ONE_HOT": "OneHot",
    "MAXIMUM": "MaximumMinimum",
    "MINIMUM": "MaximumMinimum",
}
"""The schema's names of the options, where they are not the operator's."""
TYPES = {"f": schema.TensorType.FLOAT32, "i": schema.TensorType.INT32, "b": schema.TensorType.BOOL}


class NamedGraph:
    """A .tflite of named tensors; a name's first letter is its type: f, i, b."""

    def __init__(self, inputs: dict[str, Sequence[int]]) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.model.operatorCodes, self.graph.tensors, self.graph.operators = [], [], []
        self.names: list[str] = []
        self.graph.inputs = [self.tensor(name, shape) for name, shape in inputs.items()]

    def tensor(self, name: str, shape: Sequence[int], values: Any = None) -> int:
        made = schema.TensorT()
        made.name, made.type, made.shape, made.buffer = name, TYPES[name[0]], list(shape), 0
        if values is not None:
            buffer = schema.BufferT()
            kind = "<f4" if name[0] == "f" else "<i4"
            buffer.data = np.frombuffer(np.asarray(values, kind).tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(made)
        self.names.append(name)
        return len(self.names) - 1

    def constant(self, name: str, values: Any) -> NamedGraph:
        array = np.asarray(values)
        self.tensor(name, array.shape, array)
        return self

    def add(
        self, kind: str, inputs: str, output: str, shape: Sequence[int], **options: Any
    ) -> NamedGraph:
        operator, code = schema.OperatorT(), schema.OperatorCodeT()
        code.builtinCode = getattr(schema.BuiltinOperator, kind)
        code.deprecatedBuiltinCode, code.version = min(code.builtinCode, 127), 1
        self.model.operatorCodes.append(code)
        operator.opcodeIndex = len(self.model.operatorCodes) - 1
        operator.inputs = [self.names.index(name) for name in inputs.split()]
        operator.outputs = [self.tensor(output, shape)]
        word = WORDS.get(kind, kind.title())
        made = getattr(schema, f"{word}OptionsT")()
        for name, value in options.items():
            setattr(made, name, value)
        operator.builtinOptions = made
        operator.builtinOptionsType = getattr(schema.BuiltinOptions, f"{word}Options")
        self.graph.operators.append(operator)
        return self

    def write(self, path: Path) -> Path:
        self.graph.outputs = [len(self.names) - 1]
        self.model.subgraphs = [self.graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def table(rows: int) -> np.ndarray[Any, Any]:
    return np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)


def looked_up(rows: int) -> NamedGraph:
    return (
        NamedGraph({"i": (1, 4)}).constant("ft", table(rows)).add("GATHER", "ft i", "fo", (1, 4, 2))
    )
