"""Find batch normalisations that the conversion could have folded but did not.

A batch normalisation directly after a convolution is a scale and a shift per channel, which belong
in the convolution's weights and bias (Jacob et al. 2018, section 3.2). If the converter did not
fold them, the file has a MUL or an ADD by a vector after the convolution: it is slower, and less
accurate once quantised. A normalisation after an activation, or after a convolution with several
readers, cannot be folded and is not reported.

    folding.unfolded(Path("model.tflite"))   # ("block_1_BN/FusedBatchNormV3", ...)
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from harness.tflite import flatbuffer
from harness.tflite.flatbuffer import FlatbufferReader

FLAG = "unfolded_batch_norm"
_LAYERS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
}
"""Operators that can absorb a scale and a shift, and the schema's class of their options."""
_REMNANTS = {"MUL": "MulOptions", "ADD": "AddOptions", "SUB": "SubOptions"}
_NAMED = 3


def unfolded(path: Path) -> tuple[str, ...]:
    """Return the output names of unfolded scales and shifts. Raises as `flatbuffer.read`."""
    with flatbuffer.reading(path.read_bytes(), path) as reader:
        return tuple(name for graph in reader.subgraphs for name in _remnants(reader, graph))


def note(names: tuple[str, ...]) -> str:
    """Return a note on unfolded batch normalisations."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return (
        f"not folded into the preceding convolution: {', '.join(names[:_NAMED])}{more}; put the "
        "batch normalisation directly after the convolution and convert again"
    )


def _remnants(reader: FlatbufferReader, graph: Any) -> list[str]:  # noqa: ANN401 - generated classes
    operators = [graph.Operators(i) for i in range(reader.length(graph.OperatorsLength()))]
    types = [_type(reader, operator) for operator in operators]
    makers: dict[int, int] = {}
    readers: dict[int, int] = dict.fromkeys(flatbuffer.ints(graph.OutputsAsNumpy()), 1)
    for position, operator in enumerate(operators):
        for index in flatbuffer.ints(operator.OutputsAsNumpy()):
            makers[index] = position
        for index in flatbuffer.ints(operator.InputsAsNumpy()):
            readers[index] = readers.get(index, 0) + 1
    found: list[str] = []
    foldable: set[int] = set()
    """Outputs of layers and remnants; a scale or shift after them can be folded."""
    for kind, operator in zip(types, operators, strict=True):
        outputs = flatbuffer.ints(operator.OutputsAsNumpy())
        remnant = False
        if kind in _REMNANTS and _by_vector(reader, graph, operator, makers):
            sources = [i for i in flatbuffer.ints(operator.InputsAsNumpy()) if i in foldable]
            remnant = bool(sources) and readers[sources[0]] == 1
        if remnant:
            found.append(flatbuffer.text(graph.Tensors(outputs[0]).Name()))
        if (remnant or kind in _LAYERS) and _activation(operator, kind) == 0:
            foldable.update(outputs)
    return found


def _type(reader: FlatbufferReader, operator: Any) -> str:  # noqa: ANN401 - generated classes
    return reader.operator_name(reader.model.OperatorCodes(operator.OpcodeIndex()))[0]


def _activation(operator: Any, kind: str) -> int:  # noqa: ANN401 - generated classes
    """Return the number of the activation fused into an operator; 0 is none."""
    from ai_edge_litert import schema_py_generated as schema

    table = operator.BuiltinOptions()
    if table is None:
        return 0
    options = getattr(schema, (_LAYERS | _REMNANTS)[kind])()
    options.Init(table.Bytes, table.Pos)
    return int(options.FusedActivationFunction())


def _by_vector(reader: FlatbufferReader, graph: Any, operator: Any, makers: dict[int, int]) -> bool:  # noqa: ANN401 - generated classes
    """Return whether one input is a constant with one number per channel."""
    for index in flatbuffer.ints(operator.InputsAsNumpy()):
        if index in makers:
            continue
        tensor = graph.Tensors(index)
        shape = flatbuffer.ints(tensor.ShapeAsNumpy())
        if reader.buffer(tensor.Buffer()) and shape and 1 < math.prod(shape) == shape[-1]:
            return True
    return False
