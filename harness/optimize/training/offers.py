"""The forms, parameters and promises of the training steps.

The module is separate from the training code, so that listing the steps and checking a recipe does
not import numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.optimize import widths
from harness.protocols import Parameter, Promise

TAKES = ("keras", "h5", "saved_model")
"""Forms that a training step takes: the user's model, or another training step's result."""
FORM = "h5"
"""The form between training steps."""

_OPERATORS = ("CONV_2D", "FULLY_CONNECTED")


def training(*, epochs: int = 10, learning_rate: float = 1e-3) -> tuple[Parameter, ...]:
    """Return the training parameters of a step, with the step's own defaults."""
    return (
        Parameter(
            name="epochs",
            type="integer 1..100000",
            default=epochs,
            help="maximum passes over the training data",
        ),
        Parameter(name="batch", type="integer 1..65536", default=32, help="samples per batch"),
        Parameter(
            name="learning_rate",
            type="number 0..10",
            default=learning_rate,
            help="initial learning rate; falls along a cosine to zero",
        ),
        Parameter(
            name="optimizer",
            type='"adam" | "sgd" | "rmsprop"',
            default="adam",
            help="Keras optimizer; sgd has momentum 0.9",
        ),
        Parameter(
            name="validation",
            type="number 0..0.5",
            default=0.1,
            help="share of the training data held out to judge each epoch; 0 uses the training loss",
        ),
        Parameter(
            name="patience",
            type="integer 0..100000",
            default=5,
            help="epochs without a better loss before training stops; the best epoch's weights are kept",
        ),
    )


def optional_training(*, epochs: int = 10, learning_rate: float = 1e-3) -> tuple[Parameter, ...]:
    """Return the training parameters of a step whose training is optional (epochs=0)."""
    return tuple(
        replace(
            item,
            type="integer 0..100000",
            help="maximum passes over the training data; 0 leaves the weights unchanged",
        )
        if item.name == "epochs"
        else item
        for item in training(epochs=epochs, learning_rate=learning_rate)
    )


SPARSITY = Parameter(
    name="sparsity",
    type="number 0.01..0.98",
    default=0.5,
    help="share of zeros in each pruned layer; a model that already has them is not pruned again",
)
CLUSTERS = Parameter(
    name="clusters",
    type="integer 3..256",
    default=16,
    help="maximum values per layer; a model that has no more is not clustered again",
)
SHARED: tuple[Parameter, ...] = (
    Parameter(
        name="io",
        type='"int8" | "float"',
        default="int8",
        help="dtype of the model's inputs and outputs",
    ),
    Parameter(
        name="fine_rate",
        type="number 0..10",
        default=3e-4,
        help="learning rate of the quantisation-aware stage; learning_rate is for the other stages",
    ),
    widths.int8(default=1.0),
    *training(),
)


def promises(parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
    """Promise the sparsity, the number of values and the width of the finished file's weights."""
    found = list(widths.promises(parameters))
    if "sparsity" in parameters:
        found.append(
            Promise(measure="sparsity", at_least=parameters["sparsity"], operators=_OPERATORS)
        )
    if "clusters" in parameters:
        found.append(
            Promise(
                measure="unique_per_channel",
                at_most=parameters["clusters"],
                operators=_OPERATORS,
            )
        )
    return tuple(found)
