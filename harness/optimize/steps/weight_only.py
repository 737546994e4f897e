"""weight_only: weights in 8 or 4 bits, arithmetic in float; needs no data.

recipes = ["weight_only"]
recipes = ["weight_only(bits=4)"]
recipes = ['weight_only(bits=4, granularity=32, algorithm="octav")']
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize import widths
from harness.protocols import Artifact, Parameter, Promise, StepData


class WeightOnly:
    """Weights stored small and widened when the file is loaded or run: for size, not for speed.

    At 4 bits FULLY_CONNECTED, EMBEDDING_LOOKUP, CONV_2D and BATCH_MATMUL have int4; depthwise and
    transposed convolutions stay at int8, and the notes name them. A block size applies to
    FULLY_CONNECTED and EMBEDDING_LOOKUP only, whose activations are then quantised at run time.

    Old runtimes (tflite-runtime 2.14): bits = 8 works. bits = 4 fails when it runs (dequantize.cc).
    Files with blocks load and run but lose accuracy, which the check before timing catches.
    """

    name = "weight_only"
    summary = "int8 or int4 weights, float arithmetic"
    parameters: tuple[Parameter, ...] = (
        Parameter(name="bits", type="8 | 4", default=8, help="bits of a weight"),
        Parameter(
            name="granularity",
            type='"channel" | 32 | 64 | 128 | 256',
            default="channel",
            help="weights with one scale: an output channel, or a block of this size (bits = 4)",
        ),
        Parameter(
            name="algorithm",
            type='"min_max" | "octav" | "mse"',
            default="min_max",
            help="choice of a scale: the whole range, or clipped for the smallest error",
        ),
        widths.int8(),
    )
    takes: tuple[str, ...] = ("float_tflite",)
    gives = "tflite"
    needs: tuple[str, ...] = ()

    def build(
        self, source: Artifact, parameters: Mapping[str, Any], data: StepData, workdir: Path
    ) -> Artifact:
        """Quantise the weights; raises RecipeError if the quantiser does not support the graph."""
        from harness.optimize import quantise, weights

        del data
        out = workdir / "model.tflite"
        bits, granularity = parameters["bits"], parameters["granularity"]
        configure = weights.configure(
            source.path,
            bits=bits,
            granularity=granularity,
            algorithm=parameters["algorithm"],
            arithmetic="float",
        )
        quantise.quantise(source.path, out, configure)
        notes = weights.notes(
            self.name, out, bits=bits, granularity=granularity, arithmetic="float"
        )
        return Artifact(
            path=out,
            form=self.gives,
            notes=(*source.notes, *notes),
            flags=(*source.flags, *weights.flags(out, bits)),
        )

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the share of weights in 8 bits."""
        return widths.promises(parameters)
