"""Checks of a Linux device: room, mounts, swap, load, clock, governor, throttling, access.

All of them read what one shell script said (:mod:`harness.farm.linux.survey`); none needs Python.
"""

from __future__ import annotations

import shlex

from harness.farm import busy
from harness.farm.busy import Busy
from harness.farm.checks import CheckResult, Fix, FixKind, check, fail, ok, skip, warn
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import survey
from harness.farm.linux.folders import GOOD_FREE_BYTES, MIN_FREE_BYTES, other_workdir

_CLOCK_SECONDS = 2.0
_BUSY_SHARE = 0.25
_HOT_CELSIUS = 80.0
"""A Raspberry Pi slows down from here on."""
_PERFORMANCE = "performance"
_GOVERNORS = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
_UNDER_VOLTAGE_BITS = 0x10001
_SLOWED_BITS = 0xE000E
_NOW_BITS = 0xFFFF
NO_LINUX = FixKind(
    id="use-linux",
    does="Use a device that runs Linux",
    by_hand="another system cannot be installed by a command",
)
CLEAN = FixKind(id="clean", does="Remove our own copies from the device")
OTHER_FILE_SYSTEM = FixKind(id="other-file-system", does="Set a work folder on another file system")
MAKE_ROOM = FixKind(
    id="make-room",
    does="Make room on the file system",
    by_hand="only its user knows which files can go",
)
REMOUNT_RW = FixKind(id="remount-rw", does="Mount the file system for writing again")
REMOUNT_EXEC = FixKind(id="remount-exec", does="Mount the file system without noexec")
SWAPOFF = FixKind(id="swapoff", does="Turn swap off")
STOP = FixKind(id="stop-process", does="End the processes that use the processors")
WAIT = FixKind(
    id="wait",
    does="Wait until the load has fallen",
    by_hand="the average of the last minute falls by itself once nothing computes",
)
SET_NTP = FixKind(id="set-ntp", does="Have systemd set the clock from the network")
SET_CLOCK = FixKind(id="set-clock", does="Set the clock from this host's")
SET_GOVERNOR = FixKind(id="set-governor", does="Set the governor `performance`")
OTHER_KERNEL = FixKind(
    id="other-governor",
    does="Use a kernel that has the governor `performance`",
    by_hand="a kernel cannot be replaced by a command",
)
SUPPLY = FixKind(id="power-supply", does="Use a stronger power supply", by_hand="it is hardware")
COOL = FixKind(id="cooling", does="Cool the processor", by_hand="it is hardware")
JOIN_GROUP = FixKind(id="join-group", does="Let the account use the device node")
PLUG_IN = FixKind(id="plug-in", does="Plug the accelerator in", by_hand="it is hardware")


@check(needs=("commands",), fixes=(NO_LINUX,))
def system(dut: DeviceUnderTest) -> CheckResult:
    """A POSIX shell answers and says what system it is."""
    dut.system = found = survey.ask(dut.commands, dut.device)
    words = [found.os_name, f"{found.kernel} {found.release}", found.machine, f"user {found.user}"]
    text = ", ".join(word for word in words if word.strip())
    if found.kernel != "Linux":
        advice = "a device that runs Linux: agent and checks know no other system"
        return warn(text, dut.by_hand(NO_LINUX, advice))
    return ok(text)


@check(needs=("system",), fixes=(CLEAN, OTHER_FILE_SYSTEM, MAKE_ROOM))
def disk(dut: DeviceUnderTest) -> CheckResult:
    """The work folder's file system has room for agents, models and outputs."""
    said = _system(dut)
    workdir = dut.agent.workdir
    if said.free_bytes is None:
        return skip("the free space cannot be read there")
    found = f"{said.free_bytes / 1e6:.0f} MB free for {workdir}"
    if said.free_bytes >= GOOD_FREE_BYTES:
        return ok(found)
    fix = _room_fix(dut, said.free_bytes)
    return warn(found, fix) if said.free_bytes >= MIN_FREE_BYTES else fail(found, fix)


def _room_fix(dut: DeviceUnderTest, free_bytes: int) -> Fix:
    """Choose what really gives room: our own copies, another file system, or the user's files."""
    said = _system(dut)
    ours = said.workdir.our_bytes
    if free_bytes + ours >= GOOD_FREE_BYTES:
        note = f" (our own copies there, {ours / 1e6:.0f} MB)"
        return dut.by_harness(CLEAN, "devices", dut.device.name, "--clean", note=note)
    if other := other_workdir(said):
        return dut.by_setting(OTHER_FILE_SYSTEM, "workdir", other)
    point = shlex.quote(said.mount.point if said.mount else "/")
    look = dut.remote_command(f"du -xk {point} | sort -n | tail")
    return dut.by_hand(MAKE_ROOM, f"remove files there; {look} shows what takes the room")


