"""Small .tflite files made byte by byte, for tests and benchmarks: chains of operators, any length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

_BUILTIN = schema.BuiltinOperator
_OPTIONS = schema.BuiltinOptions


def chain(path: Path, words: Sequence[str], shape: Sequence[int] = (1, 8)) -> Path:
    """Write float32 operators in a row: `ADD` (to a constant), `MUL`, `RELU`, `TANH`, ...; -1 is open."""
    width = shape[-1]
    model, graph = schema.ModelT(), schema.SubGraphT()
    model.version, model.description = 3, "a chain"
    model.buffers = [schema.BufferT()]
    graph.name, graph.tensors, graph.operators = "main", [], []

    def tensor(name: str, shape: Sequence[int], values: Any = None) -> int:
        made = schema.TensorT()
        made.name, made.type = name, schema.TensorType.FLOAT32
        made.shape = [max(1, size) for size in shape]
        made.shapeSignature = list(shape) if -1 in shape else None
        made.buffer = 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(np.asarray(values, "<f4").tobytes(), np.uint8)
            model.buffers.append(buffer)
            made.buffer = len(model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    known = list(dict.fromkeys(words))
    model.operatorCodes = [_code(word) for word in known]
    before = tensor("x", shape)
    graph.inputs = [before]
    for place, word in enumerate(words):
        operator = schema.OperatorT()
        operator.opcodeIndex = known.index(word)
        operator.inputs = [before]
        if word in ("ADD", "MUL", "SUB"):
            constant = np.linspace(0.1, 1.0, width) * (-1) ** place
            operator.inputs.append(tensor(f"c{place}", (width,), constant))
            options = getattr(schema, f"{word.title()}OptionsT")()
            operator.builtinOptions = options
            operator.builtinOptionsType = getattr(_OPTIONS, f"{word.title()}Options")
        before = tensor(f"y{place}", shape)
        operator.outputs = [before]
        graph.operators.append(operator)
    graph.outputs = [before]
    model.subgraphs = [graph]
    builder = flatbuffers.Builder(1024)
    builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
    path.write_bytes(bytes(builder.Output()))
    return path


def _code(word: str) -> Any:
    made = schema.OperatorCodeT()
    made.version = 2 if word == "BROADCAST_TO" else 1
    if word in vars(_BUILTIN):
        made.builtinCode = getattr(_BUILTIN, word)
        made.deprecatedBuiltinCode = min(made.builtinCode, 127)
    else:
        made.builtinCode = made.deprecatedBuiltinCode = _BUILTIN.CUSTOM
        made.customCode = word
    return made


class Graph:
    """A .tflite graph made operator by operator; tensors are float32, or int32 if they hold integers."""

    def __init__(self) -> None:
        self.model, self.graph = schema.ModelT(), schema.SubGraphT()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.model.operatorCodes = []
        self.graph.name, self.graph.tensors, self.graph.operators = "main", [], []

    def tensor(self, name: str, shape: Sequence[int], values: Any = None) -> int:
        """Add a tensor, a constant if it has values; return its index."""
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name.encode(), list(shape), 0
        made.type, made.hasRank = schema.TensorType.FLOAT32, True
        if values is not None:
            array, buffer = np.asarray(values), schema.BufferT()
            if array.dtype.kind == "i":
                made.type, array = schema.TensorType.INT32, array.astype("<i4")
            else:
                array = array.astype("<f4")
            buffer.data = np.frombuffer(array.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        self.graph.tensors.append(made)
        return len(self.graph.tensors) - 1

    def operator(
        self, word: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any
    ) -> None:
        """Add an operator; its options are those of the schema's class for it."""
        made = schema.OperatorT()
        self.model.operatorCodes.append(_code(word))
        made.opcodeIndex = len(self.model.operatorCodes) - 1
        made.inputs, made.outputs = list(inputs), list(outputs)
        kind = f"{word.title().replace('_', '')}Options"
        if hasattr(_OPTIONS, kind):
            made.builtinOptionsType = getattr(_OPTIONS, kind)
            made.builtinOptions = getattr(schema, f"{kind}T")()
            for name, value in options.items():
                setattr(made.builtinOptions, name, value)
        self.graph.operators.append(made)

    def write(self, path: Path, inputs: Sequence[int], outputs: Sequence[int]) -> Path:
        """Write the file with these inputs and outputs."""
        self.graph.inputs, self.graph.outputs = list(inputs), list(outputs)
        self.model.subgraphs = [self.graph]
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path


