"""Checks of a phone: the adb server, Android, space, whether programs run, heat and charge.

None of them needs Python on the phone.
"""

from __future__ import annotations

import re
import secrets
import subprocess

from harness.devices import opening
from harness.devices.by_shell import android
from harness.devices.by_shell.android import Android
from harness.farm.checks import CheckResult, FixKind, check, fail, ok, skip, warn
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux.folders import MIN_FREE_BYTES

MIN_API_LEVEL = 31
"""Of today's prebuilt LiteRT programs for Android."""

_ABI = "arm64-v8a"
_BIG_PAGE = 16384
_LOW_PERCENT = 20
_WARM_BATTERY_CELSIUS = 37.0
_RAN = 42
_SECONDS = 30.0
_STATES = ("none", "light", "moderate", "severe", "critical", "emergency", "shutdown")

OWN_ADB_SERVER = FixKind(id="own-adb-server", does="Use an adb server of its own")
NEWER_ANDROID = FixKind(
    id="newer-android",
    does="Use a phone with Android 12 or newer",
    by_hand="no command installs another Android",
)
PHONE_SPACE = FixKind(
    id="phone-space",
    does="Free storage on the phone",
    by_hand="only its user knows which files can be removed",
)
MAY_RUN = FixKind(
    id="phone-may-run",
    does="Use a work folder that programs run from",
    by_hand="the phone's policy decides which folders those are",
)
COOL_PHONE = FixKind(id="cool-phone", does="Let the phone cool", by_hand="it is hardware")
CHARGE = FixKind(id="charge-phone", does="Charge the phone", by_hand="it is hardware")

# Two lines of a script show whether the file itself may run.
_TRY = """
umask 077; mkdir -p "$1" || exit 1
f=$1/doctor-$2
trap 'rm -f "$f"' EXIT
printf '#!/system/bin/sh\\nexit 42\\n' > "$f" && chmod 700 "$f" || exit 1
"$f"
code=$?
if [ $code != 42 ]; then
    for tool in dmesg "logcat -d -b all -t 500"; do
        $tool 2>/dev/null | grep 'avc: *denied.*execute' | tail -n 2
    done
fi
exit $code
"""


@check(needs=("phone", "reachable"), fixes=(OWN_ADB_SERVER,))
def adb(dut: DeviceUnderTest) -> CheckResult:
    """The adb server has the version of the program `adb`, which restarts one of another version."""
    server = getattr(dut.transport, "server", None)
    if server is None:
        return skip("the transport has no adb server")
    version, ours = server.version(), _program_version()
    found = f"server {server.name}, version {version}"
    if ours is None:
        return ok(f"{found}; the version of `adb` on this machine is not known")
    if version == ours:
        return ok(found)
    fix = dut.by_setting(
        OWN_ADB_SERVER, "adb_server", f"127.0.0.1:{server.port + 1}", "; any free port will do"
    )
    return warn(
        f"{found}, but `adb` here is version {ours}: the next `adb` command restarts the server and "
        "cuts every connection",
        fix,
    )


def _program_version() -> int | None:
    from harness.devices.transports.adb.server import adb_program

    program = adb_program()
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "version"], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r"version 1\.0\.(\d{1,4})\b", done.stdout)
    return int(found[1]) if found else None


@check(needs=("phone", "commands"), fixes=(NEWER_ANDROID,))
def api_level(dut: DeviceUnderTest) -> CheckResult:
    """The phone runs Android 12 (API level 31) or newer, as the prebuilt runtime needs."""
    workdir = opening.workdir(dut.device, dut.profile) or "/data/local/tmp"
    dut.android = found = android.survey(dut.commands, dut.device.name, workdir)
    text = f"{found.manufacturer} {found.model}, {found.soc}, Android {found.release}"
    text += f" (API level {found.api_level})"
    if found.api_level is None or found.api_level >= MIN_API_LEVEL:
        return ok(text)
    advice = "use a phone with Android 12 or newer, or a runner that you built for this one"
    return fail(f"{text}; {MIN_API_LEVEL} is needed", dut.by_hand(NEWER_ANDROID, advice))


