"""edgetpu: a full int8 file compiled for the Edge TPU by the vendor's compiler.

recipes = ["int8 > edgetpu"]                          # what int8@edgetpu means
recipes = ["edgetpu(search_delegate=true)"]           # of a model that is an int8 .tflite already
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
    """Checks what the compiler would refuse, compiles, and holds its log against the file."""

    name = "edgetpu"
    summary = "compiled for the Edge TPU by edgetpu_compiler, which must be there"
    parameters: tuple[Parameter, ...] = (
        Parameter(
            name="compiler",
            type="program",
            default=EDGETPU_COMPILER,
            help="its name on PATH, or its path",
        ),
        Parameter(
            name="min_runtime_version",
            type="integer 0..100",
            default=0,
            help="the oldest Edge TPU runtime it must load on (0: the compiler's own)",
        ),
        Parameter(
            name="intermediate_tensors",
            type="text",
            default="",
            help="names of tensors where the part for the Edge TPU ends, joined by commas",
        ),
        Parameter(
            name="search_delegate",
            type="boolean",
            default=False,
            help="leave operators off the end until it compiles",
        ),
        Parameter(
            name="delegate_search_step",
            type="integer 0..1000",
            default=0,
            help="how many at a time (0: the compiler's own)",
        ),
        Parameter(
            name="multiple_subgraphs",
            type="boolean",
            default=False,
            help="map more than one part of the graph; often slower",
        ),
        Parameter(
            name="timeout_seconds",
            type="integer 1..86400",
            default=180,
            help="how long one attempt may take",
        ),
        Parameter(
            name="tries",
            type="integer 1..20",
            default=3,
            help="attempts where it crashes or hangs: it is not deterministic",
        ),
    )
    takes: tuple[str, ...] = ("tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ()

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Compile; raises RecipeError with what has to change or what is missing."""
        from harness.optimize.targets import edgetpu

        del data
        notes = edgetpu.fit(source.path)
        made, account = edgetpu.compile_model(source.path, workdir, settings(parameters))
        out = made.replace(workdir / "compiled.tflite")
        if account.off_chip_bytes:
            notes.append(
                f"{account.off_chip_bytes:,} bytes of weights have no room on the Edge TPU and "
                "travel to it with every inference"
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
    """Turn the step's parameters into the compiler's command line."""
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
