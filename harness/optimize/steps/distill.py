"""distill: trained on what a larger model answers, beside the labels.

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
    """Knowledge distillation; the student is the recipe's model, trained already or not."""

    name = "distill"
    summary = "trained on a teacher's answers beside the labels"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="teacher",
            type="file",
            default="",
            help=".keras, .h5 or SavedModel; a relative path is looked for beside the model first",
        ),
        Parameter(
            name="temperature",
            type="number 0.1..100",
            default=4.0,
            help="how much both answers are softened before they are compared",
        ),
        Parameter(
            name="alpha",
            type="number 0..1",
            default=0.5,
            help="share of the teacher in the loss; the labels have the rest",
        ),
        Parameter(
            name="features",
            type="boolean",
            default=False,
            help="whether the last feature map is drawn to the teacher's too",
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
