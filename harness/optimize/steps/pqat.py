"""pqat: pruned, then trained with simulated int8 rounding; the zeros stay.

recipes = ["pqat(sparsity=0.5)"]
recipes = ["prune(sparsity=0.8, epochs=20) > pqat"]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize.training import offers
from harness.protocols import Artifact, Parameter, Promise, StepData


class Pqat:
    """Pruning, then quantisation-aware training that keeps the zeros."""

    name = "pqat"
    summary = "pruned, then trained with simulated int8 rounding; the zeros stay"
    parameters: tuple[Parameter, ...] = (
        offers.SPARSITY,
        *offers.SHARED,
    )
    takes: tuple[str, ...] = offers.TAKES
    gives = "tflite"
    needs: tuple[str, ...] = ("training",)

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Run the stages that the model lacks, train and convert; raises RecipeError as they do."""
        from harness.optimize.training import collaborative

        return collaborative.build(source, parameters, data, workdir, preserve="zeros")

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the structure of the finished file."""
        return offers.promises(parameters)