def endless(path: Path) -> Path:
    """Write a file with a WHILE whose condition is always true: x == x, for any x but NaN."""
    made = _Parts()
    main, condition, body = (made.graph(name) for name in ("main", "condition", "body"))
    x, y = made.tensor(main, "x", (1, 4)), made.tensor(main, "y", (1, 4))
    options = schema.WhileOptionsT()
    options.condSubgraphIndex, options.bodySubgraphIndex = 1, 2
    made.operator(main, "WHILE", [x], [y], options)
    main.inputs, main.outputs = [x], [y]
    given = made.tensor(condition, "x", (1, 4))
    same = made.tensor(condition, "same", (1, 4), schema.TensorType.BOOL)
    axes = made.tensor(condition, "axes", (2,), schema.TensorType.INT32, np.array([0, 1], "<i4"))
    every = made.tensor(condition, "every", (), schema.TensorType.BOOL)
    made.operator(condition, "EQUAL", [given, given], [same], schema.EqualOptionsT())
    made.operator(condition, "REDUCE_ALL", [same, axes], [every], schema.ReducerOptionsT())
    condition.inputs, condition.outputs = [given], [every]
    before, after = made.tensor(body, "x", (1, 4)), made.tensor(body, "again", (1, 4))
    made.operator(body, "ABS", [before], [after], schema.AbsOptionsT())
    body.inputs, body.outputs = [before], [after]
    return made.write(path)


def greedy(path: Path, elements: int) -> Path:
    """Write a small file that asks for this many float32 elements as soon as it is loaded."""
    made = _Parts()
    main = made.graph("main")
    x, y = made.tensor(main, "x", (1, 1)), made.tensor(main, "y", (1, elements))
    shape = made.tensor(
        main, "shape", (2,), schema.TensorType.INT32, np.array([1, elements], "<i4")
    )
    made.operator(main, "BROADCAST_TO", [x, shape], [y], schema.BroadcastToOptionsT())
    main.inputs, main.outputs = [x], [y]
    return made.write(path)


class _Parts:
    """A model under construction."""

    def __init__(self) -> None:
        self.model = schema.ModelT()
        self.model.version, self.model.buffers = 3, [schema.BufferT()]
        self.model.operatorCodes, self.model.subgraphs = [], []
        self.words: list[str] = []

    def graph(self, name: str) -> Any:
        graph = schema.SubGraphT()
        graph.name, graph.tensors, graph.operators = name, [], []
        self.model.subgraphs.append(graph)
        return graph

    def tensor(
        self, graph: Any, name: str, shape: Sequence[int], kind: int = 0, values: Any = None
    ) -> int:
        made = schema.TensorT()
        made.name, made.shape, made.type, made.buffer = name, list(shape), kind, 0
        if values is not None:
            buffer = schema.BufferT()
            buffer.data = np.frombuffer(values.tobytes(), np.uint8)
            self.model.buffers.append(buffer)
            made.buffer = len(self.model.buffers) - 1
        graph.tensors.append(made)
        return len(graph.tensors) - 1

    def operator(
        self, graph: Any, word: str, inputs: list[int], outputs: list[int], options: Any
    ) -> None:
        if word not in self.words:
            self.words.append(word)
            self.model.operatorCodes.append(_code(word))
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self.words.index(word), inputs, outputs
        made.builtinOptions = options
        made.builtinOptionsType = getattr(_OPTIONS, type(options).__name__.removesuffix("T"))
        graph.operators.append(made)

    def write(self, path: Path) -> Path:
        builder = flatbuffers.Builder(1024)
        builder.Finish(self.model.Pack(builder), file_identifier=b"TFL3")
        path.write_bytes(bytes(builder.Output()))
        return path
