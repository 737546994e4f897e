"""Operator times from the vendor's benchmark_model, if the user has that binary.

The tool runs on the device, one process per launch; the time of an operator is the median over
launches of the tool's averages. The binary is in the device's PATH or is sent from this machine.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from harness import stats
from harness.analysis.layers import tool_log
from harness.analysis.layers.estimate import half_width
from harness.analysis.layers.operators import TOOL, Layers, OperatorTime, Subject
from harness.devices import abilities
from harness.devices.delegation import CPU_TARGETS, benchmark_log, kinds
from harness.errors import (
    ConfigError,
    Crashed,
    FellBack,
    RuntimeMissing,
    Unproven,
    Unsupported,
)
from harness.events import LaunchStarted, MeasuringStarted
from harness.measure import blocks
from harness.measure.bench import Bench, launch_of
from harness.measure.sessions import Session
from harness.printable import counted
from harness.protocols import Commands, KeepsFiles, Reply, TimesOperators
from harness.types import Dose

NAME = "benchmark_model"
LAUNCHES = 3

_LIMIT_SECONDS = 200.0
TARGETS = {"xnnpack": "--use_xnnpack=true", "gpu": "--use_gpu=true"}
"""The tool's flag per supported target."""

_DOSE = Dose(min_inferences=50, min_seconds=0.5, max_seconds=10.0)

_SHOWN = 300
"""Characters of the tool's last output in a message."""


def find(session: Session, binary: Path | None = None) -> Sequence[str] | None:
    """Return the words that start the tool on the device; None if it has none.

    `binary` is a file of this machine that is built for the device; it is sent there. Raises
    ConfigError if there is no such file, Unsupported if the device's transport runs no commands.
    """
    if binary is None:
        if isinstance(session.dialect, TimesOperators) and (words := session.dialect.profiler()):
            return words
        if not isinstance(session.transport, Commands):
            return None
        reply = session.transport.run(["sh", "-c", f"command -v {NAME}"], 20.0)
        found = reply.stdout.decode("utf-8", "replace").strip()
        return (found,) if reply.exit_code == 0 and found else None
    if not binary.is_file():
        raise ConfigError(f"--benchmark-model {binary}: no such file")
    transport = _commands(session)
    path = _send(session, binary, hashlib.sha256(binary.read_bytes()).hexdigest())
    _checked(session, transport.run(["chmod", "u+rx", path], 20.0))
    return (path,)


def _send(session: Session, source: Path, digest: str) -> str:
    """Put a file into the device's store, checked and limited like models; return its path."""
    dialect = session.dialect
    if not isinstance(dialect, KeepsFiles):
        raise Unsupported(
            f"{session.device.name}: its dialect keeps no files that {NAME} could read"
        )
    session.bring({digest: source})
    return dialect.path_of(digest)


def _commands(session: Session) -> Commands:
    return abilities.commands(session.transport, session.device, NAME)


def measure(
    subjects: Sequence[Subject],
    bench: Bench,
    tool: Sequence[str],
    *,
    launches: int = LAUNCHES,
) -> list[Layers]:
    """Run the tool on every file in mirrored turns; return the times in its logs.

    The bench emits a MeasuringStarted, and a LaunchStarted per launch.

    Raises Unsupported for a target without a flag in TARGETS, Crashed if the tool fails,
    RuntimeMissing if its log has no operators, FellBack or Unproven if the log does not show that
    the accelerator ran the graph.
    """
    dose = replace(_DOSE, launches=launches)
    cells = [
        one.cell(f"#{number} {NAME}", dose, path=one.path, digest=one.digest)
        for number, one in enumerate(subjects)
    ]
    bench.emit(MeasuringStarted(cells=tuple(cells), launches=launches * len(cells)))
    profiles: list[list[tool_log.ToolProfile]] = [[] for _ in subjects]
    numbers = list(range(len(subjects)))
    for block in range(launches):
        for position, number in enumerate(numbers):
            turn = blocks.Turn(block=block, position=position, cell=cells[number])
            bench.emit(LaunchStarted(cell=turn.cell, order=blocks.order(turn, loops=1)))
            run_tool = functools.partial(_launch, subjects[number], bench, tool)
            profiles[number].append(bench.recovering(run_tool, launch_of(turn.cell)))
            bench.recovery.progressed()
        numbers.reverse()
    return [_layers(one, found) for one, found in zip(subjects, profiles, strict=True)]


