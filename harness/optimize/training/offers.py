"""What training steps say of themselves: forms, parameters, promises.

Apart from the training itself, so that the steps can be listed and a recipe checked without numpy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from harness.protocols import Parameter, Promise

TAKES = ("keras", "h5", "saved_model")
"""Forms that a training step takes: the user's model, or what a training step made."""
FORM = "h5"
"""The form between training steps."""

_OPERATORS = ("CONV_2D", "FULLY_CONNECTED")


def training(*, epochs: int = 10, learning_rate: float = 1e-3) -> tuple[Parameter, ...]:
    """Return the parameters of training for a step, with its own defaults."""
    return (
        Parameter(
            name="epochs",
            type="integer 1..100000",
            default=epochs,
            help="times through the training data, at most",
        ),
        Parameter(name="batch", type="integer 1..65536", default=32, help="samples a batch"),
        Parameter(
            name="learning_rate",
            type="number 0..10",
            default=learning_rate,
            help="at the start; falls along a cosine to zero",
        ),
        Parameter(
            name="optimizer",
            type='"adam" | "sgd" | "rmsprop"',
            default="adam",
            help="how weights are moved; sgd has momentum 0.9",
        ),
        Parameter(
            name="validation",
            type="number 0..0.5",
            default=0.1,
            help="share of the training data kept apart to judge each epoch; 0 judges by training loss",
        ),
        Parameter(
            name="patience",
            type="integer 0..100000",
            default=5,
            help="epochs without a better loss before it stops; the best epoch's weights are kept",
        ),
    )


def optional_training(*, epochs: int = 10, learning_rate: float = 1e-3) -> tuple[Parameter, ...]:
    """Return the parameters of training, where it may also be left out."""
    return tuple(
        replace(
            item,
            type="integer 0..100000",
            help="times through the training data, at most; 0 leaves the weights as they are",
        )
        if item.name == "epochs"
        else item
        for item in training(epochs=epochs, learning_rate=learning_rate)
    )


SPARSITY = Parameter(
    name="sparsity",
    type="number 0.01..0.98",
    default=0.5,
    help="share of zeros in each pruned layer; a model that has them already is not pruned again",
)
CLUSTERS = Parameter(
    name="clusters",
    type="integer 3..256",
    default=16,
    help="values a layer may keep; a model that has no more is not clustered again",
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
        help="learning_rate of the quantisation-aware stage; learning_rate is the other stages'",
    ),
    *training(),
)


def promises(parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
    """Say that the finished file shows the zeros and the few values that were asked for."""
    told = []
    if "sparsity" in parameters:
        told.append(
            Promise(measure="sparsity", at_least=parameters["sparsity"], operators=_OPERATORS)
        )
    if "clusters" in parameters:
        told.append(
            Promise(
                measure="unique_per_channel",
                at_most=parameters["clusters"],
                operators=_OPERATORS,
            )
        )
    return tuple(told)
