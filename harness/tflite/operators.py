"""The operators of a float .tflite, and the quantiser's names and scopes for them.

for operator in operators.read(Path("model.tflite"), operators.integer_types()):
    operator.type, operator.name, operator.weights
"""

from __future__ import annotations

import math
import re
from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.tflite import flatbuffer
from harness.tflite.flatbuffer import FlatbufferReader

_QUANTISER_TYPES = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}
"""The quantiser's names that differ from TFLite's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """An operator of the main graph."""

    index: int
    type: str
    """TFLite's name: `CONV_2D`."""
    name: str
    """Names of its output tensors, joined by `;`."""
    shapes: tuple[tuple[int, ...], ...]
    """Shapes of its float constants of two dimensions or more that no earlier operator uses."""

    @property
    def weights(self) -> int:
        """Count the elements of its constants."""
        return sum(math.prod(shape) for shape in self.shapes)


def read(path: Path, types: Container[str]) -> tuple[Operator, ...]:
    """Read the main graph's operators whose type, by the quantiser's name, is in `types`.

    Raises RecipeError for a damaged file.
    """
    found: list[Operator] = []
    counted: set[int] = set()
    with flatbuffer.reading(path.read_bytes(), path) as reader:
        graph = reader.subgraphs[0]
        for index in range(reader.length(graph.OperatorsLength())):
            operator = graph.Operators(index)
            code = reader.model.OperatorCodes(operator.OpcodeIndex())
            kind, custom = reader.operator_name(code)
            if custom or _QUANTISER_TYPES.get(kind, kind) not in types:
                continue
            outputs = flatbuffer.ints(operator.OutputsAsNumpy())
            inputs = flatbuffer.ints(operator.InputsAsNumpy())
            fresh = [i for i in dict.fromkeys(inputs) if i >= 0 and i not in counted]
            counted.update(fresh)
            shapes = [_constant(reader, graph.Tensors(i)) for i in fresh]
            found.append(
                Operator(
                    index=index,
                    type=kind,
                    name=";".join(flatbuffer.text(graph.Tensors(i).Name()) for i in outputs),
                    shapes=tuple(shape for shape in shapes if shape),
                )
            )
    return tuple(found)


def integer_types() -> frozenset[str]:
    """Return the quantiser's names of the types that it quantises to int8 with calibration."""
    from ai_edge_quantizer import default_policy, recipe
    from ai_edge_quantizer.qtyping import OpQuantizationConfig

    config = OpQuantizationConfig.from_dict(recipe.static_wi8_ai8()[0]["op_config"])
    policy = default_policy.DEFAULT_CONFIG_CHECK_POLICY
    types = {kind.value for kind, allowed in policy.items() if config in allowed}
    return frozenset(types - {"INPUT", "OUTPUT"})


def scope(operator: Operator) -> str:
    """Return a pattern for exactly this operator.

    The quantiser searches in the names of its outputs, each followed by a `;`.
    """
    return f"^{re.escape(operator.name)};$"


def quantiser_type(operator: Operator) -> Any:  # noqa: ANN401 - untyped library
    """Return the quantiser's own value for the operator's type."""
    from ai_edge_quantizer import qtyping

    return qtyping.TFLOperationName(_QUANTISER_TYPES.get(operator.type, operator.type))


def _constant(reader: FlatbufferReader, tensor: Any) -> tuple[int, ...]:  # noqa: ANN401 - generated classes
    """Return the shape of a float constant of two dimensions or more; () for anything else."""
    shape = tuple(flatbuffer.ints(tensor.ShapeAsNumpy()))
    floating = flatbuffer.dtype_name(tensor).startswith("float")
    return shape if floating and len(shape) > 1 and reader.buffer(tensor.Buffer()) else ()
