"""Checks of the agent and of the Python that runs it."""

from __future__ import annotations

from harness.errors import HarnessError
from harness.farm.checks import CheckResult, Fix, FixKind, check, fail, ok, skip
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import packages, sftp, workdir
from harness.farm.probe import NoPython, ask
from harness.protocols import Leasing

MIN_PYTHON = (3, 9)
_SECONDS = 60.0
_MARK = b"edge-harness-python "
_MAX_FOUND = 16

NAME_PYTHON = FixKind(id="name-python", does="Name another Python that is on the device")
INSTALL_PYTHON = FixKind(id="install-python", does="Install Python with the package manager")
NEWER_PYTHON = FixKind(id="newer-python", does="Install a newer Python beside the system's")
BRING_PYTHON = FixKind(
    id="bring-python",
    does="Take an image of the system with a Python, or bring one",
    by_hand="no package manager is known there that has one",
)
LOOK_AGENT = FixKind(
    id="look-agent",
    does="Find out what kept the agent from starting",
    by_hand="neither the work folder nor its parts explain it",
)

_OTHERS = r"""
for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9; do
    for folder in $(echo "$PATH" | tr ':' ' ') /usr/local/bin /usr/bin /opt/bin /opt/*/bin; do
        [ -x "$folder/$name" ] || continue
        "$folder/$name" -c 'import sys
if sys.version_info >= (3, 9): sys.stdout.write("edge-harness-python " + sys.argv[1] + "\n")' \
            "$folder/$name" 2>/dev/null
    done
done
"""


@check(
    needs=("python_agent", "commands"),
    fixes=(NAME_PYTHON, INSTALL_PYTHON, NEWER_PYTHON, BRING_PYTHON),
)
def python(dut: DeviceUnderTest) -> CheckResult:
    """A Python new enough for the agent is there."""
    device = dut.device
    least = ".".join(str(part) for part in MIN_PYTHON)
    try:
        probe = ask(dut.commands, device)
    except NoPython as error:
        return fail(str(error), _python_fix(dut, is_old=False))
    found = (
        f"{dut.agent.python} is {'.'.join(str(part) for part in probe.version)}, {probe.bits} bits"
    )
    if probe.version[:2] < MIN_PYTHON:
        fix = _python_fix(dut, is_old=True)
        return fail(f"{found}; the agent needs {least}", fix)
    dut.probe = probe
    return ok(found)


def _python_fix(dut: DeviceUnderTest, *, is_old: bool) -> Fix:
    for path in others(dut):
        return dut.by_setting(NAME_PYTHON, "python", path)
    newer = packages.newer_python(dut.system)
    if newer:
        command, path = newer
        fix = dut.as_root(NEWER_PYTHON, command)
        then = dut.by_setting(NEWER_PYTHON, "python", path)
        return Fix(
            kind=NEWER_PYTHON,
            command=fix.command,
            root_command=fix.root_command,
            setting=then.setting,
            text=f"{fix.text}; then {then.text}",
        )
    install = packages.install(dut.system, "python")
    # What the package manager has is installed already if it is too old.
    if install and not is_old:
        return dut.as_root(INSTALL_PYTHON, install)
    advice = (
        "a newer image of its system, or one with Python 3 in it; or a Python 3.9 or newer of its "
        "own (https://github.com/astral-sh/python-build-standalone has some to unpack), named by "
        "`python` in the farm file"
    )
    return dut.by_hand(BRING_PYTHON, advice)


def others(dut: DeviceUnderTest) -> tuple[str, ...]:
    """Return the paths of other Pythons on the device that are new enough."""
    try:
        reply = dut.commands.run(["sh", "-c", _OTHERS], _SECONDS)
    except HarnessError:
        return ()
    return read_others(reply.stdout)


def read_others(answer: bytes) -> tuple[str, ...]:
    """Read the paths of Pythons; lines that are none are left out."""
    lines = (line for line in answer.splitlines() if line.startswith(_MARK))
    paths = (line.removeprefix(_MARK).decode(errors="replace") for line in lines)
    kept = [path for path in paths if path.startswith("/") and path.isprintable()]
    return tuple(dict.fromkeys(kept))[:_MAX_FOUND]


@check(
    needs=("reachable",),
    unless_failed=("host_key", "commands", "python"),
    fixes=(*workdir.FIXES, *sftp.FIXES, LOOK_AGENT),
)
def agent(dut: DeviceUnderTest) -> CheckResult:
    """The agent starts and says what the device is."""
    assert dut.transport is not None
    assert dut.open_dialect is not None
    try:
        dut.dialect = dut.open_dialect(dut.transport, dut.device)
        dut.dialect.deploy({})
        other = dut.dialect.holder() if isinstance(dut.dialect, Leasing) else None
        if other is not None:
            return skip(f"{other.name} has this device; nothing is asked while it may measure")
        dut.facts = dut.dialect.hello()
    except HarnessError as error:
        return fail(str(error), _agent_fix(dut, str(error)))
    facts = dut.facts
    return ok(f"{facts.board or facts.chip or facts.machine}, {facts.cores} cores, {facts.kernel}")


def _agent_fix(dut: DeviceUnderTest, found: str) -> Fix:
    # The agent is a file: what kept files from arriving kept it too.
    if dut.files_fix is not None:
        return dut.files_fix
    if dut.agent.workdir in found or "belongs to another user" in found:
        return workdir.fix(dut, found)
    advice = f"{dut.remote_command('dmesg | tail')} may say why it does not start"
    return dut.by_hand(LOOK_AGENT, advice)
