"""float16: weights stored in half the bytes, arithmetic in float.

recipes = ["float16"]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize import widths
from harness.protocols import Artifact, Parameter, Promise, StepData


class Float16:
    """float16 weights, widened when the file is loaded: half the size, nearly the same outputs."""

    name = "float16"
    summary = "float16 weights, float arithmetic"
    parameters: tuple[Parameter, ...] = (widths.FLOAT16,)
    takes: tuple[str, ...] = ("float_tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ()

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Cast the weights; raises RecipeError if the quantiser does not support the graph."""
        from harness.optimize import quantise

        del parameters, data
        out = workdir / "model.tflite"
        quantise.quantise(source.path, out, _half)
        return Artifact(path=out, form=self.gives, notes=source.notes, flags=source.flags)

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the share of weights in 16 bits."""
        return widths.promises(parameters)


def _half(worker: Any) -> None:  # noqa: ANN401 - untyped library
    from ai_edge_quantizer import qtyping

    config = qtyping.OpQuantizationConfig(
        weight_tensor_config=qtyping.TensorQuantizationConfig(
            num_bits=16, dtype=qtyping.TensorDataType.FLOAT
        ),
        compute_precision=qtyping.ComputePrecision.FLOAT,
        explicit_dequantize=True,
    )
    worker.update_quantization_recipe(
        ".*", qtyping.TFLOperationName.ALL_SUPPORTED, config, algorithm_key="float_casting"
    )
