"""aot: a .tflite compiled ahead of time for a phone's NPU, by the NPU vendor's compiler.

recipes = ['int8 > aot(vendor="qualcomm", soc="SM8750")']
recipes = ['aot(vendor="mediatek", soc="MT6991", libraries="~/neuropilot/lib")']   # for a .tflite
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize.targets.compilers import PACKAGES
from harness.protocols import Artifact, Parameter, StepData


class Aot:
    """Runs the vendor's compiler and checks its account against the compiled file."""

    name = "aot"
    summary = "compiled for a phone's NPU by its vendor's compiler, which must be installed"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="vendor",
            type=" | ".join(f'"{vendor}"' for vendor in PACKAGES),
            default="qualcomm",
            help="vendor of the NPU",
        ),
        Parameter(
            name="soc",
            type="text",
            default="",
            help="the vendor's name of the chip: SM8750, MT6991, Tensor_G5, LNL",
        ),
        Parameter(
            name="libraries",
            type="file",
            default="",
            help="folder of the vendor's libraries, if its package is not installed",
        ),
        Parameter(
            name="timeout_seconds",
            type="integer 1..86400",
            default=600,
            help="maximum time of the compilation",
        ),
    )
    takes: tuple[str, ...] = ("tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ()

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Compile; raises RecipeError with the necessary change or the missing part."""
        from harness.optimize.targets import aot

        del data
        made, account = aot.compile_model(
            source.path,
            workdir,
            aot.AotSettings(
                vendor=parameters["vendor"],
                soc=parameters["soc"],
                libraries=parameters["libraries"],
                timeout_seconds=parameters["timeout_seconds"],
            ),
        )
        out = made.replace(workdir / "compiled.tflite")
        notes = [f"left on the CPU: {', '.join(account.left)}"] if account.left else []
        return Artifact(
            path=out,
            form=self.gives,
            notes=(*source.notes, *notes),
            flags=source.flags,
            compiled=account,
        )
