"""Operator times from the vendor's benchmark_model, where the user has that binary.

The tool runs on the device, a process a launch; the time of an operator is the median over launches
of its averages. The binary is looked for in the device's PATH, or brought from this machine.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
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
from harness.measure.bench import Bench
from harness.measure.sessions import Session
from harness.protocols import Commands, KeepsFiles, Reply

NAME = "benchmark_model"
LAUNCHES = 3

_LIMIT_SECONDS = 200.0
TARGETS = {"xnnpack": "--use_xnnpack=true", "gpu": "--use_gpu=true"}
"""Targets that the tool is asked for, and its flag."""

_SHOWN = 300
"""Characters of the tool's last words in a message."""


def find(session: Session, binary: Path | None = None) -> str | None:
    """Return how to start the tool on the device; None where it has none.

    `binary` is a file of this machine, made for the device; it is brought there. Raises ConfigError
    where there is no such file, Unsupported where the device's transport runs no commands.
    """
    if binary is None:
        if not isinstance(session.transport, Commands):
            return None
        asked = session.transport.run(["sh", "-c", f"command -v {NAME}"], 20.0)
        found = asked.stdout.decode("utf-8", "replace").strip()
        return found if asked.exit_code == 0 and found else None
    if not binary.is_file():
        raise ConfigError(f"--benchmark-model {binary}: no such file")
    transport = _commands(session)
    place = _bring(session, binary, hashlib.sha256(binary.read_bytes()).hexdigest())
    _checked(session, transport.run(["chmod", "u+rx", place], 20.0))
    return place


def _bring(session: Session, source: Path, digest: str) -> str:
    """Have a file among the device's blobs, checked and capped as they are; return where."""
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
    tool: str,
    *,
    launches: int = LAUNCHES,
    tell: Callable[[str], None] = lambda _: None,
) -> list[Layers]:
    """Run the tool on every file, in turns; returns what its logs say.

    Raises Unsupported for a target that the tool has no flag for here, Crashed where it fails,
    RuntimeMissing where its log has no operators, FellBack or Unproven where an accelerator was asked
    for and the log does not say that it ran the graph.
    """
    profiles: list[list[tool_log.ToolProfile]] = [[] for _ in subjects]
    order = list(range(len(subjects)))
    for _ in range(launches):
        for number in order:
            tell(f"{bench.name}: {NAME} on {subjects[number]}")
            bench.settle()
            bench.held.wait()
            profiles[number].append(_launch(subjects[number], bench.session, tool))
        order.reverse()
    return [_layers(one, found) for one, found in zip(subjects, profiles, strict=True)]


def _launch(subject: Subject, session: Session, tool: str) -> tool_log.ToolProfile:
    flag = TARGETS.get(subject.target)
    if flag is None:
        raise Unsupported(
            f"{subject}: {NAME} is asked for {', '.join(TARGETS)} only, not {subject.target}"
        )
    place = _bring(session, subject.path, subject.digest)
    argv = [
        tool,
        f"--graph={place}",
        f"--num_threads={subject.threads}",
        flag,
        "--enable_op_profiling=true",
        "--num_runs=50",
        "--min_secs=0.5",
        "--max_secs=10",
    ]
    reply = _checked(session, _commands(session).run(argv, _LIMIT_SECONDS))
    log = (reply.stdout + b"\n" + reply.stderr).decode("utf-8", "replace")
    _ran_there(subject, log)
    profile = tool_log.parse(log)
    if not profile.operators:
        raise RuntimeMissing(
            f"{session.device.name}: {tool} gave no times of operators; is it {NAME}, and does it "
            f"know --enable_op_profiling? It ended with: {_last_words(reply)}"
        )
    return profile


def _ran_there(subject: Subject, log: str) -> None:
    """Refuse times of the CPU under an accelerator's name: the tool goes on where a delegate took nothing."""
    if subject.target in CPU_TARGETS:
        return
    told = benchmark_log.read(log, subject.target)
    evidence = told.evidence or "none"
    if told.delegate == "none" or told.delegated_ops == 0:
        raise FellBack(f"{subject}: no operator ran on {subject.target}; evidence: {evidence}")
    if not kinds(told.evidence):
        raise Unproven(f"{subject}: {NAME} does not say that {subject.target} ran it")


def _checked(session: Session, reply: Reply) -> Reply:
    if reply.exit_code != 0:
        raise Crashed(
            f"{session.device.name}: {reply.argv[0]} ended with {reply.exit_code}: {_last_words(reply)}"
        )
    return reply


def _last_words(reply: Reply) -> str:
    text = (reply.stderr or reply.stdout).decode("utf-8", "replace").strip()
    return text[-_SHOWN:] or "(it said nothing)"


def _layers(subject: Subject, profiles: Sequence[tool_log.ToolProfile]) -> Layers:
    notes = ["the tool's averages with profiling on, which slows a model of many small operators"]
    shape = [(one.type, one.name) for one in profiles[0].operators]
    same = [p for p in profiles if [(one.type, one.name) for one in p.operators] == shape]
    if len(same) < len(profiles):
        notes.append(f"{len(profiles) - len(same)} launches listed other operators: left out")
    outer, inside = [
        [_times(same, at) for at, one in enumerate(profiles[0].operators) if one.inside is wanted]
        for wanted in (False, True)
    ]
    averages = [p.inference_avg_ns for p in same if p.inference_avg_ns is not None]
    total = sum(one.ns for one in outer)
    if inside:
        notes.append(
            "the delegate's own operators stand apart; their time is in the delegate's line"
        )
    return Layers(
        subject=subject,
        source=TOOL,
        operators=tuple(outer),
        whole_ns=stats.median(averages) if averages else total,
        whole_is=f"median of {len(averages)} launches' averages"
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
