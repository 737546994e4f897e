"""aot: a .tflite compiled ahead of time for a phone's NPU, by the compiler of the NPU's vendor.

recipes = ['int8 > aot(vendor="qualcomm", soc="SM8750")']
recipes = ['aot(vendor="mediatek", soc="MT6991", libraries="~/neuropilot/lib")']   # of a .tflite
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize.targets.compilers import PACKAGES
from harness.protocols import Artifact, Parameter, StepData


class Aot:
    """Has the vendor's compiler take what it can, and holds its account against the file."""

    name = "aot"
    summary = "compiled for a phone's NPU by its vendor's compiler, which must be there"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="vendor",
            type=" | ".join(f'"{vendor}"' for vendor in PACKAGES),
            default="qualcomm",
            help="whose NPU it is",
        ),
        Parameter(
            name="soc",
            type="text",
            default="",
            help="the chip, in the vendor's words: SM8750, MT6991, Tensor_G5, LNL",
        ),
        Parameter(
            name="libraries",
            type="file",
            default="",
            help="the folder of the vendor's libraries, where its package is not installed",
        ),
        Parameter(
            name="timeout_seconds",
            type="integer 1..86400",
            default=600,
            help="how long it may take",
        ),
    )
    takes: tuple[str, ...] = ("tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ()

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Compile; raises RecipeError with what has to change or what is missing."""
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
