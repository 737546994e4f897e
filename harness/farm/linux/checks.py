"""Checks of a Linux device: space, mounts, swap, load, clock, governor, throttling, access.

All of them use the output of one shell script (:mod:`harness.farm.linux.survey`); none needs Python
on the device.
"""

from __future__ import annotations

import shlex

from harness.farm import busy
from harness.farm.busy import BusyProcess
from harness.farm.checks import CheckResult, Fix, FixKind, check, fail, ok, skip, warn
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import survey
from harness.farm.linux.folders import GOOD_FREE_BYTES, MIN_FREE_BYTES, other_workdir
from harness.printable import counted
from harness.types import Profile

_CLOCK_SECONDS = 2.0
_BUSY_SHARE = 0.25
_HOT_CELSIUS = 80.0
"""A Raspberry Pi lowers its frequency from this temperature on."""
_PERFORMANCE = "performance"
_GOVERNORS = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
_UNDER_VOLTAGE_BITS = 0x10001
_SLOWED_BITS = 0xE000E
_NOW_BITS = 0xFFFF
_PI = "Raspberry Pi"
NO_LINUX = FixKind(
    id="use-linux",
    does="Use a device that runs Linux",
    by_hand="no command installs another system",
)
CLEAN = FixKind(id="clean", does="Remove our own copies from the device")
OTHER_FILE_SYSTEM = FixKind(id="other-file-system", does="Set a work folder on another file system")
FREE_SPACE = FixKind(
    id="make-room",
    does="Free space on the file system",
    by_hand="only its user knows which files can be removed",
)
REMOUNT_RW = FixKind(id="remount-rw", does="Remount the file system read-write")
REMOUNT_EXEC = FixKind(id="remount-exec", does="Remount the file system without noexec")
SWAPOFF = FixKind(id="swapoff", does="Turn swap off")
STOP = FixKind(id="stop-process", does="End the processes that use the processors")
WAIT = FixKind(
    id="wait",
    does="Wait until the load is low",
    by_hand="the average of the last minute falls by itself when no process computes",
)
SET_NTP = FixKind(id="set-ntp", does="Let systemd set the clock from the network")
SET_CLOCK = FixKind(id="set-clock", does="Set the clock from this host's")
SET_GOVERNOR = FixKind(id="set-governor", does="Set the governor `performance`")
OTHER_KERNEL = FixKind(
    id="other-governor",
    does="Use a kernel that has the governor `performance`",
    by_hand="no command replaces a kernel",
)
SUPPLY = FixKind(id="power-supply", does="Use a stronger power supply", by_hand="it is hardware")
COOL = FixKind(id="cooling", does="Cool the processor", by_hand="it is hardware")
JOIN_GROUP = FixKind(id="join-group", does="Let the account open the device node")
PLUG_IN = FixKind(id="plug-in", does="Plug the accelerator in", by_hand="it is hardware")


@check(needs=("linux", "commands"), fixes=(NO_LINUX,))
def system(dut: DeviceUnderTest) -> CheckResult:
    """A POSIX shell answers and reports the system."""
    dut.system = found = survey.survey_system(dut.commands, dut.device)
    parts = [found.os_name, f"{found.kernel} {found.release}", found.machine, f"user {found.user}"]
    text = ", ".join(part for part in parts if part.strip())
    if found.kernel != "Linux":
        advice = "use a device that runs Linux: agent and checks support no other system"
        return warn(text, dut.by_hand(NO_LINUX, advice))
    return ok(text)


@check(needs=("system",), fixes=(CLEAN, OTHER_FILE_SYSTEM, FREE_SPACE))
def disk(dut: DeviceUnderTest) -> CheckResult:
    """The work folder's file system has space for agents, models and outputs."""
    system = _system(dut)
    workdir = dut.agent.workdir
    if system.free_bytes is None:
        return skip("the device does not report its free space")
    found = f"{system.free_bytes / 1e6:.0f} MB free for {workdir}"
    if system.free_bytes >= GOOD_FREE_BYTES:
        return ok(found)
    fix = _space_fix(dut, system.free_bytes)
    return warn(found, fix) if system.free_bytes >= MIN_FREE_BYTES else fail(found, fix)


