"""Turn the end of a run of `benchmark_model` into its report or an error.

The exit code counts before any file: a failing inference does not stop the program, and it writes
its results nevertheless.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from harness.devices.delegation import benchmark_log
from harness.devices.dialects.benchmark_model import causes, result_file, runtime_info, tool_output
from harness.devices.dialects.benchmark_model.programs import RunnerProgram
from harness.devices.dialects.benchmark_model.report import ToolReport
from harness.devices.dialects.benchmark_model.scripts import ScriptOutput
from harness.devices.dialects.benchmark_model.tool_output import ToolLog, UnknownFormat
from harness.devices.dialects.benchmark_model.wire import MalformedMessage
from harness.errors import (
    AgentError,
    AgentSilent,
    Crashed,
    FellBack,
    HarnessError,
    ModelRejected,
    OutOfMemory,
    RuntimeMissing,
    TransferFailed,
)
from harness.types import Delegation

_KILLED, _ABORTED = 137, 134
_NOT_EXECUTABLE, _NOT_FOUND = 126, 127
_FIRST_SIGNAL = 128
_AGREE = 0.02
"""The result file and the log may differ by this share, or by a unit of the log's last digit."""

_LOG_DIGIT_NS = 1e4
_XNNPACK = re.compile(
    r"Replacing (\d{1,9})(?: out of (\d{1,9}))? node\(s\) with delegate \((TfLiteXNNPackDelegate)\)"
    r"[^\n]{0,40}?(?:yielding (\d{1,9}) partitions?)?"
)
_FULL_DISK = ("No space left on device", "ENOSPC")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEnding:
    """What one run of the program left."""

    code: int
    """The exit code; 128+N after signal N."""
    late: bool
    """Whether it was killed because it passed its deadline."""
    log: str
    """Stdout and stderr."""
    result: bytes | None = None
    info: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """The numbers of one run and where its operators ran."""

    report: ToolReport
    delegation: Delegation
    flags: tuple[str, ...] = ()


def of_output(output: ScriptOutput, where: str) -> RunEnding:
    """Return the end of a run from its script's output; raises AgentError without an exit code."""
    code = output.text("code")
    if code is None or not re.fullmatch(r"\d{1,3}", code):
        raise AgentError(f"{where}: the launch script reported no exit code")
    log = b"\n".join((output.file("out") or b"", output.file("err") or b""))
    return RunEnding(
        code=int(code),
        late=output.text("late") == "yes",
        log=log.decode("utf-8", "replace"),
        result=output.file("result"),
        info=output.file("info"),
    )


def read(
    ending: RunEnding, program: RunnerProgram, target: str, where: str, setup: str
) -> RunResult:
    """Return the result of a run.

    `where` names the device and the program in messages; `setup` is the command that installs a
    bundle. Raises an AgentError or TransferFailed if the run failed or its output is not understood.
    """
    log = _log(ending, where)
    _raise_if_failed(ending, log, where, setup)
    ignored = unconsumed(log, program)
    if ignored:
        raise ModelRejected(
            f"{where}: the program does not know {ignored} and would measure something else; "
            "use another version of it, or remove the option from delegate_options"
        )
    report = _report(ending, log, where)
    flags = ("simulated",) if log.stand_in else ()
    return RunResult(report=report, delegation=_delegation(ending, target, where), flags=flags)


def raise_if_failed(ending: RunEnding, where: str, setup: str) -> None:
    """Raise the error of a run whose numbers do not matter; arguments and errors as in `read`."""
    _raise_if_failed(ending, _log(ending, where), where, setup)


def unconsumed(log: ToolLog, program: RunnerProgram) -> str:
    """Return the flags that the program ignored.

    One version of LiteRT's program also lists its vendors' flags here, which it did read.
    """
    words = (log.unconsumed or "").split()
    unread = [word for word in words if word.lstrip("-").partition("=")[0] not in program.flags]
    return " ".join(unread)[:300]


def _log(ending: RunEnding, where: str) -> ToolLog:
    try:
        return tool_output.read(ending.log)
    except UnknownFormat as error:
        if ending.code or ending.late:
            # The failure itself is more important than the format of its log.
            return ToolLog(last=str(error))
        raise AgentError(
            f"{where}: a line of its log has an unknown format: {error}; this version of the program "
            "is not supported"
        ) from error