@check(needs=("system",), fixes=(REMOUNT_RW, OTHER_FILE_SYSTEM))
def read_only(dut: DeviceUnderTest) -> CheckResult:
    """The work folder's file system can be written: a card that fails is remounted read-only."""
    said = _system(dut)
    workdir = dut.agent.workdir
    if said.mount is None:
        return skip("/proc/mounts cannot be read there")
    if not said.mount.read_only:
        return ok(f"{workdir} is mounted for writing")
    found = f"{workdir} is on a file system mounted read-only"
    note = "; dmesg says why, if the card fails"
    return fail(found, _remount(dut, REMOUNT_RW, "rw", note))


@check(needs=("system",), fixes=(REMOUNT_EXEC, OTHER_FILE_SYSTEM))
def noexec(dut: DeviceUnderTest) -> CheckResult:
    """Libraries can be loaded from the work folder; a runtime or delegate put there needs it."""
    said = _system(dut)
    workdir = dut.agent.workdir
    if said.mount is None:
        return skip("/proc/mounts cannot be read there")
    if not said.mount.noexec:
        return ok(f"libraries load from {workdir}")
    found = f"{workdir} is on a file system mounted noexec: no runtime can be put there"
    return warn(found, _remount(dut, REMOUNT_EXEC, "exec", " (/etc/fstab keeps it so)"))


def _remount(dut: DeviceUnderTest, kind: FixKind, option: str, note: str) -> Fix:
    said = _system(dut)
    assert said.mount is not None
    other = other_workdir(said)
    if other and not said.can_be_root:
        return dut.by_setting(OTHER_FILE_SYSTEM, "workdir", other)
    return dut.as_root(kind, f"mount -o remount,{option} {shlex.quote(said.mount.point)}", note)


@check(needs=("system",), fixes=(SWAPOFF,))
def swap(dut: DeviceUnderTest) -> CheckResult:
    """No swap is in use: a launch that swaps measures the disk."""
    used = _system(dut).swap_used_bytes
    if used is None:
        return skip("swap cannot be read there")
    if used == 0:
        return ok("none in use")
    return warn(f"{used / 1e6:.0f} MB in use", dut.as_root(SWAPOFF, "swapoff -a"))


@check(needs=("commands",), fixes=(STOP,))
def processors(dut: DeviceUnderTest) -> CheckResult:
    """No other process uses the processors right now."""
    found = busy.ask(dut.commands)
    if found is None:
        return skip("/proc cannot be read there")
    if not found:
        return ok("no process uses them")
    words = "; ".join(f"{one.name} (pid {one.pid}) uses {one.share:.0%} of one" for one in found)
    return warn(words, _stop(dut, found))


def _stop(dut: DeviceUnderTest, found: tuple[Busy, ...]) -> Fix:
    pids = [str(one.pid) for one in found]
    look = dut.remote_command("top -b -n 1 | head -n 15")
    note = f"; only if they may end ({look} shows them), else wait for their end"
    kill = f"kill {' '.join(pids)}"
    uid = dut.system.uid if dut.system else 0
    if uid == 0 or busy.owners(dut.commands, found) == {uid}:
        return dut.by_command(STOP, kill, note)
    return dut.as_root(STOP, kill, note)


@check(needs=("system",), fixes=(SET_NTP, SET_CLOCK))
def clock(dut: DeviceUnderTest) -> CheckResult:
    """The clock agrees with ours; results do not need it, people who compare logs do."""
    said = _system(dut)
    offset = dut.facts.clock_offset_seconds if dut.facts else None
    if offset is None:
        offset = said.clock_offset_seconds
    if offset is None:
        return skip("the device did not say its time")
    found = f"{offset:+.3f} s against ours"
    if abs(offset) <= _CLOCK_SECONDS:
        return ok(found)
    if {"systemd", "timedatectl"} <= said.tools:
        return warn(found, dut.as_root(SET_NTP, "timedatectl set-ntp true"))
    return warn(found, _set_clock(dut))


def _set_clock(dut: DeviceUnderTest) -> Fix:
    """Write the command that sets the device's clock to this host's: it needs no network there."""
    fix = dut.as_root(SET_CLOCK, "date -u -s @SECONDS")
    if fix.command is None:
        advice = "as root on the device (this account has no sudo): date -u -s TIME, with TIME as "
        return dut.by_hand(SET_CLOCK, advice + "`date -u '+%F %T'` prints it here")
    # This host's shell fills in its own time just before the device sets it.
    end = "@SECONDS'" if fix.command.endswith("'") else "@SECONDS"
    typed = fix.command.removesuffix(end) + "'" * (end != "@SECONDS") + '"@$(date +%s)"'
    return Fix(kind=SET_CLOCK, command=typed, text=typed)


