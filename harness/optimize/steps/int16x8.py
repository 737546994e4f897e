"""int16x8: int8 weights, int16 activations, from calibration data.

recipes = ["int16x8"]
recipes = ['int16x8(io="float")']
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize import widths
from harness.protocols import Artifact, Parameter, Promise, StepData


class Int16x8:
    """Nearly float accuracy at int8 size. Slow on CPUs: XNNPACK has no kernels for it."""

    name = "int16x8"
    summary = "int8 weights, int16 activations (calibrated); slow on CPUs"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="io",
            type='"int16" | "float"',
            default="int16",
            help="dtype of the model's inputs and outputs",
        ),
        widths.int8(),
    )
    takes: tuple[str, ...] = ("float_tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ("calibration",)

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Calibrate and quantise; raises RecipeError if the quantiser does not support the graph."""
        from harness.optimize import quantise

        out = workdir / "model.tflite"
        configure = quantise.integer(16)
        if parameters["io"] == "float":
            configure = quantise.float_ends(configure)
        quantise.quantise(source.path, out, configure, data.calibration)
        return Artifact(path=out, form=self.gives, notes=source.notes, flags=source.flags)

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the share of weights in 8 bits."""
        return widths.promises(parameters)
