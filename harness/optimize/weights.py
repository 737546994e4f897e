"""Weights in 8 or 4 bits, activations in float: what the steps that calibrate nothing share.

What the quantiser and the runtime can do at 4 bits is a table here; what they cannot stays at 8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.errors import RecipeError
from harness.tflite import operators, structure
from harness.tflite.operators import Operator

Arithmetic = Literal["float", "integer"]
"""`float` widens the weights before use; `integer` quantises the activations while it runs."""

ALGORITHMS = {"min_max": "min_max_uniform_quantize", "octav": "OCTAV", "mse": "MSE"}
_WORDS = (
    "BATCH_MATMUL",
    "CONV_2D",
    "CONV_2D_TRANSPOSE",
    "DEPTHWISE_CONV_2D",
    "EMBEDDING_LOOKUP",
    "FULLY_CONNECTED",
)
_FOUR_BITS = {
    "float": ("BATCH_MATMUL", "CONV_2D", "EMBEDDING_LOOKUP", "FULLY_CONNECTED"),
    "integer": ("CONV_2D", "EMBEDDING_LOOKUP", "FULLY_CONNECTED"),
}
_BLOCKS = ("EMBEDDING_LOOKUP", "FULLY_CONNECTED")
_WITHOUT_MSE = ("BATCH_MATMUL",)
_FOUR = 4


def configure(
    source: Path, *, bits: int, granularity: str | int, algorithm: str, arithmetic: Arithmetic
) -> Callable[[Any], None]:
    """Set the quantiser's recipe for one float file.

    Args:
        source: The float file; blocks must divide the width of an operator's weights.
        bits: 8 or 4; at 4, operators that have no int4 stay at 8.
        granularity: `channel`, or the elements of a block that share a scale (4 bits only; of
            FULLY_CONNECTED and EMBEDDING_LOOKUP, whose arithmetic is then `integer`: the runtime
            answers garbage for blocks that are widened first).
        algorithm: How a scale is chosen: a key of ALGORITHMS.
        arithmetic: Of everything else.

    Raises RecipeError for a choice that the quantiser does not have.
    """
    if granularity != "channel":
        if bits != _FOUR:
            raise RecipeError(
                f"granularity = {granularity} needs bits = 4; 8-bit weights have a scale a channel"
            )
        if algorithm == "mse":
            raise RecipeError(
                'algorithm = "mse" has no blocks; use "min_max" or "octav", or "channel"'
            )
    uneven = _uneven(source, granularity)

    def apply(worker: Any) -> None:  # noqa: ANN401 - untyped library
        from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName

        add = {"float": worker.add_weight_only_config, "integer": worker.add_dynamic_config}
        for word in _WORDS:
            key = ALGORITHMS["min_max" if word in _WITHOUT_MSE else algorithm]
            width = bits if word in _FOUR_BITS[arithmetic] else 8
            meant = TFLOperationName(word)
            if granularity == "channel" or word not in _BLOCKS:
                add[arithmetic](".*", meant, width, algorithm_key=key)
                continue
            blocks = QuantGranularity[f"BLOCKWISE_{granularity}"]
            add["integer"](".*", meant, width, blocks, algorithm_key=key)
            for operator in uneven:
                if operator.type == word:
                    add[arithmetic](operators.scope(operator), meant, width, algorithm_key=key)

    return apply


def notes(
    step: str, out: Path, *, bits: int, granularity: str | int, arithmetic: Arithmetic
) -> tuple[str, ...]:
    """Say of a built file which operators' weights are not in the bits that were asked for."""
    layers = structure.read(out)
    asked = f"int{bits}"
    told = []
    for dtype in sorted({layer.dtype for layer in layers} - {asked}):
        counts = Counter(layer.operator for layer in layers if layer.dtype == dtype)
        words = ", ".join(f"{count} {word}" for word, count in sorted(counts.items()))
        told.append(f"{step}: weights in {dtype}, not {asked}: {words}")
    blocks = [
        layer.operator
        for layer in layers
        if isinstance(granularity, int)
        and layer.operator in _BLOCKS
        and not layer.shape[-1] % granularity
    ]
    if blocks and arithmetic == "float":
        told.append(
            f"{step}: {len(blocks)} {' and '.join(sorted(set(blocks)))} with a scale for "
            f"{granularity} weights each quantise their activations while they run"
        )
    return tuple(told)


def _uneven(source: Path, granularity: str | int) -> Sequence[Operator]:
    """Return the operators whose weights blocks of this size do not divide."""
    if isinstance(granularity, str):
        return ()
    return [
        operator
        for operator in operators.read(source, _BLOCKS)
        if any(shape[-1] % granularity for shape in operator.shapes)
    ]