@check(needs=("system",), fixes=(SET_GOVERNOR, OTHER_KERNEL))
def governor(dut: DeviceUnderTest) -> CheckResult:
    """The frequency governor is pinned, or the rows say `uncontrolled`."""
    said = _system(dut)
    if not said.governors:
        return skip("no cpufreq there (a virtual machine?)")
    found = ", ".join(said.governors)
    if said.governors == (_PERFORMANCE,):
        return ok(found)
    found += ": not pinned, so the frequency moves while measuring"
    if said.governor_choices and _PERFORMANCE not in said.governor_choices:
        advice = f"a kernel with the governor {_PERFORMANCE}; this one has only "
        advice += ", ".join(said.governor_choices)
        return warn(found, dut.by_hand(OTHER_KERNEL, advice))
    command = f"echo {_PERFORMANCE} | {{sudo}}tee {_GOVERNORS}"
    return warn(found, dut.as_root(SET_GOVERNOR, command))


@check(needs=("system",), fixes=(SUPPLY,))
def under_voltage(dut: DeviceUnderTest) -> CheckResult:
    """The supply holds: a board under voltage slows down, and corrupts its card."""
    advice = "a supply of 5 V and 3 A (Raspberry Pi 5: 5 A) on a short cable"
    return _throttle_bits(dut, "under voltage", _UNDER_VOLTAGE_BITS, SUPPLY, advice)


@check(needs=("system",), fixes=(COOL,))
def throttled(dut: DeviceUnderTest) -> CheckResult:
    """The firmware has not slowed the processors down since boot, nor does it now."""
    return _throttle_bits(dut, "throttled", _SLOWED_BITS, COOL, "a heatsink or a fan")


def _throttle_bits(
    dut: DeviceUnderTest, name: str, bits: int, kind: FixKind, advice: str
) -> CheckResult:
    """Judge some of the bits of `vcgencmd get_throttled`: the lower half is now, the upper since boot."""
    said = _system(dut).throttled
    if said is None:
        return skip("no vcgencmd there: no Raspberry Pi")
    if not said & bits:
        return ok(f"not since boot ({said:#x})")
    is_now = bool(said & bits & _NOW_BITS)
    when = "now" if is_now else "since boot"
    found = f"{name} {when} (vcgencmd get_throttled: {said:#x})"
    fix = dut.by_hand(kind, f"{advice}; a reboot clears the record")
    return fail(found, fix) if is_now else warn(found, fix)


@check(needs=("system",), fixes=(COOL,))
def temperature(dut: DeviceUnderTest) -> CheckResult:
    """The processor is cool enough to begin."""
    celsius = _system(dut).temperature_c
    if celsius is None:
        return skip("no thermal zone there")
    found = f"{celsius:.1f} °C"
    if celsius < _HOT_CELSIUS:
        return ok(found)
    advice = "a heatsink, a fan, or shade; or wait until it has cooled"
    return warn(f"{found}: it soon slows down, or does already", dut.by_hand(COOL, advice))


@check(needs=("system",), fixes=(WAIT,))
def load(dut: DeviceUnderTest) -> CheckResult:
    """Nothing else kept the processors busy during the last minute."""
    said = _system(dut)
    if said.load_1m is None or said.cores is None:
        return skip("the load cannot be read there")
    found = f"{said.load_1m:.2f} over the last minute on {said.cores} cores"
    if said.load_1m <= _BUSY_SHARE * said.cores:
        return ok(found)
    top = dut.remote_command("top -b -n 1")
    return warn(found, dut.by_hand(WAIT, f"wait a minute or two; {top} shows what runs"))


@check(needs=("system",), fixes=(JOIN_GROUP,))
def device_nodes(dut: DeviceUnderTest) -> CheckResult:
    """The account may open the device nodes of the accelerators that the profile names."""
    said = _system(dut)
    wanted = dut.profile.targets if dut.profile else ()
    nodes = [
        one
        for one in said.nodes
        if ("edgetpu" if "apex" in one.path else "gpu") in wanted and said.uid is not None
    ]
    if not nodes:
        return skip("no device node of an accelerator that the profile names")
    shut = [one for one in nodes if not one.may_open]
    if not shut:
        return ok(", ".join(one.path for one in nodes))
    groups = ",".join(dict.fromkeys(one.group for one in shut))
    found = f"{said.user} may not open {', '.join(one.path for one in shut)} (group {groups})"
    command = f"usermod -aG {shlex.quote(groups)} {shlex.quote(said.user)}"
    return warn(found, dut.as_root(JOIN_GROUP, command, "; it holds from the next login on"))


@check(needs=("system",), fixes=(PLUG_IN,))
def usb(dut: DeviceUnderTest) -> CheckResult:
    """The USB accelerator that the profile is about is plugged in."""
    wanted = dut.profile.detect.usb if dut.profile else ()
    if not wanted:
        return skip("the profile is about no USB device")
    there = [one for one in _system(dut).usb if one in wanted]
    if there:
        return ok(", ".join(there))
    found = f"none of {', '.join(wanted)} is on its USB"
    advice = "plug it in; a hub may give it too little power"
    return fail(found, dut.by_hand(PLUG_IN, advice))


def _system(dut: DeviceUnderTest) -> survey.System:
    assert dut.system is not None
    return dut.system
