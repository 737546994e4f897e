"""decompose: dense layers and convolutions as products of smaller ones, then training.

recipes = ["decompose"]                                     # to half of the parameters
recipes = ["decompose(energy=0.9) > int8"]                  # 90 % of each layer's squared weights
recipes = ['decompose(rank=16, layers=["dense"], epochs=0)']
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import RecipeError
from harness.optimize.training import offers
from harness.protocols import Artifact, Parameter, StepData

if TYPE_CHECKING:
    from harness.optimize.training.libraries import Keras

_KEEP = 0.5


class Decompose:
    """Low rank: singular values for dense layers and 1x1 convolutions, Tucker for the others.

    A layer is replaced only if that saves parameters. Fewer parameters do not always save time: a
    convolution becomes three, and small ones cost more to start than to compute. Use
    `prune_filters` for latency; use this step for size if a few layers have most of the parameters.
    """

    name = "decompose"
    summary = "dense layers and convolutions as products of smaller ones, then training"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="keep",
            type="number 0..1",
            default=None,
            help=f"share of the model's parameters to keep, by the same share of energy in every "
            f"layer; {_KEEP} if neither energy nor rank is given",
        ),
        Parameter(
            name="energy",
            type="number 0..1",
            default=None,
            help="share of each layer's squared weights that its factors keep",
        ),
        Parameter(
            name="rank",
            type="integer 1..65536",
            default=None,
            help="rank of every decomposed layer (both channel ranks of a convolution)",
        ),
        Parameter(
            name="layers",
            type="list",
            default=(),
            help="names of the layers to decompose; empty for all that get smaller",
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
        """Decompose and train.

        Raises RecipeError: two measures given, a rank above full rank, an unknown layer, a share
        that cannot be reached, no saving, no training data for the epochs.
        """
        from harness.optimize.training import smaller

        return smaller.make(_decompose, source, parameters, data, workdir)


def _decompose(model: Keras, given: Mapping[str, Any]) -> tuple[Keras, tuple[str, ...]]:
    from harness.optimize.training import factors

    names = given["layers"]
    if not all(isinstance(name, str) for name in names):
        raise RecipeError(f"layers = {list(names)!r} is not a list of layer names")
    keep = given["keep"]
    if keep is None and given["energy"] is None and given["rank"] is None:
        keep = _KEEP
    spec = factors.DecomposeSpec(
        keep=keep, energy=given["energy"], rank=given["rank"], layers=names
    )
    ranks = factors.choose(model, spec)
    less = factors.decompose(model, ranks)
    by_layer = ", ".join(f"{name} {' and '.join(map(str, rank))}" for name, rank in ranks.items())
    before, after = model.count_params(), less.count_params()
    share = f"{after:,} of {before:,} parameters ({after / before:.1%})"
    return less, (f"{share}; ranks: {by_layer}",)
