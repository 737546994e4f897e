"""The operators of a float .tflite, and how the quantiser is told which of them is meant.

for operator in operators.read(Path("model.tflite"), operators.integer_words()):
    operator.word, operator.name, operator.weights
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

_QUANTISER_WORDS = {"TRANSPOSE_CONV": "CONV_2D_TRANSPOSE"}
"""Where the quantiser's word is not TFLite's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Operator:
    """An operator of the main graph."""

    index: int
    word: str
    """As TFLite has it: `CONV_2D`."""
    name: str
    """Names of its output tensors, joined by `;`."""
    shapes: tuple[tuple[int, ...], ...]
    """Of its float constants of two dimensions or more that no operator before it uses."""

    @property
    def weights(self) -> int:
        """Count the elements of its constants."""
        return sum(math.prod(shape) for shape in self.shapes)


def read(path: Path, words: Container[str]) -> tuple[Operator, ...]:
    """Read those operators of a file's main graph whose word (as the quantiser has it) is in `words`.

    Raises RecipeError for a damaged file.
    """
    found: list[Operator] = []
    counted: set[int] = set()
    with flatbuffer.reading(path.read_bytes(), path) as reader:
        graph = reader.subgraphs[0]
        for index in range(reader.length(graph.OperatorsLength())):
            operator = graph.Operators(index)
            code = reader.model.OperatorCodes(operator.OpcodeIndex())
            word, custom = reader.operator_word(code)
            if custom or _QUANTISER_WORDS.get(word, word) not in words:
                continue
            outputs = flatbuffer.ints(operator.OutputsAsNumpy())
            inputs = flatbuffer.ints(operator.InputsAsNumpy())
            fresh = [i for i in dict.fromkeys(inputs) if i >= 0 and i not in counted]
            counted.update(fresh)
            shapes = [_constant(reader, graph.Tensors(i)) for i in fresh]
            found.append(
                Operator(
                    index=index,
                    word=word,
                    name=";".join(flatbuffer.text(graph.Tensors(i).Name()) for i in outputs),
                    shapes=tuple(shape for shape in shapes if shape),
                )
            )
    return tuple(found)


def integer_words() -> frozenset[str]:
    """Return the quantiser's words of the operators that it makes int8 with calibration."""
    from ai_edge_quantizer import default_policy, recipe
    from ai_edge_quantizer.qtyping import OpQuantizationConfig

    config = OpQuantizationConfig.from_dict(recipe.static_wi8_ai8()[0]["op_config"])
    policy = default_policy.DEFAULT_CONFIG_CHECK_POLICY
    words = {word.value for word, allowed in policy.items() if config in allowed}
    return frozenset(words - {"INPUT", "OUTPUT"})


def scope(operator: Operator) -> str:
    """Match exactly this operator: the quantiser searches in its output names, each with a `;`."""
    return f"^{re.escape(operator.name)};$"


def quantiser_word(operator: Operator) -> Any:  # noqa: ANN401 - untyped library
    """Return the quantiser's own word for the operator."""
    from ai_edge_quantizer import qtyping

    return qtyping.TFLOperationName(_QUANTISER_WORDS.get(operator.word, operator.word))


def _constant(reader: FlatbufferReader, tensor: Any) -> tuple[int, ...]:  # noqa: ANN401 - generated classes
    """Return the shape of a float constant of two dimensions or more; () of anything else."""
    shape = tuple(flatbuffer.ints(tensor.ShapeAsNumpy()))
    floating = flatbuffer.dtype_word(tensor).startswith("float")
    return shape if floating and len(shape) > 1 and reader.buffer(tensor.Buffer()) else ()
