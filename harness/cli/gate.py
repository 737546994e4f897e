"""The commands gate, judge and selftest."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from harness.cli import completion
from harness.cli.option_names import naming_options
from harness.cli.shared import (
    DONE,
    INCONCLUSIVE,
    DeviceOption,
    FarmOption,
    JsonOption,
    ResultsOption,
    RunArgument,
    SuspectOption,
    TrustOption,
    WaitOption,
    app,
    print_json,
    progress,
)
from harness.columns import NS_PER_MS

if TYPE_CHECKING:
    from harness.analysis.gate.document import Result
    from harness.types import Thermal


class ThermalChoice(StrEnum):
    """The condition for the start of a launch."""

    GATE = "gate"
    SOAK = "soak"
    NONE = "none"

    @property
    def condition(self) -> Thermal:
        """The value of `[run] thermal` with the same meaning."""
        words: dict[str, Thermal] = {"gate": "cool", "soak": "soak", "none": "none"}
        return words[self.value]


@app.command()
def gate(
    plan: Annotated[Path, typer.Argument(help="plan.toml")],
    baseline: Annotated[
        str,
        typer.Option(
            "--baseline",
            help="Use as A: a file, recipe, runtime:NAME=VERSION or run.",
            autocompletion=completion.recipes,
        ),
    ],
    candidate: Annotated[
        str,
        typer.Option(
            "--candidate",
            help="Use as B: the same kinds as for A.",
            autocompletion=completion.recipes,
        ),
    ],
    farm: FarmOption = None,
    device: DeviceOption = None,
    measure_identical: Annotated[
        bool, typer.Option("--measure-identical", help="Measure even if A and B are identical.")
    ] = False,
    thermal: Annotated[
        ThermalChoice | None,
        typer.Option(
            "--thermal", help="Cool first (gate), heat first (soak), or neither [the plan's]."
        ),
    ] = None,
    resume: Annotated[
        str | None, typer.Option("--resume", help="Finish this interrupted gate of the plan.")
    ] = None,
    include_suspect: SuspectOption = False,
    wait: WaitOption = None,
    trust_model: TrustOption = False,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure A and B interleaved; fail if B is worse.

    Exit 0 no regression, 1 a confirmed regression, 2 inconclusive, 3 invalid input or usage,
    4 a device was away.

    Example: edge-harness gate plan.toml --baseline main.tflite --candidate branch.tflite
    """
    from harness import api

    found = api.gate(
        api.read_plan(plan, trust_model=trust_model),
        baseline=baseline,
        candidate=candidate,
        farm=farm,
        devices=device or (),
        measure_identical=measure_identical,
        thermal=thermal.condition if thermal else None,
        resume=resume,
        include_suspect=include_suspect,
        results=results,
        wait=wait,
        progress=progress(quiet=as_json),
    )
    _print_result(found, as_json=as_json)


@app.command()
def judge(
    run: RunArgument,
    margin: Annotated[
        float | None, typer.Option("--margin", help="Use this margin of [gate]; 0.05 is 5 %.")
    ] = None,
    min_effect: Annotated[
        float | None, typer.Option("--min-effect", help="Use this min_effect of [gate].")
    ] = None,
    include_suspect: SuspectOption = False,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a stored gate again, with other limits if given.

    This measures nothing.

    Example: edge-harness judge latest --margin 0.03
    """
    from harness import api

    found = api.judge(
        run,
        margin=margin,
        min_effect=min_effect,
        include_suspect=include_suspect,
        results=results,
    )
    _print_result(found, as_json=as_json)


def _print_result(found: Result, *, as_json: bool) -> NoReturn:
    """Print the result of a gate and exit with its code."""
    from harness.present import screen

    document = found.plain()
    if as_json:
        print_json(document)
    else:
        screen.gate(document)
    raise typer.Exit(found.exit_code)


@app.command()
def selftest(
    device: Annotated[
        str, typer.Argument(help="A device of the farm.", autocompletion=completion.device_names)
    ],
    model: Annotated[
        Path | None, typer.Option("--model", help="Measure this .tflite file [the embedded one].")
    ] = None,
    threads: Annotated[
        int, typer.Option("--threads", min=1, help="Measure with this many threads.")
    ] = 1,
    farm: FarmOption = None,
    wait: WaitOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a file against itself to test the gate on a device.

    Print its false-alarm rate and smallest detectable effect. Exit 2 if the device is too noisy.

    Example: edge-harness selftest bench-pi --model model.tflite
    """
    from harness import api
    from harness.present import screen

    with naming_options([model] if model else []):
        found = api.selftest(
            device,
            model=model,
            threads=threads,
            farm=farm,
            results=results,
            wait=wait,
            progress=progress(quiet=as_json),
        )
    if as_json:
        print_json(found.plain())
    else:
        screen.records(
            [
                {
                    "B is": "A itself" if arm.scale == 1 else f"A {arm.scale - 1:+.0%}",
                    "judged slower": f"{arm.told:.1%}",
                    "build fails": f"{arm.red:.1%}",
                    "pairs": f"{arm.pairs:.1f}",
                }
                for arm in found.arms
            ]
        )
        fitness = "fit for the gate" if found.fit else "too noisy for the gate (at most 3 %)"
        screen.out(
            f"{found.device}, {found.model}, p50 {found.p50_ns / NS_PER_MS:.4g} ms: "
            f"+-{found.half_width:.2%} with 20 pairs, smallest detectable effect "
            f"{found.smallest_effect:+.1%}, pairs vary by {found.spread:.1%}: {fitness}; "
            f"run {found.run}"
        )
    raise typer.Exit(DONE if found.fit else INCONCLUSIVE)
