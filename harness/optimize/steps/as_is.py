"""as_is: a finished .tflite, measured unchanged.

recipes = ["as_is"]
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.protocols import Artifact, Parameter, StepData


class AsIs:
    """Takes any .tflite, also a quantised or compiled one; never a model to convert."""

    name = "as_is"
    summary = "a finished .tflite unchanged"
    parameters: tuple[Parameter, ...] = ()
    takes: tuple[str, ...] = ("tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ()

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Copy the file into the work folder, byte for byte."""
        del parameters, data
        out = workdir / "model.tflite"
        shutil.copyfile(source.path, out)
        return Artifact(path=out, form=self.gives, notes=source.notes, flags=source.flags)
