"""Check from the file alone whether a GPU can run it through LiteRT's WebGPU accelerator.

The lists are for ai-edge-litert 2.3. Each operator was tried alone on the accelerator, except QUANTIZE and
DEQUANTIZE, which were in files that ran. Only a launch shows which operators the accelerator really takes. A
model that runs in part is measured and marked so; a model that no GPU can run is refused here.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

from harness import hints
from harness.errors import RecipeError
from harness.tflite import flatbuffer

SUPPORTED = frozenset(
    (
        *("ABS", "ADD", "ARG_MAX", "ATAN2", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CAST", "CEIL"),
        *("CONCATENATION", "CONV_2D", "COS", "CUMSUM", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE"),
        *("DEQUANTIZE", "DIV", "ELU", "EQUAL", "EXP", "FLOOR", "FLOOR_DIV", "FLOOR_MOD"),
        *("FULLY_CONNECTED", "GATHER", "GELU", "GREATER", "GREATER_EQUAL", "HARD_SWISH"),
        *("LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND", "LOGICAL_OR", "LOGISTIC"),
        *("MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL"),
        *("ONE_HOT", "PACK", "PAD", "PADV2", "POW", "PRELU", "QUANTIZE", "REDUCE_ALL"),
        *("REDUCE_ANY", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_PROD", "RELU", "RELU6"),
        *("RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2"),
        *("RIGHT_SHIFT", "ROUND", "RSQRT", "SELECT", "SELECT_V2", "SIGN", "SIN", "SLICE"),
        *("SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT", "SQUARE"),
        *("SQUARED_DIFFERENCE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TILE", "TOPK_V2"),
        *("TRANSPOSE", "TRANSPOSE_CONV", "UNPACK"),
    )
)
"""Operators that the accelerator takes if their tensors have at most four dimensions."""

SIZED_BY_DATA = frozenset(
    (
        *("NON_MAX_SUPPRESSION_V4", "NON_MAX_SUPPRESSION_V5", "RANGE", "SEGMENT_SUM", "UNIQUE"),
        "WHERE",
    )
)
"""Operators whose output size depends on the data; a file with one of them is refused."""

MAX_DIMENSIONS = 4


def fit(path: Path) -> list[str]:
    """Check a file for a GPU; return notes on the operators that stay on the CPU.

    Raises RecipeError, with the names of operators and tensors, if the accelerator cannot load the file:
    open dimensions, sizes that depend on data, custom operators, state, no supported operator.
    """
    facts = flatbuffer.read(path)
    for tensor in facts.inputs:
        if -1 in tensor.shape[1:]:
            raise RecipeError(
                f'the input "{tensor.name}" is {list(tensor.shape)} (-1 is open) and a GPU takes '
                f"constant sizes: build it with the key shape of the model, or {hints.option('shape')}"
            )
    if facts.custom:
        raise RecipeError(f"a GPU runs no custom operators: {', '.join(facts.custom)}")
    sized = sorted(SIZED_BY_DATA & set(facts.operators))
    if sized:
        raise RecipeError(
            f"a GPU takes constant sizes, and those of {', '.join(sized)} depend on the data: "
            "cut the model before it, or measure it on the CPU"
        )
    taken, left = _sorted(path)
    if left and not taken:
        raise RecipeError(f"no operator of the model runs on a GPU: {_counted(left)}")
    return [f"not for the GPU, left on the CPU: {_counted(left)}"] if left else []


def _sorted(path: Path) -> tuple[int, Counter[str]]:
    """Return the number of the main graph's operators that a GPU takes, and the others by name and reason."""
    taken, left = 0, Counter[str]()
    with flatbuffer.reading(path.read_bytes(), path) as reader:
        graph = reader.subgraphs[0]
        for index in range(reader.length(graph.TensorsLength())):
            if graph.Tensors(index).IsVariable():
                name = flatbuffer.text(graph.Tensors(index).Name())
                raise RecipeError(
                    f'the runtime\'s GPU path loads no model with state, and "{name}" is a state '
                    "variable: unroll the recurrent layers"
                )
        for index in range(reader.length(graph.OperatorsLength())):
            operator = graph.Operators(index)
            name, _ = reader.operator_name(reader.model.OperatorCodes(operator.OpcodeIndex()))
            dimensions = max(_dimensions(graph, operator), default=0)
            if name not in SUPPORTED:
                left[name] += 1
            elif dimensions > MAX_DIMENSIONS:
                left[f"{name} ({dimensions} dimensions)"] += 1
            else:
                taken += 1
    return taken, left


def _dimensions(graph: Any, operator: Any) -> list[int]:  # noqa: ANN401 - generated, without types
    edges = [
        *flatbuffer.ints(operator.InputsAsNumpy()),
        *flatbuffer.ints(operator.OutputsAsNumpy()),
    ]
    # -1 is an omitted optional input.
    return [graph.Tensors(edge).ShapeLength() for edge in edges if edge >= 0]


def _counted(left: Counter[str]) -> str:
    return ", ".join(f"{one} x{times}" if times > 1 else one for one, times in left.items())