def _space_fix(dut: DeviceUnderTest, free_bytes: int) -> Fix:
    """Choose a fix that frees enough space: our own copies, another file system, the user's files."""
    system = _system(dut)
    ours = system.workdir.our_bytes
    if free_bytes + ours >= GOOD_FREE_BYTES:
        note = f" (our own copies take {ours / 1e6:.0f} MB)"
        return dut.by_harness(CLEAN, "devices", dut.device.name, "--clean", note=note)
    if other := other_workdir(system):
        return dut.by_setting(OTHER_FILE_SYSTEM, "workdir", other)
    point = shlex.quote(system.mount.point if system.mount else "/")
    look = dut.remote_command(f"du -xk {point} | sort -n | tail")
    return dut.by_hand(FREE_SPACE, f"remove files; {look} shows the largest folders")


@check(needs=("system",), fixes=(REMOUNT_RW, OTHER_FILE_SYSTEM))
def read_only(dut: DeviceUnderTest) -> CheckResult:
    """The work folder's file system is writable; the kernel remounts a failing card read-only."""
    system = _system(dut)
    workdir = dut.agent.workdir
    if system.mount is None:
        return skip("/proc/mounts of the device cannot be read")
    if not system.mount.read_only:
        return ok(f"{workdir} is mounted read-write")
    found = f"{workdir} is on a file system mounted read-only"
    note = "; if the card fails, dmesg shows it"
    return fail(found, _remount(dut, REMOUNT_RW, "rw", note))


@check(needs=("system",), fixes=(REMOUNT_EXEC, OTHER_FILE_SYSTEM))
def noexec(dut: DeviceUnderTest) -> CheckResult:
    """Libraries load from the work folder; a runtime or delegate in it needs that."""
    system = _system(dut)
    workdir = dut.agent.workdir
    if system.mount is None:
        return skip("/proc/mounts of the device cannot be read")
    if not system.mount.noexec:
        return ok(f"libraries load from {workdir}")
    found = f"{workdir} is on a file system mounted noexec: no runtime loads from it"
    return warn(
        found,
        _remount(
            dut, REMOUNT_EXEC, "exec", " (change /etc/fstab too, or it returns at the next boot)"
        ),
    )


def _remount(dut: DeviceUnderTest, kind: FixKind, option: str, note: str) -> Fix:
    system = _system(dut)
    assert system.mount is not None
    other = other_workdir(system)
    if other and not system.can_be_root:
        return dut.by_setting(OTHER_FILE_SYSTEM, "workdir", other)
    return dut.as_root(kind, f"mount -o remount,{option} {shlex.quote(system.mount.point)}", note)


@check(needs=("system",), fixes=(SWAPOFF,))
def swap(dut: DeviceUnderTest) -> CheckResult:
    """No swap is in use; a launch that swaps measures the disk."""
    used = _system(dut).swap_used_bytes
    if used is None:
        return skip("the device does not report its swap")
    if used == 0:
        return ok("none in use")
    return warn(f"{used / 1e6:.0f} MB in use", dut.as_root(SWAPOFF, "swapoff -a"))


@check(needs=("commands",), fixes=(STOP,))
def processors(dut: DeviceUnderTest) -> CheckResult:
    """No other process uses the processors at the moment."""
    found = busy.measure(dut.commands)
    if found is None:
        return skip("/proc of the device cannot be read")
    if not found:
        return ok("no process uses them")
    text = "; ".join(f"{one.name} (pid {one.pid}) uses {one.share:.0%} of one" for one in found)
    return warn(text, _stop_fix(dut, found))


def _stop_fix(dut: DeviceUnderTest, found: tuple[BusyProcess, ...]) -> Fix:
    pids = [str(one.pid) for one in found]
    look = dut.remote_command("top -b -n 1 | head -n 15")
    note = f"; only if they can be stopped ({look} shows them), else wait until they end"
    kill = f"kill {' '.join(pids)}"
    uid = dut.system.uid if dut.system else 0
    if uid == 0 or busy.owners(dut.commands, found) == {uid}:
        return dut.by_command(STOP, kill, note)
    return dut.as_root(STOP, kill, note)


