"""prune_filters: the least important filters and units removed, then training; a smaller dense model.

recipes = ["prune_filters"]                                  # half of the channels of every layer
recipes = ['prune_filters(keep=0.5, of="macs") > int8']      # half of the work, then quantised
recipes = ["prune_filters(keep=0.75, epochs=0)"]             # without training data: only cut
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.optimize.training import offers
from harness.protocols import Artifact, Parameter, StepData

if TYPE_CHECKING:
    from harness.optimize.training.libraries import Keras


class PruneFilters:
    """Structured pruning: fewer channels, so that every runtime is faster without sparse kernels.

    Channels that an Add combines are removed together. Layers whose channels cannot be followed stay
    whole, and a note names them. Not for a model that is small already: it has few channels to
    spare, and quantisation saves more.
    """

    name = "prune_filters"
    summary = "fewer filters and units in every layer, then training"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="keep",
            type="number 0..1",
            default=0.5,
            help="share to keep, measured by `of`",
        ),
        Parameter(
            name="of",
            type='"channels" | "parameters" | "macs"',
            default="channels",
            help="channels of each layer; or the model's parameters or multiply-accumulates",
        ),
        Parameter(
            name="criterion",
            type='"l1" | "l2" | "bn_scale"',
            default="l1",
            help="importance of a filter: its norm, or the scale of the following batch norm",
        ),
        Parameter(
            name="multiple",
            type="integer 1..1024",
            default=8,
            help="round channels to a multiple of this, because kernels work in blocks",
        ),
        Parameter(
            name="least",
            type="integer 1..65536",
            default=1,
            help="minimum channels per layer",
        ),
        *offers.optional_training(),
    )
    takes = offers.TAKES
    gives = offers.FORM
    needs: tuple[str, ...] = ()
    wants: tuple[str, ...] = ("training",)

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Remove and train.

        Raises RecipeError: no layer can be pruned (with the reasons), a share that cannot be
        reached, a model that is no graph of layers, no training data for the epochs.
        """
        from harness.optimize.training import smaller

        return smaller.make(_prune, source, parameters, data, workdir)


def _prune(model: Keras, given: Mapping[str, Any]) -> tuple[Keras, tuple[str, ...]]:
    from harness.optimize.training import filters, groups

    spec = filters.FilterPruneSpec(
        keep=given["keep"],
        of=given["of"],
        criterion=given["criterion"],
        multiple=given["multiple"],
        least=given["least"],
    )
    seen = groups.network(model)
    kept = filters.choose(seen, spec)
    notes = [filters.summary(seen, kept), *filters.frozen(seen)]
    without = filters.without_scale(seen) if spec.criterion == "bn_scale" else []
    if without:
        notes.append(f"no batch norm after {', '.join(without)}: ranked by l1")
    return filters.prune(seen, kept), tuple(notes)
