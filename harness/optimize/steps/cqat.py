"""cqat: clustered, then trained with simulated int8 rounding; the shared values stay.

recipes = ["cqat(clusters=16)"]
recipes = ["cluster(clusters=32) > cqat(clusters=32)"]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize.training import offers
from harness.protocols import Artifact, Parameter, Promise, StepData


class Cqat:
    """Clustering, then quantisation-aware training that keeps the few values."""

    name = "cqat"
    summary = "clustered, then trained with simulated int8 rounding; the shared values stay"
    parameters: tuple[Parameter, ...] = (
        offers.CLUSTERS,
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

        return collaborative.build(source, parameters, data, workdir, preserve="clusters")

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the structure of the finished file."""
        return offers.promises(parameters)