@check(needs=("phone", "api_level"), fixes=(NEWER_ANDROID,))
def abi(dut: DeviceUnderTest) -> CheckResult:
    """The phone runs 64-bit Arm programs, and its pages have a size that the libraries know."""
    found = _android(dut)
    pages = "of unknown size" if found.page_bytes is None else f"of {found.page_bytes} bytes"
    text = f"{', '.join(found.abis) or 'no ABI reported'}; pages {pages}"
    if found.abis and _ABI not in found.abis:
        advice = f"use a phone with {_ABI}, or a runner that you built for {found.abis[0]}"
        return warn(text, dut.by_hand(NEWER_ANDROID, advice))
    if found.page_bytes == _BIG_PAGE:
        text += ", so every library needs segments that are aligned to 16 KiB"
    return ok(text)


@check(needs=("phone", "api_level"), fixes=(PHONE_SPACE,))
def storage(dut: DeviceUnderTest) -> CheckResult:
    """The phone has space for a runtime and models."""
    free = _android(dut).free_bytes
    if free is None:
        return skip("the free space is not known")
    text = f"{free / 1e6:.0f} MB free"
    if free >= MIN_FREE_BYTES:
        return ok(text)
    clean = dut.by_harness(PHONE_SPACE, "devices", dut.device.selector, "--clean").command
    advice = f"remove apps or files on the phone; `{clean}` removes our own copies"
    return fail(text, dut.by_hand(PHONE_SPACE, advice))


@check(needs=("phone", "api_level", "files"), fixes=(MAY_RUN,))
def runs_programs(dut: DeviceUnderTest) -> CheckResult:
    """A program in the work folder runs; SELinux and noexec can prevent it."""
    workdir = opening.workdir(dut.device, dut.profile) or "/data/local/tmp"
    argv = ["sh", "-c", _TRY, "sh", workdir, secrets.token_hex(4)]
    reply = dut.commands.run(argv, _SECONDS)
    mode = _android(dut).selinux or "not known"
    if reply.exit_code == _RAN:
        return ok(f"programs run from {workdir} (SELinux: {mode})")
    denied = (
        _plain(reply.stdout) or "whether SELinux denied it is not known: its log is not readable"
    )
    advice = (
        "set workdir to a folder below /data/local/tmp, from which the user `shell` may run files"
    )
    said = _plain(reply.stderr)
    found = f"no program runs from {workdir} (exit code {reply.exit_code}: {said}); {denied}"
    return fail(found, dut.by_hand(MAY_RUN, advice))


@check(needs=("phone", "api_level"), fixes=(COOL_PHONE,))
def heat(dut: DeviceUnderTest) -> CheckResult:
    """Android does not slow the phone down because of its temperature."""
    found = _android(dut)
    skin = found.celsius(3)
    text = "" if skin is None else f", skin {skin:.1f} °C"
    if found.thermal_status is None:
        return skip(f"the thermal status is not known{text}")
    state = _STATES[min(found.thermal_status, len(_STATES) - 1)]
    if found.thermal_status == 0:
        return ok(f"thermal status none{text}")
    advice = "take it off the charger and out of its case, and wait until doctor says `none`"
    return warn(f"thermal status {state}{text}", dut.by_hand(COOL_PHONE, advice))


@check(needs=("phone", "api_level"), fixes=(CHARGE, COOL_PHONE))
def charge(dut: DeviceUnderTest) -> CheckResult:
    """The battery is charged enough and cool; a low battery slows a phone down."""
    battery = _android(dut).battery
    if battery is None:
        return skip("the state of the battery is not known")
    warmth = "" if battery.celsius is None else f", {battery.celsius:.1f} °C"
    state = {None: "", True: ", charging", False: ", not charging"}[battery.is_charging]
    text = f"{battery.level} %{state}{warmth}"
    if battery.level < _LOW_PERCENT:
        return warn(text, dut.by_hand(CHARGE, f"charge it to more than {_LOW_PERCENT} % first"))
    if battery.celsius is not None and battery.celsius > _WARM_BATTERY_CELSIUS:
        return warn(text, dut.by_hand(COOL_PHONE, "wait until the battery is cool"))
    return ok(text)


def _android(dut: DeviceUnderTest) -> Android:
    assert dut.android is not None
    return dut.android


def _plain(text: bytes) -> str:
    letters = text.decode(errors="replace").strip()[-300:]
    return "".join(one if one.isprintable() else " " for one in letters)
