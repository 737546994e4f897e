"""Checks of the agent and of its Python."""

from __future__ import annotations

from harness.errors import HarnessError
from harness.farm.checks import CheckResult, Fix, FixKind, check, fail, ok, skip
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import packages, workdir
from harness.farm.probe import NoPython, probe_python
from harness.printable import counted
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
    does="Use a system image with Python, or install one",
    by_hand="the device has no known package manager with Python",
)
LOOK_AGENT = FixKind(
    id="look-agent",
    does="Find out why the agent does not start",
    by_hand="the state of the work folder does not explain it",
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
    """The device has a Python that is new enough for the agent."""
    device = dut.device
    minimum = ".".join(str(part) for part in MIN_PYTHON)
    try:
        probe = probe_python(dut.commands, device)
    except NoPython as error:
        return fail(str(error), _python_fix(dut, is_old=False))
    found = (
        f"{dut.agent.python} is {'.'.join(str(part) for part in probe.version)}, {probe.bits} bits"
    )
    if probe.version[:2] < MIN_PYTHON:
        fix = _python_fix(dut, is_old=True)
        return fail(f"{found}; the agent needs {minimum}", fix)
    dut.probe = probe
    return ok(found)


def _python_fix(dut: DeviceUnderTest, *, is_old: bool) -> Fix:
    for path in other_pythons(dut):
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
    # If the Python is too old, the package manager has no newer one.
    if install and not is_old:
        return dut.as_root(INSTALL_PYTHON, install)
    advice = (
        "use an image of its system with Python 3.9 or newer; or unpack a Python 3.9 or newer on the "
        "device (https://github.com/astral-sh/python-build-standalone has builds) and name it by "
        "`python` in the farm file"
    )
    return dut.by_hand(BRING_PYTHON, advice)


def other_pythons(dut: DeviceUnderTest) -> tuple[str, ...]:
    """Return the paths of all Pythons on the device that are new enough."""
    try:
        reply = dut.commands.run(["sh", "-c", _OTHERS], _SECONDS)
    except HarnessError:
        return ()
    return read_other_pythons(reply.stdout)


def read_other_pythons(answer: bytes) -> tuple[str, ...]:
    """Parse the paths of Pythons; skip other lines."""
    lines = (line for line in answer.splitlines() if line.startswith(_MARK))
    paths = (line.removeprefix(_MARK).decode(errors="replace") for line in lines)
    kept = [path for path in paths if path.startswith("/") and path.isprintable()]
    return tuple(dict.fromkeys(kept))[:_MAX_FOUND]


@check(
    needs=("reachable",),
    unless_failed=("host_key", "commands", "python"),
    fixes=(*workdir.FIXES, LOOK_AGENT),
)
def agent(dut: DeviceUnderTest) -> CheckResult:
    """The agent starts and reports the facts of the device."""
    assert dut.transport is not None
    assert dut.open_dialect is not None
    try:
        dut.dialect = dut.open_dialect(dut.transport, dut.device)
        dut.dialect.deploy({})
        other = dut.dialect.holder() if isinstance(dut.dialect, Leasing) else None
        if other is not None:
            return skip(f"{other.name} holds the lease; doctor does not disturb its measurement")
        dut.facts = dut.dialect.hello()
    except HarnessError as error:
        return fail(str(error), _agent_fix(dut, str(error)))
    facts = dut.facts
    named = facts.board or facts.chip or facts.machine or facts.hostname or facts.identity
    cores = None if facts.cores is None else counted(facts.cores, "core")
    return ok(", ".join(filter(None, (named, cores, facts.kernel))))


def _agent_fix(dut: DeviceUnderTest, found: str) -> Fix:
    # The agent is a file: the fix of file transfers is its fix too.
    if dut.files_fix is not None:
        return dut.files_fix
    if dut.agent.workdir in found or "belongs to another user" in found:
        return workdir.fix(dut, found)
    advice = f"{dut.remote_command('dmesg | tail')} may show why it does not start"
    return dut.by_hand(LOOK_AGENT, advice)
