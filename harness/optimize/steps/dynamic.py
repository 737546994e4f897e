"""dynamic: int8 or int4 weights, activations quantised at run time; needs no data.

recipes = ["dynamic"]
recipes = ["dynamic(bits=4)"]
recipes = ["dynamic(min_elements=1024)"]   # as TFLiteConverter does
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.optimize import widths
from harness.protocols import Artifact, Parameter, Promise, StepData

_FOUR = 4


class Dynamic:
    """Dynamic-range quantisation, weights per channel. Float inputs and outputs.

    At 4 bits FULLY_CONNECTED, EMBEDDING_LOOKUP and CONV_2D have int4; the others stay at int8, and
    the notes name them.

    Not for tflite-runtime 2.14 and similar versions: they load and run the file but return garbage
    (at 4 bits NaN, or a crash). The check before timing catches that.
    """

    name = "dynamic"
    summary = "int8 or int4 weights, activations quantised at run time"
    parameters: tuple[Parameter, ...] = (
        Parameter(name="bits", type="8 | 4", default=8, help="bits of a weight"),
        Parameter(
            name="min_elements",
            type="integer 0..1000000",
            default=0,
            help="layers with fewer weights stay in float; 1024 is what TFLiteConverter does",
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
        bits = parameters["bits"]
        configure = weights.configure(
            source.path,
            bits=bits,
            granularity="channel",
            algorithm="min_max",
            arithmetic="integer",
            min_elements=parameters["min_elements"],
        )
        quantise.quantise(source.path, out, configure)
        notes: tuple[str, ...] = source.notes
        if bits == _FOUR or parameters["min_elements"]:
            notes += weights.notes(
                self.name, out, bits=bits, granularity="channel", arithmetic="integer"
            )
        flags = (*source.flags, *weights.flags(out, bits))
        return Artifact(path=out, form=self.gives, notes=notes, flags=flags)

    def promises(self, parameters: Mapping[str, Any]) -> tuple[Promise, ...]:
        """Promise the share of weights in 8 bits, unless small layers are to stay in float."""
        return () if parameters["min_elements"] else widths.promises(parameters)
