"""edgetpu: a full int8 file compiled for the Edge TPU by the vendor's compiler.

recipes = ["int8 > edgetpu"]                          # the same as int8@edgetpu
recipes = ["edgetpu(search_delegate=true)"]           # for a model that is an int8 .tflite already
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.optimize.targets.compilers import EDGETPU_COMPILER
from harness.protocols import Artifact, Parameter, StepData

if TYPE_CHECKING:
    from harness.optimize.targets import edgetpu


class EdgeTpu:
    """Checks the file, compiles it, and checks the compiler's log against the result."""

    name = "edgetpu"
    summary = "compiled for the Edge TPU by edgetpu_compiler, which must be installed"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="compiler",
            type="program",
            default=EDGETPU_COMPILER,
            help="the compiler's name on PATH, or its path",
        ),
        Parameter(
            name="min_runtime_version",
            type="integer 0..100",
            default=0,
            help="oldest Edge TPU runtime that must load the file (0: the compiler's default)",
        ),
        Parameter(
            name="intermediate_tensors",
            type="text",
            default="",
            help="comma-separated tensor names at which the part for the Edge TPU ends",
        ),
        Parameter(
            name="search_delegate",
            type="boolean",
            default=False,
            help="remove operators from the end until the compilation succeeds",
        ),
        Parameter(
            name="delegate_search_step",
            type="integer 0..1000",
            default=0,
            help="operators to remove per attempt (0: the compiler's default)",
        ),
        Parameter(
            name="multiple_subgraphs",
            type="boolean",
            default=False,
            help="map more than one part of the graph; often slower to run",
        ),
        Parameter(
            name="timeout_seconds",
            type="integer 1..86400",
            default=180,
            help="maximum time of one attempt",
        ),
        Parameter(
            name="tries",
            type="integer 1..20",
            default=3,
            help="maximum attempts if the compiler crashes or hangs",
        ),
    )
    takes: tuple[str, ...] = ("tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ()

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Compile; raises RecipeError with the necessary change or the missing part."""
        from harness.optimize.targets import edgetpu

        del data
        notes = edgetpu.fit(source.path)
        made, account = edgetpu.compile_model(source.path, workdir, settings(parameters))
        out = made.replace(workdir / "compiled.tflite")
        if account.off_chip_bytes:
            notes.append(
                f"{account.off_chip_bytes:,} bytes of weights do not fit on the Edge TPU and "
                "are sent to it with every inference"
            )
        if account.left:
            notes.append(
                "left on the CPU: "
                + "; ".join(
                    f"{name}: {why or 'no reason given'}" for name, why in account.left.items()
                )
            )
        return Artifact(
            path=out,
            form=self.gives,
            notes=(*source.notes, *notes),
            flags=source.flags,
            compiled=account,
        )


def settings(parameters: Mapping[str, Any]) -> edgetpu.EdgeTpuSettings:
    """Convert the step's parameters to the compiler's command line."""
    from harness.optimize.targets import edgetpu

    flags: list[str] = []
    if parameters["min_runtime_version"]:
        flags += ["-m", str(parameters["min_runtime_version"])]
    if parameters["intermediate_tensors"]:
        flags += ["-i", parameters["intermediate_tensors"]]
    if parameters["search_delegate"]:
        flags.append("-d")
    if parameters["delegate_search_step"]:
        flags += ["-k", str(parameters["delegate_search_step"])]
    if parameters["multiple_subgraphs"]:
        flags.append("-a")
    return edgetpu.EdgeTpuSettings(
        compiler=parameters["compiler"],
        flags=tuple(flags),
        timeout_seconds=parameters["timeout_seconds"],
        tries=parameters["tries"],
    )
