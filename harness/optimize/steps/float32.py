"""float32: the float model as a .tflite; the reference of every other variant.

recipes = ["float32"]
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.protocols import Artifact, Parameter, StepData


class Float32:
    """The converted float file itself: fused and folded, not quantised."""

    name = "float32"
    summary = "float weights and arithmetic"
    parameters: tuple[Parameter, ...] = ()
    takes: tuple[str, ...] = ("float_tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ()

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Keep the float file."""
        del parameters, data
        out = workdir / "model.tflite"
        shutil.copyfile(source.path, out)
        return Artifact(path=out, form=self.gives, notes=source.notes, flags=source.flags)