def _raise_if_failed(ending: RunEnding, log: ToolLog, where: str, setup: str) -> None:
    code, why = ending.code, tool_output.last_errors(log)
    if ending.late:
        raise AgentSilent(
            f"{where}: the launch passed its deadline and was killed; last: {log.last[:300]}"
        )
    if code == 0:
        return
    error: type[HarnessError]
    if any(mark in ending.log for mark in _FULL_DISK):
        error, text = TransferFailed, f"the device's storage is full: {why}; free space there"
    elif log.missing_library or code in (_NOT_EXECUTABLE, _NOT_FOUND):
        found = log.missing_library or why
        error, text = RuntimeMissing, f"the program does not start: {found}; `{setup}` installs it"
    elif (
        "Disallowed CPU fallback detected" in ending.log or "full delegation and CPU" in ending.log
    ):
        error, text = FellBack, f"the delegate did not take the whole graph: {why}"
    elif code == _KILLED:
        error, text = (
            OutOfMemory,
            "the process was killed (signal 9), as Android's lmkd and the kernel do when memory is short",
        )
    elif code > _FIRST_SIGNAL:
        name = "SIGABRT" if code == _ABORTED else f"signal {code - _FIRST_SIGNAL}"
        error, text = Crashed, f"the process crashed ({name}): {why}"
    else:
        error, text = ModelRejected, f"it ended with exit code {code}: {why}"
    change = causes.change_for(ending.log[-20_000:]) if error in (ModelRejected, FellBack) else None
    raise error(f"{where}: {text}{f' ({change})' if change else ''}")


def _report(ending: RunEnding, log: ToolLog, where: str) -> ToolReport:
    """Return the report of the result file, else the log's; raises AgentError if there is neither."""
    if not ending.result:
        if log.report is None:
            raise AgentError(
                f"{where}: the log ends before the results, and there is no result file; "
                f"last line: {log.last[:300]!r}"
            )
        return log.report
    try:
        report = result_file.read(ending.result)
    except MalformedMessage as error:
        raise AgentError(
            f"{where}: the result file has an unknown format ({error}); this version of the program is "
            "not supported"
        ) from error
    other = log.report
    if other is not None:
        limit = max(_AGREE * report.avg_ns, _LOG_DIGIT_NS)
        if report.runs != other.runs or abs(report.avg_ns - other.avg_ns) > limit:
            raise AgentError(
                f"{where}: the result file ({report.runs} runs, mean {report.avg_ns / 1e6:.4g} ms) and the "
                f"log ({other.runs} runs, mean {other.avg_ns / 1e6:.4g} ms) contradict each other"
            )
    return report


def _delegation(ending: RunEnding, target: str, where: str) -> Delegation:
    from_log = (
        _on_cpu(ending.log) if target == "xnnpack" else benchmark_log.read(ending.log, target)
    )
    why = causes.left_behind(tool_output.lines_of(ending.log))
    if not ending.info:
        return _with_causes(from_log, why)
    try:
        found = runtime_info.delegation(ending.info, target)
    except MalformedMessage as error:
        raise AgentError(
            f"{where}: the file of --model_runtime_info_output_file has an unknown format ({error})"
        ) from error
    both = [found.evidence, from_log.evidence if target != "xnnpack" else ""]
    made = Delegation(
        delegate=found.delegate,
        delegated_ops=found.delegated_ops,
        total_ops=found.total_ops,
        partitions=found.partitions,
        left=found.left,
        evidence="; ".join(filter(None, both)),
        fully=from_log.fully,
    )
    return _with_causes(made, why)


def _with_causes(found: Delegation, why: Mapping[str, str]) -> Delegation:
    from dataclasses import replace

    return replace(found, left_why={name: why[name] for name in found.left if name in why})


def _on_cpu(log: str) -> Delegation:
    """Return the delegation to XNNPACK from the log; `none` if it is not mentioned."""
    match = next(iter(_XNNPACK.findall(log)), None)
    applied = "Explicitly applied XNNPACK delegate" in log
    if match is None:
        if "Though XNNPACK delegate is explicitly applied" in log or not applied:
            return Delegation(delegate="none", evidence="")
        return Delegation(delegate="xnnpack", evidence="benchmark_model log: XNNPACK applied")
    taken, total, _, parts = match
    return Delegation(
        delegate="xnnpack" if int(taken) else "none",
        delegated_ops=int(taken) if total else None,
        total_ops=int(total) if total else None,
        partitions=int(parts) if parts else None,
        evidence=f"benchmark_model log: {taken} of {total or 'all'} operators replaced",
    )
