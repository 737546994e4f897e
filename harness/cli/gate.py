"""The commands that judge: gate, and the selftest of what a gate can see."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from harness.cli.shared import (
    DONE,
    INCONCLUSIVE,
    DeviceOption,
    FarmOption,
    JsonOption,
    ResultsOption,
    RunArgument,
    WaitOption,
    app,
    print_json,
    progress,
)
from harness.columns import NS_PER_MS

if TYPE_CHECKING:
    from harness.analysis.gate.document import Result


class Thermal(StrEnum):
    """When launches start."""

    GATE = "gate"
    SOAK = "soak"


@app.command()
def gate(
    plan: Annotated[Path, typer.Argument(help="plan.toml")],
    baseline: Annotated[
        str,
        typer.Option("--baseline", help="A: a file, a recipe, runtime:NAME=VERSION, or a run."),
    ],
    candidate: Annotated[str, typer.Option("--candidate", help="B: the same.")],
    farm: FarmOption = None,
    device: DeviceOption = None,
    measure_identical: Annotated[
        bool, typer.Option("--measure-identical", help="Measure A and B of the same bytes too.")
    ] = False,
    thermal: Annotated[
        Thermal,
        typer.Option("--thermal", help="gate: as the profile says; soak: heat to a plateau first."),
    ] = Thermal.GATE,
    wait: WaitOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure B beside A and say whether it got worse; exit 1 for a confirmed regression.

    Exit 0 no, 1 yes, 2 inconclusive, 3 could not be asked, 4 a device was away.

    Example: edge-harness gate plan.toml --baseline main.tflite --candidate branch.tflite
    """
    from harness import api

    found = api.gate(
        plan,
        baseline=baseline,
        candidate=candidate,
        farm=farm,
        devices=device or (),
        measure_identical=measure_identical,
        soak=thermal is Thermal.SOAK,
        results=results,
        wait=wait,
        progress=progress(quiet=as_json),
    )
    _tell(found, as_json=as_json)


@app.command()
def judge(
    run: RunArgument,
    margin: Annotated[
        float | None, typer.Option("--margin", help="As in [gate]; 0.05 is 5 %.")
    ] = None,
    min_effect: Annotated[float | None, typer.Option("--min-effect", help="As in [gate].")] = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge a stored gate again, by other limits where they are given; measures nothing.

    Example: edge-harness judge latest --margin 0.03
    """
    from harness import api

    _tell(api.judge(run, margin=margin, min_effect=min_effect, results=results), as_json=as_json)


def _tell(found: Result, *, as_json: bool) -> NoReturn:
    """Print what a gate came to and end with its exit code."""
    from harness.analysis.gate.document import explained
    from harness.present import screen

    document = found.plain()
    if as_json:
        print_json(document)
    else:
        if document["rows"]:
            screen.records([_shown(row) for row in document["rows"]])
        for line in explained(found):
            screen.out(line)
        screen.out(found.summary())
    raise typer.Exit(found.exit_code)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    """Write a row of the document for a person."""
    scale = NS_PER_MS if row["unit"] == "ns" else 1
    unit = "ms" if row["unit"] == "ns" else row["unit"] or ""
    ratio = row["ratio"]
    noise = row["device_half_width"]
    return {
        "model": row["model"],
        "recipe": row["recipe"],
        "device": row["device"],
        "thr": str(row["threads"]),
        "metric": row["metric"],
        "A": _number(row["a"], scale),
        "B": _number(row["b"], scale),
        "unit": unit,
        "ratio": "-" if ratio is None else f"{ratio:.3f}",
        "95 %": "" if ratio is None else f"{row['ratio_low']:.3f}-{row['ratio_high']:.3f}",
        "pairs": str(row["pairs"] or ""),
        "verdict": row["verdict"] or "(shown)",
        "device noise": "" if noise is None else f"+-{noise:.1%}",
        "labels": [*row["labels"], *row["flags"]],
    }


def _number(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{value / scale:,.4g}" if scale > 1 else f"{value:,.10g}"


@app.command()
def selftest(
    device: Annotated[str, typer.Argument(help="A device of the farm.")],
    model: Annotated[
        Path | None, typer.Option("--model", help="A .tflite file [default: the embedded one].")
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1)] = 1,
    farm: FarmOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure a file against itself: how often a gate errs there, and what it can see.

    Exit 2 where the device is too noisy to gate.

    Example: edge-harness selftest bench-pi --model model.tflite
    """
    from harness import api
    from harness.present import screen

    chosen = {} if model is None else {"model": model}
    found = api.selftest(
        device,
        **chosen,
        threads=threads,
        farm=farm,
        results=results,
        progress=progress(quiet=as_json),
    )
    if as_json:
        print_json(found.plain())
    else:
        screen.records(
            [
                {
                    "B is": "A itself" if arm.scale == 1 else f"A {arm.scale - 1:+.0%}",
                    "told slower": f"{arm.told:.1%}",
                    "build fails": f"{arm.red:.1%}",
                    "pairs": f"{arm.pairs:.1f}",
                }
                for arm in found.arms
            ]
        )
        word = "fit to be gated" if found.fit else "too noisy to gate (3 % is the most)"
        screen.out(
            f"{found.device}, {found.model}, p50 {found.p50_ns / NS_PER_MS:.4g} ms: "
            f"+-{found.half_width:.2%} with 20 pairs, smallest detectable effect "
            f"{found.smallest_effect:+.1%}, pairs vary by {found.spread:.1%}: {word}; "
            f"run {found.run}"
        )
    raise typer.Exit(DONE if found.fit else INCONCLUSIVE)
