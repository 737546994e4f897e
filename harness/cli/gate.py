"""The commands gate, judge and selftest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from harness.cli import completion, ending
from harness.cli.ci import CiOptions, CiReporting
from harness.cli.ending import DONE, INCONCLUSIVE, INTERRUPTED
from harness.cli.option_names import naming_options
from harness.cli.shared import (
    DeviceOption,
    FarmOption,
    GithubOption,
    JsonOption,
    JUnitOption,
    ResultsOption,
    RunArgument,
    SummaryOption,
    SuspectOption,
    TrustOption,
    WaitOption,
    app,
    print_json,
    print_lines,
    printing,
    progress,
    reports,
    stored_command,
)

if TYPE_CHECKING:
    from harness.analysis.gate.document import Result
    from harness.analysis.gate.selftests import Selftest
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
@reports
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
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    github: GithubOption = None,
    results: ResultsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure A and B interleaved; fail if B is worse.

    Exit 0 no regression, 1 a confirmed regression, 2 inconclusive, 3 invalid input or usage,
    4 a device was away.

    Example: edge-harness gate plan.toml --baseline main.tflite --candidate branch.tflite
    """
    from harness import api

    options = CiOptions(junit=junit, summary=summary, github=github)
    partial: list[Result] = []
    with CiReporting("gate", options=options, plan=plan, results=results) as reporting:
        with _printing_partial(partial, baseline, candidate, as_json=as_json):
            ending.deliver()
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
                progress=reporting.watching(progress(quiet=as_json)),
                on_stopped=partial.append,
            )
            partial.append(found)
            reporting.complete(found.plain())
        if found.notice:
            print_lines(found.notice)
        # A report may wait for its reader; the verdict is printed before.
        _print_result(found, results, as_json=as_json)
    raise typer.Exit(found.exit_code)


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

    with naming_options([]):
        found = api.judge(
            run,
            margin=margin,
            min_effect=min_effect,
            include_suspect=include_suspect,
            results=results,
        )
    _print_result(found, results, as_json=as_json)
    raise typer.Exit(found.exit_code)


def _print_result(found: Result, results: Path | None, *, as_json: bool) -> None:
    """Print the result of a gate."""
    if found.run is None:
        _print(found.plain(), as_json=as_json)
    else:
        command = stored_command("judge", found.run, results)
        with printing(f"gate {found.run} is stored: `{command}` prints its verdict"):
            _print(found.plain(), as_json=as_json)


@contextmanager
def _printing_partial(
    known: Sequence[Result], baseline: str, candidate: str, *, as_json: bool
) -> Iterator[None]:
    """Print what is known by then if the block is stopped; KeyboardInterrupt goes on."""
    try:
        yield
    except KeyboardInterrupt:
        _print_partial(known, baseline, candidate, as_json=as_json)
        raise


def _print_partial(
    known: Sequence[Result], baseline: str, candidate: str, *, as_json: bool
) -> None:
    """Print what is known of a gate that was stopped, with the exit code of this process."""
    cause = ending.cause()
    code = cause.code if cause else INTERRUPTED
    if known:
        _print({**known[0].plain(), "exit_code": code}, as_json=as_json)
    elif as_json:
        # An import may be half done, so nothing is imported here.
        why = f"the gate ended before it started ({cause or 'interrupted'})"
        sides = {"baseline": baseline, "candidate": candidate}
        empty: dict[str, Any] = {name: [] for name in ("rows", "contests", "away", "failed")}
        known_now = {"exit_code": code, "verdict": "INCONCLUSIVE", "incomplete": why}
        print_json({"schema": 1, "run": None, **known_now, **sides, **empty})


def _print(document: Mapping[str, Any], *, as_json: bool) -> None:
    from harness.present import screen

    if as_json:
        print_json(document)
    else:
        screen.gate(document)


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

    Print its false-alarm rate and the slowdown that it finds in 95 % of gates. Exit 2 if the device
    is too noisy, or too busy for the selftest to count.

    Example: edge-harness selftest bench-pi --model model.tflite
    """
    from harness import api

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
    kept = f"the selftest is kept; `{stored_command('show', found.run, results)}` shows its run"
    with printing(kept):
        _print_selftest(found, as_json=as_json)
    raise typer.Exit(DONE if found.fit else INCONCLUSIVE)


def _print_selftest(found: Selftest, *, as_json: bool) -> None:
    from harness.columns import NS_PER_MS
    from harness.present import screen

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
        if found.unfit is not None:
            fitness = (
                f"does not count for gates: {found.unfit}; run it again when the device has no "
                "other work"
            )
        else:
            fitness = "fit for the gate" if found.fit else "too noisy for the gate (at most 3 %)"
        screen.out(
            f"{found.device}, {found.model}, p50 {found.p50_ns / NS_PER_MS:.4g} ms: "
            f"with 20 pairs the interval is +-{found.half_width:.2%}, and "
            f"{found.smallest_effect:+.1%} is judged slower in 95 % of gates; "
            f"pairs vary by {found.spread:.1%}: {fitness}; run {found.run}"
        )
