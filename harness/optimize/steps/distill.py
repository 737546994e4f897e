"""distill: trained on a larger model's outputs as well as on the labels.

recipes = ['distill(teacher="big.keras") > int8']
recipes = ['distill(teacher="big.keras", temperature=4, alpha=0.9, features=true) > qat']
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.errors import RecipeError
from harness.optimize.training import offers
from harness.protocols import Artifact, Parameter, StepData


class Distill:
    """Knowledge distillation; the student is the recipe's model, trained or untrained."""

    name = "distill"
    summary = "trained on a teacher's outputs as well as on the labels"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="teacher",
            type="file",
            default="",
            help=".keras, .h5 or SavedModel; relative to the model's folder, else to the current one",
        ),
        Parameter(
            name="temperature",
            type="number 0.1..100",
            default=4.0,
            help="softening of both models' outputs before they are compared",
        ),
        Parameter(
            name="alpha",
            type="number 0..1",
            default=0.5,
            help="share of the teacher in the loss; the rest is the labels'",
        ),
        Parameter(
            name="features",
            type="boolean",
            default=False,
            help="whether to train the last feature map towards the teacher's too",
        ),
        *offers.training(epochs=20),
    )
    takes: tuple[str, ...] = offers.TAKES
    gives = offers.FORM
    needs: tuple[str, ...] = ("training",)

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Train the student; raises RecipeError for a teacher of another task, or without one."""
        from harness.optimize.training import distilled, fit, models

        if not parameters["teacher"]:
            raise RecipeError('distill needs a teacher: distill(teacher="big.keras")')
        with fit.prepared(data.seed) as place:
            student = models.load(source)
            task = fit.task(student, data, fit.settings(parameters), place)
            spec = distilled.DistillSpec(
                temperature=parameters["temperature"],
                alpha=parameters["alpha"],
                features=parameters["features"],
            )
            teacher = distilled.teacher(
                Path(parameters["teacher"]), student, features=spec.features
            )
            notes = distilled.distill(student, task, teacher, spec)
            return models.keep(student, source, workdir, notes=notes)
