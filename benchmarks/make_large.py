"""A .tflite of dense layers: `python make_large.py FILE GIGABYTES` writes so many layers of 4096 x 4096
floats (67 MB each) as come to the size, weights drawn from a normal distribution."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.tools import flatbuffer_utils

WIDTH = 4096

path, gigabytes = Path(sys.argv[1]), float(sys.argv[2])
layers = round(gigabytes * 1e9 / (4 * WIDTH * WIDTH))
chance = np.random.default_rng(1)


def tensor(name: str, shape: list[int], buffer: int) -> schema.TensorT:
    made = schema.TensorT()
    made.name, made.shape, made.buffer = name.encode(), shape, buffer
    made.type, made.isVariable, made.hasRank = schema.TensorType.FLOAT32, False, True
    return made


graph = schema.SubGraphT()
graph.name = b"main"
graph.tensors, graph.operators = [tensor("input", [1, WIDTH], 0)], []
buffers = [schema.BufferT()]
for layer in range(layers):
    kernel = schema.BufferT()
    spread = chance.standard_normal((WIDTH, WIDTH), dtype=np.float32) * (2 / WIDTH) ** 0.5
    kernel.data = spread.view(np.uint8).reshape(-1)
    buffers += [kernel, schema.BufferT()]
    graph.tensors += [
        tensor(f"dense_{layer}/kernel", [WIDTH, WIDTH], len(buffers) - 2),
        tensor(f"dense_{layer}", [1, WIDTH], len(buffers) - 1),
    ]
    operator = schema.OperatorT()
    operator.opcodeIndex = 0
    operator.inputs = [2 * layer, 2 * layer + 1, -1]
    operator.outputs = [2 * layer + 2]
    operator.builtinOptionsType = schema.BuiltinOptions.FullyConnectedOptions
    operator.builtinOptions = schema.FullyConnectedOptionsT()
    operator.builtinOptions.fusedActivationFunction = schema.ActivationFunctionType.RELU
    graph.operators.append(operator)
graph.inputs, graph.outputs = [0], [2 * layers]
code = schema.OperatorCodeT()
code.builtinCode = code.deprecatedBuiltinCode = schema.BuiltinOperator.FULLY_CONNECTED
code.version = 1
model = schema.ModelT()
model.version, model.description = 3, b"dense layers"
model.operatorCodes, model.subgraphs, model.buffers = [code], [graph], buffers
path.parent.mkdir(parents=True, exist_ok=True)
part = path.with_suffix(".part")
part.write_bytes(flatbuffer_utils.convert_object_to_bytearray(model))
part.rename(path)
