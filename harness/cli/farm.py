"""Commands about devices."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from harness.cli import completion, ending
from harness.cli.ci import CiOptions, CiReporting
from harness.cli.ending import DONE, NO
from harness.cli.shared import (
    FarmOption,
    GithubOption,
    JsonOption,
    JUnitOption,
    SummaryOption,
    WaitOption,
    YesKeyOption,
    app,
    key_question,
    print_json,
    print_lines,
    reports,
)


@app.command()
def add(
    uri: Annotated[str, typer.Argument(help="local:, ssh://user@host:port or adb:SERIAL")],
    name: Annotated[str | None, typer.Option("--name", help="Use this name in farm.toml.")] = None,
    yes_key: YesKeyOption = None,
    identity: Annotated[
        str | None, typer.Option("--identity", help="Use this private key file.")
    ] = None,
    python: Annotated[
        str | None, typer.Option("--python", help="Use this Python on the device.")
    ] = None,
    farm: FarmOption = None,
    wait: WaitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Add a device to the farm and run doctor.

    Check its host key, detect its hardware and software, and write the farm entry.

    Example: edge-harness add ssh://pi@10.0.0.7 --name bench-pi
    """
    from harness import api
    from harness.present import screen

    added = api.add(
        uri,
        name=name,
        identity=identity,
        python=python,
        farm=farm,
        trust=key_question(yes_key),
        wait=wait,
        say=print_lines,
    )
    if as_json:
        print_json(added.plain())
    else:
        screen.out(added.text())
        screen.checks({added.device.name: added.checks})
    raise typer.Exit(NO if any(check.status == "fail" for check in added.checks) else DONE)


@app.command()
def devices(
    device: Annotated[
        list[str] | None,
        typer.Argument(help="Devices [all of the farm].", autocompletion=completion.devices),
    ] = None,
    clean: Annotated[
        bool, typer.Option("--clean", help="Remove our agents, models and runtimes there.")
    ] = False,
    farm: FarmOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the devices of the farm with their status and facts.

    With --clean, remove what we installed there.

    Example: edge-harness devices
    """
    from harness import api
    from harness.present import screen

    if clean:
        _clean(device or (), farm, as_json=as_json)
    known = api.read_farm(farm)
    print_lines(f"devices of {known.name}")
    found = api.devices(device or (), farm=known)
    if as_json:
        print_json({"devices": found})
    else:
        screen.records([_in_short(row) for row in found])
        screen.out("\n".join(row["reason"] for row in found if row["reason"]))
    raise typer.Exit(NO if any(row["status"] not in {"ready", "busy"} for row in found) else DONE)


@app.command()
@reports
def doctor(
    device: Annotated[
        list[str] | None,
        typer.Argument(help="Devices [all of the farm].", autocompletion=completion.devices),
    ] = None,
    farm: FarmOption = None,
    junit: JUnitOption = None,
    summary: SummaryOption = None,
    github: GithubOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check the devices and show the commands that fix failed checks.

    Example: edge-harness doctor bench-pi
    """
    from harness import api
    from harness.present import screen

    options = CiOptions(junit=junit, summary=summary, github=github)
    with CiReporting("doctor", options=options) as reporting:
        ending.deliver()
        print_lines(f"devices of {api.read_farm(farm).name}")
        found = api.doctor(device or (), farm=farm)
        plain = {name: [check.plain() for check in checks] for name, checks in found.items()}
        reporting.checks = plain
        reporting.complete()
        if as_json:
            print_json(plain)
        else:
            screen.checks(found)
    failed = any(check.status == "fail" for checks in found.values() for check in checks)
    raise typer.Exit(NO if failed else DONE)


@app.command()
def setup(
    device: Annotated[
        str,
        typer.Argument(
            help="A device of the farm, or a URI.", autocompletion=completion.device_names
        ),
    ],
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime", help="Install NAME==VERSION, or a phone's FOLDER [default: the best]."
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be installed; send nothing.")
    ] = False,
    farm: FarmOption = None,
    wait: WaitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Install a runtime on a device, which needs no internet.

    The runtime goes into our folder on the device.

    Example: edge-harness setup bench-pi --runtime ai_edge_litert==2.3.0
    """
    from dataclasses import asdict

    from harness import api
    from harness.present import screen

    made = api.setup(
        device,
        runtime=runtime,
        dry_run=dry_run,
        farm=farm,
        wait=wait,
        say=print_lines,
    )
    if as_json:
        print_json(asdict(made))
    else:
        screen.out(made.text())


@app.command()
def profiles(
    name: Annotated[
        str | None,
        typer.Argument(help="Show this profile in full.", autocompletion=completion.profiles),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the device profiles and how each was verified.

    Example: edge-harness profiles raspberry_pi_5
    """
    from harness import api
    from harness.present import screen

    found = api.profiles(name)
    if as_json:
        print_json({"profiles": found})
    elif name:
        screen.record(found[0])
    else:
        screen.records(
            [
                {
                    **{key: row[key] for key in ("name", "title", "arch", "targets")},
                    "verified": _without_run(row["verified"]),
                }
                for row in found
            ]
        )


def _clean(names: Sequence[str], farm: Path | None, *, as_json: bool) -> NoReturn:
    from harness import api
    from harness.present import screen

    found = api.clean(names, farm=farm)
    if as_json:
        print_json({"devices": found})
    else:
        for row in found:
            freed = row["freed_bytes"]
            done = f"{freed / 1e6:.1f} MB removed" if freed is not None else row["reason"]
            screen.out(f"{row['name']}: {done}")
    raise typer.Exit(NO if any(row["reason"] for row in found) else DONE)


def _without_run(verified: str) -> str:
    """Shorten `hardware (RUN, DATE)` to `hardware DATE`; the profile in full has the run."""
    how, _, proof = verified.partition(" (")
    return f"{how} {proof.rstrip(')').rpartition(', ')[2]}".strip()


def _in_short(row: dict[str, Any]) -> dict[str, Any]:
    facts = row["facts"] or {}
    runtimes = [f"{runtime['name']} {runtime['version']}" for runtime in facts.get("runtimes", ())]
    memory = facts.get("memory_total_bytes")
    return {
        **{key: row[key] for key in ("name", "profile", "address", "tags", "status")},
        "chip": facts.get("board") or facts.get("chip") or facts.get("machine"),
        "cores": facts.get("cores"),
        "memory": f"{memory / 1e9:.1f} GB" if memory else None,
        "runtimes": runtimes,
    }
