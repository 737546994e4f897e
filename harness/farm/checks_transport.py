"""Checks of the connection: the device answers, has a known host key, runs commands and takes files."""

from __future__ import annotations

import os
import re
import secrets
import statistics
import tempfile
from contextlib import suppress
from pathlib import Path

from harness.errors import HarnessError, HostKeyUnknown
from harness.farm.checks import CheckResult, Fix, FixKind, check, fail, ok, skip, warn
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import sftp, workdir

_TRIAL_BYTES = 100_000
_COMMAND_SECONDS = 30.0
_ROUND_TRIPS = 3
_SLOW_SECONDS = 0.5
_REVOKED = "is REVOKED by"
_NOISE = "another program prints on the SFTP channel"

REACH = FixKind(
    id="reach",
    does="Make the device answer",
    by_hand="no command fixes a cable, a power switch, an address or a login",
)
TRUST_KEY = FixKind(id="trust-key", does="Verify the host key and trust it")
FORGET_KEY = FixKind(id="forget-key", does="Forget the old host key and trust the new one")
NEW_HOST_KEY = FixKind(
    id="new-host-key",
    does="Give the device a new host key",
    by_hand="who revoked the key decides; trusting it would be the fault",
)
SHELL = FixKind(id="login-shell", does="Give the account a login shell")
ALLOW_COMMANDS = FixKind(
    id="allow-commands", does="Remove the forced command, or use another account"
)
SHORTEN_LOGIN = FixKind(
    id="shorten-login",
    does="Return early from the start-up file of a shell that is not interactive",
)


@check(fixes=(REACH,))
def reachable(dut: DeviceUnderTest) -> CheckResult:
    """The device answers and accepts the login."""
    device = dut.device
    assert dut.open_transport is not None
    try:
        dut.transport = dut.open_transport(device)
    except HostKeyUnknown as error:
        dut.key_problem = error
        return ok(f"{device.address} answers")
    except HarnessError as error:
        return fail(str(error), dut.by_hand(REACH, _reach_advice(dut)))
    if unused := dut.unused_settings:
        return ok(f"{device.address}; not used of ssh_config: {'; '.join(unused)}")
    return ok(device.address)


def _reach_advice(dut: DeviceUnderTest) -> str:
    if dut.is_ssh:
        return dut.remote_command("true") + " must work first (-v shows details)"
    if dut.is_phone:
        return "`adb devices -l` lists what is connected; docs/phone.md has every step"
    return "connect it, or correct its address in the farm file"


@check(needs=("reachable",), fixes=(TRUST_KEY, FORGET_KEY, NEW_HOST_KEY))
def host_key(dut: DeviceUnderTest) -> CheckResult:
    """The host key matches the known one."""
    if not dut.is_ssh:
        return skip("not reached by SSH")
    if dut.key_problem is None:
        return ok("known")
    device, found = dut.device, str(dut.key_problem)
    if _REVOKED in found:
        advice = "ask who keeps the list of revoked keys; the device needs a new host key"
        return fail(found, dut.by_hand(NEW_HOST_KEY, advice))
    trust = dut.by_harness(TRUST_KEY, "add", device.address, "--name", device.name)
    forget = re.search(r"`((?:sudo )?ssh-keygen -R [^`]+)`", found)
    if forget is None:
        return fail(found, trust)
    command = f"{forget[1]} && {trust.command}"
    note = ", if the host was reinstalled"
    return fail(found, Fix(kind=FORGET_KEY, command=command, text=command + note))


@check(needs=("reachable",), unless_failed=("host_key",), fixes=(SHELL, ALLOW_COMMANDS))
def commands(dut: DeviceUnderTest) -> CheckResult:
    """The account runs commands; a forced command or a missing login shell prevents it."""
    if not dut.has_commands:
        return skip("the transport carries no commands")
    try:
        dut.commands.run(["true"], _COMMAND_SECONDS)
    except HarnessError as error:
        return fail(str(error), _commands_fix(dut, str(error)))
    return ok("the account runs them")


def _commands_fix(dut: DeviceUnderTest, found: str) -> Fix:
    probe = dut.remote_command("true")
    if "no login shell" in found:
        name = f"the account's name in `{probe}`"
        command = "usermod -s /bin/sh USER"
        text = f"as root on the device: {command} (USER is {name})"
        return Fix(kind=SHELL, root_command=command, text=text)
    advice = f"remove the forced command, or use another account; then {probe} ends with 0"
    return dut.by_hand(ALLOW_COMMANDS, advice)


@check(needs=("commands",), fixes=(SHORTEN_LOGIN,))
def round_trip(dut: DeviceUnderTest) -> CheckResult:
    """A command starts quickly; a slow start-up file of the login shell delays every command."""
    times = [dut.commands.run(["true"], _COMMAND_SECONDS).seconds for _ in range(_ROUND_TRIPS)]
    seconds = statistics.median(times)
    found = f"{seconds * 1000:.0f} ms"
    if seconds <= _SLOW_SECONDS:
        return ok(found)
    advice = (
        "put this line first in the start-up file of the device's login shell (~/.bashrc): "
        "case $- in *i*) ;; *) return;; esac"
    )
    return warn(f"{found} for a command that does nothing", dut.by_hand(SHORTEN_LOGIN, advice))


@check(needs=("reachable",), unless_failed=("commands",), fixes=(*workdir.FIXES, *sftp.FIXES))
def files(dut: DeviceUnderTest) -> CheckResult:
    """A file that is sent to the work folder comes back unchanged."""
    if not dut.has_files:
        return skip("the transport carries no files")
    remote = f"{dut.agent.workdir}/doctor-{secrets.token_hex(4)}.part"
    with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
        source, back = Path(folder) / "sent", Path(folder) / "back"
        source.write_bytes(os.urandom(_TRIAL_BYTES))
        try:
            dut.files.put(source, remote)
            dut.files.get(remote, back, _TRIAL_BYTES)
        except HarnessError as error:
            dut.files_fix = workdir.fix(dut)
            return fail(str(error), dut.files_fix)
        finally:
            if dut.has_commands:
                with suppress(HarnessError):
                    dut.commands.run(["rm", "-f", remote], timeout_seconds=30.0)
        if back.read_bytes() != source.read_bytes():
            found = f"a file that was sent to {dut.agent.workdir} came back changed"
            dut.files_fix = workdir.fix(dut)
            return fail(found, dut.files_fix)
    found = f"arrive in {dut.agent.workdir} and come back unchanged"
    if (why := dut.no_sftp) is None:
        return ok(found)
    found += f", by commands: {why}"
    fix = sftp.fix(dut, has_noise=_NOISE in why)
    return warn(found, fix) if fix else ok(found)
