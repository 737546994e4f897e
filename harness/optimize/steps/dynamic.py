"""dynamic: int8 weights, activations quantised while it runs; needs no data.

recipes = ["dynamic"]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize import quantise
from harness.protocols import Artifact, Parameter, StepData


class Dynamic:
    """Dynamic-range quantisation, weights per channel. Float inputs and outputs.

    Not for tflite-runtime 2.14 and its like: it loads there, runs, and answers garbage, which the
    check before timing catches.
    """

    name = "dynamic"
    summary = "int8 weights, activations quantised at run time"
    parameters: tuple[Parameter, ...] = ()
    takes: tuple[str, ...] = ("float_tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ()

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Quantise the weights; raises RecipeError where the graph cannot be taken."""
        del parameters, data
        out = workdir / "model.tflite"
        quantise.quantise(source.path, out, _dynamic)
        return Artifact(path=out, form=self.gives, notes=source.notes, flags=source.flags)


def _dynamic(worker: Any) -> None:  # noqa: ANN401 - untyped library
    from ai_edge_quantizer import recipe

    worker.load_quantization_recipe(recipe.dynamic_wi8_afp32())