def _launch(subject: Subject, bench: Bench, tool: Sequence[str]) -> tool_log.ToolProfile:
    session = bench.session
    bench.held.settle()
    bench.held.wait()
    flag = TARGETS.get(subject.target)
    if flag is None:
        raise Unsupported(
            f"{subject}: {NAME} is used for {', '.join(TARGETS)} only, not {subject.target}"
        )
    path = _send(session, subject.path, subject.digest)
    argv = [
        *tool,
        f"--graph={path}",
        f"--num_threads={subject.threads}",
        flag,
        "--enable_op_profiling=true",
        f"--num_runs={_DOSE.min_inferences}",
        f"--min_secs={_DOSE.min_seconds:g}",
        f"--max_secs={_DOSE.max_seconds:g}",
    ]
    reply = _checked(session, _commands(session).run(argv, _LIMIT_SECONDS))
    log = (reply.stdout + b"\n" + reply.stderr).decode("utf-8", "replace")
    _check_delegate(subject, log)
    profile = tool_log.parse(log)
    if not profile.operators:
        raise RuntimeMissing(
            f"{session.device.name}: {tool[-1]} gave no times of operators; is it {NAME}, and does it "
            f"know --enable_op_profiling? It ended with: {_last_output(reply)}"
        )
    return profile


def _check_delegate(subject: Subject, log: str) -> None:
    """Refuse CPU times for an accelerator: the tool continues if a delegate takes no operator."""
    if subject.target in CPU_TARGETS:
        return
    found = benchmark_log.read(log, subject.target)
    evidence = found.evidence or "none"
    if found.delegate == "none" or found.delegated_ops == 0:
        raise FellBack(f"{subject}: no operator ran on {subject.target}; evidence: {evidence}")
    if not kinds(found.evidence):
        raise Unproven(f"{subject}: the log of {NAME} does not show that {subject.target} ran it")


def _checked(session: Session, reply: Reply) -> Reply:
    if reply.exit_code != 0:
        raise Crashed(
            f"{session.device.name}: {NAME} ended with {reply.exit_code}: {_last_output(reply)}"
        )
    return reply


def _last_output(reply: Reply) -> str:
    text = (reply.stderr or reply.stdout).decode("utf-8", "replace").strip()
    return text[-_SHOWN:] or "(no output)"


def _layers(subject: Subject, profiles: Sequence[tool_log.ToolProfile]) -> Layers:
    notes = ["the tool's averages with profiling on; it slows a model of many small operators"]
    shape = [(one.type, one.name) for one in profiles[0].operators]
    same = [p for p in profiles if [(one.type, one.name) for one in p.operators] == shape]
    if len(same) < len(profiles):
        notes.append(
            f"{counted(len(profiles) - len(same), 'launch')} listed other operators: left out"
        )
    outer, inside = [
        [_times(same, at) for at, one in enumerate(profiles[0].operators) if one.inside is wanted]
        for wanted in (False, True)
    ]
    averages = [p.inference_avg_ns for p in same if p.inference_avg_ns is not None]
    total = sum(one.ns for one in outer)
    if inside:
        notes.append(
            "the delegate's own operators are listed apart; their time is in the delegate's line"
        )
    return Layers(
        subject=subject,
        source=TOOL,
        operators=tuple(outer),
        whole_ns=stats.median(averages) if averages else total,
        whole_is=f"median of the averages of {counted(len(averages), 'launch')}"
        if averages
        else "the sum; the log has no timing of the whole",
        launches=len(same),
        notes=tuple(notes),
        inside=tuple(inside),
    )


def _times(profiles: Sequence[tool_log.ToolProfile], at: int) -> OperatorTime:
    one = profiles[0].operators[at]
    values = [profile.operators[at].avg_ns for profile in profiles]
    node = at if one.node is None else one.node
    return OperatorTime(
        first=node,
        last=node,
        type=one.type,
        name=one.name,
        ns=stats.median(values),
        half_width_ns=half_width(values),
    )
