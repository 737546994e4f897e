"""Weights in 8 or 4 bits, activations in float: the shared code of the steps without calibration.

The tables here list the operators that the quantiser and the runtime support at 4 bits; the others
stay at 8.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

from harness.errors import RecipeError
from harness.optimize import widths
from harness.tflite import operators, structure
from harness.tflite.operators import Operator

Arithmetic = Literal["float", "integer"]
"""`float` widens the weights before use; `integer` quantises the activations at run time."""

ALGORITHMS = {"min_max": "min_max_uniform_quantize", "octav": "OCTAV", "mse": "MSE"}
_TYPES = (
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
    source: Path,
    *,
    bits: int,
    granularity: str | int,
    algorithm: str,
    arithmetic: Arithmetic,
    min_elements: int = 0,
) -> Callable[[Any], None]:
    """Set the quantiser's recipe for one float file.

    Args:
        source: The float file; blocks must divide the width of an operator's weights.
        bits: 8 or 4; at 4, operators without int4 support stay at 8.
        granularity: `channel`, or the number of elements per block with one scale (4 bits only).
            Blocks apply to FULLY_CONNECTED and EMBEDDING_LOOKUP, whose arithmetic is then
            `integer`: the runtime returns garbage for blocks that are widened first.
        algorithm: The choice of a scale: a key of ALGORITHMS.
        arithmetic: The arithmetic of all other operators.
        min_elements: Operators with fewer weights keep them in float; only for `integer` arithmetic
            by channel.

    Raises RecipeError for a choice that the quantiser does not have.
    """
    if granularity != "channel":
        if bits != _FOUR:
            raise RecipeError(
                f"granularity = {granularity} needs bits = 4; 8-bit weights have one scale per channel"
            )
        if algorithm == "mse":
            raise RecipeError(
                'algorithm = "mse" has no blocks; use algorithm = "min_max" or "octav", or '
                'granularity = "channel"'
            )
    uneven = _uneven(source, granularity)

    def apply(worker: Any) -> None:  # noqa: ANN401 - untyped library
        from ai_edge_quantizer.qtyping import QuantGranularity, TFLOperationName

        add = {"float": worker.add_weight_only_config, "integer": worker.add_dynamic_config}
        for kind in _TYPES:
            key = ALGORITHMS["min_max" if kind in _WITHOUT_MSE else algorithm]
            width = bits if kind in _FOUR_BITS[arithmetic] else 8
            operation = TFLOperationName(kind)
            if min_elements:
                config = _dynamic(width, min_elements)
                worker.update_quantization_recipe(".*", operation, config, algorithm_key=key)
                continue
            if granularity == "channel" or kind not in _BLOCKS:
                add[arithmetic](".*", operation, width, algorithm_key=key)
                continue
            blocks = QuantGranularity[f"BLOCKWISE_{granularity}"]
            add["integer"](".*", operation, width, blocks, algorithm_key=key)
            for operator in uneven:
                if operator.type == kind:
                    add[arithmetic](operators.scope(operator), operation, width, algorithm_key=key)

    return apply


def notes(
    step: str, out: Path, *, bits: int, granularity: str | int, arithmetic: Arithmetic
) -> tuple[str, ...]:
    """Return notes on a built file's operators whose weights do not have the requested bits."""
    layers = structure.read(out)
    wanted = f"int{bits}"
    found = []
    for dtype in sorted({layer.dtype for layer in layers} - {wanted}):
        counts = Counter(layer.operator for layer in layers if layer.dtype == dtype)
        operators_text = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.items()))
        found.append(f"{step}: weights in {dtype}, not {wanted}: {operators_text}")
    blocks = [
        layer.operator
        for layer in layers
        if isinstance(granularity, int)
        and layer.operator in _BLOCKS
        and not layer.shape[-1] % granularity
    ]
    if blocks and arithmetic == "float":
        found.append(
            f"{step}: {len(blocks)} {' and '.join(sorted(set(blocks)))} with a scale per "
            f"{granularity} weights quantise their activations at run time"
        )
    return tuple(found)


def flags(out: Path, bits: int) -> tuple[str, ...]:
    """Return the flag of a built file with weights that are wider than requested."""
    wide = any(
        layer.bits > bits and layer.operator not in widths.ELEMENTWISE
        for layer in structure.read(out)
    )
    return (widths.FLAG,) if wide else ()


def _dynamic(bits: int, min_elements: int) -> Any:  # noqa: ANN401 - untyped library
    """Return the quantiser's dynamic configuration with a smallest number of weights."""
    from ai_edge_quantizer import qtyping

    return qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=bits, granularity=qtyping.QuantGranularity.CHANNELWISE
        ),
        compute_precision=qtyping.ComputePrecision.INTEGER,
        explicit_dequantize=False,
        min_weight_elements=min_elements,
    )


def _uneven(source: Path, granularity: str | int) -> Sequence[Operator]:
    """Return the operators whose weights cannot be divided into blocks of this size."""
    if isinstance(granularity, str):
        return ()
    return [
        operator
        for operator in operators.read(source, _BLOCKS)
        if any(shape[-1] % granularity for shape in operator.shapes)
    ]
