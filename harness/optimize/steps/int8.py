"""int8: weights and activations in int8, from calibration data.

recipes = ["int8"]               # int8 inputs and outputs
recipes = ['int8(io="float")']   # float inputs and outputs around an int8 model
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize import widths
from harness.protocols import Artifact, Parameter, Promise, StepData


class Int8:
    """Full-integer quantisation with the smallest and largest values seen in calibration.

    A model that is quantisation-aware already keeps its trained ranges and needs no data.
    """

    name = "int8"
    summary = "int8 weights and activations (calibrated)"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="io",
            type='"int8" | "float"',
            default="int8",
            help="dtype of the model's inputs and outputs",
        ),
        widths.int8(),
    )
    takes: tuple[str, ...] = ("float_tflite", "quantisation_aware")
    gives = "tflite"
    needs: tuple[str, ...] = ("calibration",)

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Calibrate and quantise; raises RecipeError if the quantiser does not support the graph."""
        from harness.optimize import quantise

        out = workdir / "model.tflite"
        configure = quantise.integer(8)
        if parameters["io"] == "float":
            configure = quantise.float_ends(configure)
        quantise.quantise(source.path, out, configure, data.calibration)
        return Artifact(path=out, form=self.gives, notes=source.notes, flags=source.flags)

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the share of weights in 8 bits."""
        return widths.promises(parameters)