@check(needs=("system",), fixes=(SET_NTP, SET_CLOCK))
def clock(dut: DeviceUnderTest) -> CheckResult:
    """The clock agrees with this host's; only people who compare logs need that, not the results."""
    system = _system(dut)
    offset = dut.facts.clock_offset_seconds if dut.facts else None
    if offset is None:
        offset = system.clock_offset_seconds
    if offset is None:
        return skip("the device does not report its time")
    found = f"{offset:+.3f} s relative to this host"
    if abs(offset) <= _CLOCK_SECONDS:
        return ok(found)
    if {"systemd", "timedatectl"} <= system.tools:
        return warn(found, dut.as_root(SET_NTP, "timedatectl set-ntp true"))
    return warn(found, _set_clock_fix(dut))


def _set_clock_fix(dut: DeviceUnderTest) -> Fix:
    """Return the command that sets the device's clock from this host's, without a network time server."""
    fix = dut.as_root(SET_CLOCK, "date -u -s @SECONDS")
    if fix.command is None or not dut.has_posix_shell:
        advice = "as root on the device (this account has no sudo): date -u -s TIME, with TIME as "
        return dut.by_hand(SET_CLOCK, advice + "`date -u '+%F %T'` prints it here")
    # This host's shell inserts its time just before the device sets its clock.
    end = "@SECONDS'" if fix.command.endswith("'") else "@SECONDS"
    typed = fix.command.removesuffix(end) + "'" * (end != "@SECONDS") + '"@$(date +%s)"'
    return Fix(kind=SET_CLOCK, command=typed, text=typed)


@check(needs=("system",), fixes=(SET_GOVERNOR, OTHER_KERNEL))
def governor(dut: DeviceUnderTest) -> CheckResult:
    """The frequency governor is pinned; otherwise rows have the flag `uncontrolled`."""
    system = _system(dut)
    if not system.governors:
        return skip("the device has no cpufreq (a virtual machine?)")
    found = ", ".join(system.governors)
    if system.governors == (_PERFORMANCE,):
        return ok(found)
    found += ": not pinned, so the frequency changes during a measurement"
    if system.governor_choices and _PERFORMANCE not in system.governor_choices:
        advice = f"use a kernel with the governor {_PERFORMANCE}; this one has only "
        advice += ", ".join(system.governor_choices)
        return warn(found, dut.by_hand(OTHER_KERNEL, advice))
    command = f"echo {_PERFORMANCE} | {{sudo}}tee {_GOVERNORS}"
    return warn(found, dut.as_root(SET_GOVERNOR, command))


@check(needs=("system",), fixes=(SUPPLY,))
def under_voltage(dut: DeviceUnderTest) -> CheckResult:
    """The supply voltage is high enough; a board under voltage slows down and corrupts its card."""
    advice = "use a supply of 5 V and 3 A (Raspberry Pi 5: 5 A) on a short cable"
    return _throttle_bits(dut, "under voltage", _UNDER_VOLTAGE_BITS, SUPPLY, advice)


@check(needs=("system",), fixes=(COOL,))
def throttled(dut: DeviceUnderTest) -> CheckResult:
    """The firmware has not throttled the processors since boot."""
    return _throttle_bits(dut, "throttled", _SLOWED_BITS, COOL, "add a heatsink or a fan")


def _throttle_bits(
    dut: DeviceUnderTest, name: str, bits: int, kind: FixKind, advice: str
) -> CheckResult:
    """Test bits of `vcgencmd get_throttled`: the lower half means now, the upper half since boot."""
    system = _system(dut)
    bits_set = system.throttled
    if bits_set is None:
        return skip(_why_no_bits(system, dut.profile))
    if not bits_set & bits:
        return ok(f"not since boot ({bits_set:#x})")
    is_now = bool(bits_set & bits & _NOW_BITS)
    when = "now" if is_now else "since boot"
    found = f"{name} {when} (vcgencmd get_throttled: {bits_set:#x})"
    fix = dut.by_hand(kind, f"{advice}; a reboot clears the record")
    return fail(found, fix) if is_now else warn(found, fix)


