"""prune: the smallest weights become zero while the others are trained.

recipes = ["prune(sparsity=0.8) > int8"]
recipes = ['prune(pattern="2:4") > int8']
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize.training import offers
from harness.protocols import Artifact, Parameter, Promise, StepData

_PRUNED = ("CONV_2D", "FULLY_CONNECTED")
_NONZEROS_OF_PATTERN = 2


class Prune:
    """Magnitude pruning. Smaller under compression, not faster: the arithmetic stays dense."""

    name = "prune"
    summary = "the smallest weights set to zero, the others trained"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="sparsity",
            type="number 0..0.98",
            default=0.5,
            help="share of zeros in each pruned layer",
        ),
        Parameter(
            name="schedule",
            type='"polynomial" | "constant"',
            default="polynomial",
            help="rising over the first half of the epochs, or full from the start",
        ),
        Parameter(
            name="pattern",
            type='"unstructured" | "2:4"',
            default="unstructured",
            help="zeros anywhere, or two in every four neighbouring input channels",
        ),
        *offers.training(),
    )
    takes: tuple[str, ...] = offers.TAKES
    gives = offers.FORM
    needs: tuple[str, ...] = ("training",)

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Prune and train; raises RecipeError if no layer can be pruned or training fails."""
        from harness.optimize.training import fit, models, sparse

        with fit.prepared(data.seed) as place:
            model = models.load(source)
            task = fit.task(model, data, fit.settings(parameters), place)
            spec = sparse.PruneSpec(
                sparsity=parameters["sparsity"],
                schedule=parameters["schedule"],
                pattern=parameters["pattern"],
            )
            notes = sparse.prune(model, task, spec)
            return models.keep(model, source, workdir, notes=notes)

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the zeros in the finished file."""
        if parameters["pattern"] == "2:4":
            return (
                Promise(measure="nonzeros_per_4", at_most=_NONZEROS_OF_PATTERN, operators=_PRUNED),
            )
        return (Promise(measure="sparsity", at_least=parameters["sparsity"], operators=_PRUNED),)
