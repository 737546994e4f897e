"""Every check a device must pass, what was found, and the command that mends what failed.

A check is a function of a Patient in one of the lists below; it raises nothing but a
HarnessError, which is then its finding. What cannot be asked because something before it failed is
`skip`, never `ok`.
"""

from __future__ import annotations

import os
import secrets
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path

from harness.devices import abilities, opening
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.errors import HarnessError, HostKeyUnknown, LeaseError
from harness.farm import checks_accelerators, checks_device, checks_gpu, checks_runtime
from harness.farm.patient import Check, Examination, Patient
from harness.farm.probe import NoPython, ask
from harness.protocols import Commands, Leasing, OpenDialect, OpenTransport
from harness.types import Device, Profile

_LEAST_PYTHON = (3, 9)
_TRIAL_BYTES = 100_000
_COMMAND_SECONDS = 30.0
_NO_SFTP = "Subsystem sftp"
"""What the transport names as the way out."""

_GIVE_SFTP = (
    "echo 'Subsystem sftp internal-sftp' | sudo tee -a /etc/ssh/sshd_config && "
    "sudo systemctl reload ssh"
)


def examine(
    device: Device,
    open_transport: OpenTransport,
    open_dialect: OpenDialect,
    profile: Profile | None = None,
    model: Path | None = None,
) -> list[Check]:
    """Make every check of a device, in the order in which they depend on each other.

    `model` is a small .tflite file for the checks that make a launch; without it they are skipped.
    """
    patient = Patient(device=device, profile=profile, model=model)
    try:
        checks = _contact(patient, open_transport)
        checks += _all(patient, (_commands,), met=patient.transport is not None)
        runs = checks[-1].status == "ok" and _needs_python(patient)
        checks += _all(patient, _ON_COMMANDS, met=runs)
        checks += _all(patient, _ON_PYTHON, met=patient.probe is not None)
        checks.append(_agent(patient, open_dialect))
        known = patient.facts is not None
        checks += _all(patient, _ON_RUNTIME, met=known and patient.probe is not None)
        checks += _all(patient, _ON_FACTS, met=known)
        return checks
    finally:
        if patient.dialect is not None:
            patient.dialect.close()
        if patient.transport is not None:
            patient.transport.close()


def _all(patient: Patient, examinations: Sequence[Examination], *, met: bool) -> list[Check]:
    """Make checks whose condition is met, or say that they could not be made."""
    made = []
    for examination in examinations:
        name = examination.__name__.strip("_")
        if not met:
            made.append(Check(name=name, status="skip", found="something before it failed"))
            continue
        try:
            made.append(examination(patient))
        except LeaseError as error:
            made.append(Check(name=name, status="skip", found=str(error)))
        except HarnessError as error:
            mend = patient.there("dmesg | tail") + " may say why"
            made.append(Check(name=name, status="fail", found=str(error), mend=mend))
    return made


def _contact(patient: Patient, open_transport: OpenTransport) -> list[Check]:
    """Look whether the device answers, its host key is known and it lets us in."""
    device = patient.device
    try:
        patient.transport = open_transport(device)
    except HostKeyUnknown as error:
        mend = f"edge-harness add {device.address} --name {device.name}"
        return [
            Check(name="reachable", status="ok", found=f"{device.address} answers"),
            Check(name="host_key", status="fail", found=str(error), mend=mend),
        ]
    except HarnessError as error:
        mend = _way_there(patient)
        return [
            Check(name="reachable", status="fail", found=str(error), mend=mend),
            Check(name="host_key", status="skip", found="something before it failed"),
        ]
    reachable = Check(name="reachable", status="ok", found=device.address)
    if device.address.startswith("ssh:"):
        return [reachable, Check(name="host_key", status="ok", found="known")]
    return [reachable, Check(name="host_key", status="skip", found="not reached by SSH")]


def _way_there(patient: Patient) -> str:
    if patient.device.address.startswith("ssh:"):
        return patient.there("true") + " must work first (its -v says more)"
    return "connect it, or put its address right in the farm file"


def _commands(patient: Patient) -> Check:
    """Look whether the account runs commands: one for files only, or for one command, does not."""
    assert patient.transport is not None
    transport = patient.transport
    if not isinstance(transport, Commands):
        return Check(name="commands", status="skip", found="the transport runs no commands")
    try:
        transport.run(["true"], _COMMAND_SECONDS)
    except HarnessError as error:
        mend = f"take away what is in the way; {patient.there('true')} must end without a word"
        return Check(name="commands", status="fail", found=str(error), mend=mend)
    return Check(name="commands", status="ok", found="the account runs them")


