"""pcqat: pruned, clustered, then trained with simulated int8 rounding; zeros and values stay.

recipes = ["pcqat(sparsity=0.8, clusters=16)"]
recipes = ["prune(sparsity=0.8) > cluster(preserve_sparsity=true) > pcqat(sparsity=0.8)"]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize.training import offers
from harness.protocols import Artifact, Parameter, Promise, StepData


class Pcqat:
    """Pruning and clustering, then quantisation-aware training that keeps both."""

    name = "pcqat"
    summary = "pruned, clustered, then trained with simulated int8 rounding; zeros and values stay"
    parameters: tuple[Parameter, ...] = (
        offers.SPARSITY,
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

        return collaborative.build(source, parameters, data, workdir, preserve="zeros and clusters")

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the structure of the finished file."""
        return offers.promises(parameters)