def _why_no_bits(system: survey.System, profile: Profile | None) -> str:
    """Return why the firmware's bits are not known; the device tree says what the board is."""
    is_named = profile is not None and any(_PI in model for model in profile.detect.model)
    board = system.board or ("a board of the profile" if is_named and profile is not None else "")
    if _PI not in system.board and not (is_named and not system.board):
        which = f": this is {board}" if board else ", and no device tree says that this is one"
        return f"only a Raspberry Pi has the bits of vcgencmd{which}"
    if system.has_vcgencmd:
        return (
            f"{board}: vcgencmd gives no bits; may {system.user or 'the account'} open /dev/vcio "
            "(group video)?"
        )
    return (
        f"{board}: its vcgencmd, which reads the bits, is not installed (Raspberry Pi OS: raspi-utils; "
        "Ubuntu: libraspberrypi-bin)"
    )


@check(needs=("system",), fixes=(COOL,))
def temperature(dut: DeviceUnderTest) -> CheckResult:
    """The processor is cool enough to start a measurement."""
    celsius = _system(dut).temperature_c
    if celsius is None:
        return skip("the device has no thermal zone")
    found = f"{celsius:.1f} °C"
    if celsius < _HOT_CELSIUS:
        return ok(found)
    advice = "add a heatsink, a fan, or shade; or wait until it has cooled"
    return warn(f"{found}: throttling is near or active", dut.by_hand(COOL, advice))


@check(needs=("system",), fixes=(WAIT,))
def load(dut: DeviceUnderTest) -> CheckResult:
    """No other process kept the processors busy during the last minute."""
    system = _system(dut)
    if system.load_1m is None or system.cores is None:
        return skip("the device does not report its load")
    found = f"{system.load_1m:.2f} over the last minute on {counted(system.cores, 'core')}"
    if system.load_1m <= _BUSY_SHARE * system.cores:
        return ok(found)
    top = dut.remote_command("top -b -n 1")
    return warn(found, dut.by_hand(WAIT, f"wait a minute or two; {top} shows what runs"))


@check(needs=("system",), fixes=(JOIN_GROUP,))
def device_nodes(dut: DeviceUnderTest) -> CheckResult:
    """The account may open the device nodes of the profile's accelerators."""
    system = _system(dut)
    wanted = dut.profile.targets if dut.profile else ()
    nodes = [
        one
        for one in system.nodes
        if ("edgetpu" if "apex" in one.path else "gpu") in wanted and system.uid is not None
    ]
    if not nodes:
        return skip("the device has no node of an accelerator in the profile")
    closed = [one for one in nodes if not one.may_open]
    if not closed:
        return ok(", ".join(one.path for one in nodes))
    groups = ",".join(dict.fromkeys(one.group for one in closed))
    found = f"{system.user} may not open {', '.join(one.path for one in closed)} (group {groups})"
    command = f"usermod -aG {shlex.quote(groups)} {shlex.quote(system.user)}"
    return warn(found, dut.as_root(JOIN_GROUP, command, "; it takes effect at the next login"))


@check(needs=("system",), fixes=(PLUG_IN,))
def usb(dut: DeviceUnderTest) -> CheckResult:
    """The USB accelerator of the profile is plugged in."""
    wanted = dut.profile.detect.usb if dut.profile else ()
    if not wanted:
        return skip("the profile names no USB accelerator")
    present = [one for one in _system(dut).usb if one in wanted]
    if present:
        return ok(", ".join(present))
    found = f"none of {', '.join(wanted)} is on the device's USB"
    advice = "plug it in; a hub may supply too little power"
    return fail(found, dut.by_hand(PLUG_IN, advice))


def _system(dut: DeviceUnderTest) -> survey.System:
    assert dut.system is not None
    return dut.system
