"""cluster: the weights of each layer share a few values.

recipes = ["cluster(clusters=16) > int8"]
recipes = ["prune(sparsity=0.8) > cluster(clusters=16, preserve_sparsity=true) > int8"]
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize.training import offers
from harness.protocols import Artifact, Parameter, Promise, StepData


class Cluster:
    """Weight sharing. The file is smaller under compression; it is not smaller itself, nor faster."""

    name = "cluster"
    summary = "the weights of each layer share a few values"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="clusters", type="integer 3..4096", default=16, help="maximum values per layer"
        ),
        Parameter(
            name="preserve_sparsity",
            type="boolean",
            default=False,
            help="whether zero weights stay zero (after prune)",
        ),
        *offers.training(),
    )
    takes: tuple[str, ...] = offers.TAKES
    gives = offers.FORM
    needs: tuple[str, ...] = ("training",)

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Cluster and train; raises RecipeError if no layer can be clustered or training fails."""
        from harness.optimize.training import clustered, fit, models

        with fit.prepared(data.seed) as place:
            model = models.load(source)
            task = fit.task(model, data, fit.settings(parameters), place)
            notes = clustered.cluster(
                model,
                task,
                clusters=parameters["clusters"],
                preserve_sparsity=parameters["preserve_sparsity"],
            )
            return models.keep(model, source, workdir, notes=notes)

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the number of values per channel; folding scales each channel separately."""
        return (
            Promise(
                measure="unique_per_channel",
                at_most=parameters["clusters"],
                operators=("CONV_2D", "FULLY_CONNECTED"),
            ),
        )