def _python(patient: Patient) -> Check:
    """Look whether a Python new enough for the agent is there."""
    transport = patient.commands("asking for Python")
    device = patient.device
    least = ".".join(str(part) for part in _LEAST_PYTHON)
    mend = patient.there("sudo apt-get install -y python3") + (
        f", or name a Python {least} or newer by `python` in the farm file"
    )
    try:
        probe = ask(transport, device)
    except NoPython as error:
        return Check(name="python", status="fail", found=str(error), mend=mend)
    found = f"{patient.agent.python} is {'.'.join(str(part) for part in probe.version)}, {probe.bits} bits"
    if probe.version[:2] < _LEAST_PYTHON:
        found += f"; the agent needs {least}"
        return Check(name="python", status="fail", found=found, mend=mend)
    patient.probe = probe
    return Check(name="python", status="ok", found=found)


def _files(patient: Patient) -> Check:
    """Look whether a file goes to the work folder and comes back as it was."""
    assert patient.transport is not None
    transport = abilities.everything(patient.transport, patient.device, "sending a file and back")
    workdir = patient.agent.workdir
    there = f"{workdir}/doctor-{secrets.token_hex(4)}.part"
    quoted = shlex.quote(workdir)
    mend = patient.there(f"sudo install -d -m 700 -o $USER {quoted}") + (
        ", or another workdir in the farm file"
    )
    with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
        source, back = Path(folder) / "there", Path(folder) / "back"
        source.write_bytes(os.urandom(_TRIAL_BYTES))
        try:
            transport.put(source, there)
            transport.get(there, back, _TRIAL_BYTES)
        except HarnessError as error:
            if _NO_SFTP in str(error):
                mend = patient.there(_GIVE_SFTP)
            return Check(name="files", status="fail", found=str(error), mend=mend)
        finally:
            transport.run(["rm", "-f", there], timeout_seconds=30.0)
        if back.read_bytes() != source.read_bytes():
            found = f"what comes back from {workdir} is not what was sent"
            return Check(name="files", status="fail", found=found, mend=mend)
    return Check(name="files", status="ok", found=f"arrive in {workdir} and come back whole")


def _needs_python(patient: Patient) -> bool:
    """Say whether the device's dialect is the Python agent, which all checks of Python are for."""
    return isinstance(opening.dialect_options(patient.device, patient.profile), AgentOptions)


def _agent(patient: Patient, open_dialect: OpenDialect) -> Check:
    """Look whether the agent starts and says what the device is."""
    if patient.transport is None or (_needs_python(patient) and patient.probe is None):
        return Check(name="agent", status="skip", found="something before it failed")
    try:
        patient.dialect = open_dialect(patient.transport, patient.device)
        patient.dialect.deploy({})
        other = patient.dialect.holder() if isinstance(patient.dialect, Leasing) else None
        if other is not None:
            found = f"{other.name} has this device; nothing is asked while it may measure"
            return Check(name="agent", status="skip", found=found)
        patient.facts = patient.dialect.hello()
    except HarnessError as error:
        mend = (
            patient.there(f"rm -rf {shlex.quote(patient.agent.workdir)}/agents")
            + ", then try again"
        )
        return Check(name="agent", status="fail", found=str(error), mend=mend)
    facts = patient.facts
    cores = None if facts.cores is None else f"{facts.cores} cores"
    named = facts.board or facts.chip or facts.machine or facts.hostname or facts.identity
    found = ", ".join(filter(None, (named, cores, facts.kernel)))
    return Check(name="agent", status="ok", found=found)


_ON_COMMANDS: tuple[Examination, ...] = (_files, _python)
_ON_PYTHON: tuple[Examination, ...] = (
    checks_device.disk,
    checks_device.read_only,
    checks_device.noexec,
    checks_device.swap,
    checks_device.processors,
)
_ON_RUNTIME: tuple[Examination, ...] = (
    checks_runtime.libc,
    checks_runtime.runtime,
    checks_runtime.numpy,
    checks_runtime.xnnpack,
)
_ON_FACTS: tuple[Examination, ...] = (
    checks_accelerators.delegates,
    checks_accelerators.compiler,
    checks_gpu.gpu,
    checks_device.clock,
    checks_device.governor,
    checks_device.under_voltage,
    checks_device.throttled,
    checks_device.load,
)
