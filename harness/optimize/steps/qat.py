"""qat: trained with simulated int8 rounding; the result is a finished int8 file.

recipes = ["qat"]
recipes = ['qat(epochs=20, io="float")']
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize import widths
from harness.optimize.training import offers
from harness.protocols import Artifact, Parameter, Promise, StepData


class Qat:
    """Quantisation-aware training. For models that lose accuracy by int8 after training."""

    name = "qat"
    summary = "trained with simulated int8 rounding; a finished int8 file"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="io",
            type='"int8" | "float"',
            default="int8",
            help="dtype of the model's inputs and outputs",
        ),
        widths.int8(default=1.0),
        *offers.training(learning_rate=3e-4),
    )
    takes: tuple[str, ...] = offers.TAKES
    gives = "tflite"
    needs: tuple[str, ...] = ("training",)

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Train and convert; raises RecipeError with the layer that has no quantised form."""
        from harness.optimize.training import finish, fit, models, quantised

        with fit.prepared(data.seed) as place:
            model = models.load(source)
            task = fit.task(model, data, fit.settings(parameters), place)
            emulated, notes = quantised.quantise(model, task)
            return finish.int8(
                emulated,
                model,
                task,
                models.noted(source, notes),
                workdir,
                io=parameters["io"],
            )

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the share of weights in 8 bits."""
        return widths.promises(parameters)
