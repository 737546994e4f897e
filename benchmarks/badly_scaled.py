"""A float model whose channels are badly scaled, made of a good one without training.

    python -m benchmarks.badly_scaled GOOD.tflite OUT.tflite

ReLU(s x) = s ReLU(x) for s > 0, so the channels of a tensor between two convolutions can be
multiplied by any s where it is made and divided by it where it is used: the float model computes
the same. int8 has one scale for the whole activation tensor, so the channels with a small s get no
codes and what they carry is lost. Weights have a scale an output channel, so only those of the
pointwise convolution suffer, whose input channels were divided.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

OCTAVES = 10.0
"""s is 2^u, u uniform over so many octaves, centred on 0."""
CHAIN = (2, 5)
"""Which convolutions, in order, are rescaled between each other: in the digits model a depthwise,
the pointwise after it and the next depthwise, so two activation tensors."""
_RELU = 1


def badly_scaled(
    good: bytes,
    *,
    octaves: float = OCTAVES,
    chain: tuple[int, int] = CHAIN,
    seed: int = 7,
) -> bytes:
    """Rescale the channels between each two neighbours of the chosen convolutions."""
    from ai_edge_litert import schema_py_generated as schema
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(bytearray(good))
    graph = model.subgraphs[0]
    words = schema.BuiltinOperator
    convolutions = [
        operator
        for operator in graph.operators
        if model.operatorCodes[operator.opcodeIndex].builtinCode
        in {words.CONV_2D, words.DEPTHWISE_CONV_2D}
    ]
    generator = np.random.default_rng(seed)
    for maker, user in pairwise(convolutions[slice(*chain)]):
        assert maker.outputs[0] == user.inputs[0]
        assert maker.builtinOptions.fusedActivationFunction == _RELU
        weights, bias = (_array(model, graph, maker.inputs[i]) for i in (1, 2))
        scale = 2.0 ** generator.uniform(-octaves / 2, octaves / 2, bias.size).astype(np.float32)
        depthwise = _is(model, maker, words.DEPTHWISE_CONV_2D)
        weights *= scale if depthwise else scale[:, None, None, None]
        bias *= scale
        _array(model, graph, user.inputs[1])[...] /= scale  # channels come last in both layouts
    return bytes(flatbuffer_utils.convert_object_to_bytearray(model))


def _is(model: Any, operator: Any, word: int) -> bool:  # noqa: ANN401 - generated classes
    return bool(model.operatorCodes[operator.opcodeIndex].builtinCode == word)


def _array(model: Any, graph: Any, index: int) -> np.ndarray[Any, Any]:  # noqa: ANN401 - generated classes
    """Give a constant as an array whose changes are the file's."""
    tensor = graph.tensors[index]
    buffer = model.buffers[tensor.buffer]
    buffer.data = np.array(buffer.data, np.uint8)
    return buffer.data.view(np.float32).reshape(tensor.shape)


if __name__ == "__main__":
    Path(sys.argv[2]).write_bytes(badly_scaled(Path(sys.argv[1]).read_bytes()))
