"""Checks of a device that need its facts but no runtime: clock, governor, swap, load, room."""

from __future__ import annotations

import shlex

from harness.farm import busy
from harness.farm.patient import Check, Patient

_LEAST_FREE_BYTES = 50_000_000
_GOOD_FREE_BYTES = 500_000_000
_CLOCK_SECONDS = 2.0
_BUSY_SHARE = 0.25
_PERFORMANCE = "performance"
_UNDER_VOLTAGE_BITS = 0x10001
_SLOWED_BITS = 0xE000E
_NOW_BITS = 0xFFFF


def disk(patient: Patient) -> Check:
    """Room for agents, models and outputs in the work folder's file system."""
    assert patient.probe is not None
    free = patient.probe.free_bytes
    workdir = patient.agent.workdir
    if free is None:
        return Check(name="disk", status="skip", found="the free space cannot be read there")
    found = f"{free / 1e6:.0f} MB free for {workdir}"
    if free >= _GOOD_FREE_BYTES:
        return Check(name="disk", status="ok", found=found)
    mend = (
        f"edge-harness devices {patient.device.name} --clean (our own copies), or another workdir"
    )
    status = "warn" if free >= _LEAST_FREE_BYTES else "fail"
    return Check(name="disk", status=status, found=found, mend=mend)  # type: ignore[arg-type]


def read_only(patient: Patient) -> Check:
    """The work folder's file system can be written: a card that fails is remounted read-only."""
    assert patient.probe is not None
    workdir = patient.agent.workdir
    if not patient.probe.read_only:
        return Check(name="read_only", status="ok", found=f"{workdir} is mounted for writing")
    return Check(
        name="read_only",
        status="fail",
        found=f"{workdir} is on a file system mounted read-only",
        mend=patient.there(f"sudo mount -o remount,rw $(stat -c %m {shlex.quote(workdir)})")
        + " (dmesg says why, where the card fails), or another workdir in the farm file",
    )


def noexec(patient: Patient) -> Check:
    """Libraries can be loaded from the work folder; a runtime or delegate put there needs it."""
    assert patient.probe is not None
    workdir = patient.agent.workdir
    if not patient.probe.noexec:
        return Check(name="noexec", status="ok", found=f"libraries load from {workdir}")
    return Check(
        name="noexec",
        status="warn",
        found=f"{workdir} is on a file system mounted noexec: no runtime can be put there",
        mend=patient.there(f"sudo mount -o remount,exec $(stat -c %m {shlex.quote(workdir)})")
        + ", or another workdir in the farm file",
    )


def clock(patient: Patient) -> Check:
    """The clock agrees with ours; results do not need it, people who compare logs do."""
    assert patient.facts is not None
    offset = patient.facts.clock_offset_seconds
    if offset is None:
        return Check(name="clock", status="skip", found="the device did not say its time")
    found = f"{offset:+.3f} s against ours"
    if abs(offset) <= _CLOCK_SECONDS:
        return Check(name="clock", status="ok", found=found)
    mend = patient.there("sudo timedatectl set-ntp true")
    return Check(name="clock", status="warn", found=found, mend=mend)


def governor(patient: Patient) -> Check:
    """The frequency governor is pinned, or the rows say `uncontrolled`."""
    assert patient.facts is not None
    found = patient.facts.governor
    if found is None:
        return Check(name="governor", status="skip", found="no cpufreq there (a virtual machine?)")
    if found == _PERFORMANCE:
        return Check(name="governor", status="ok", found=found)
    paths = "/sys/devices/system/cpu/cpu*/cpufreq/scaling_governor"
    return Check(
        name="governor",
        status="warn",
        found=f"{found}: not pinned, so the frequency moves while measuring",
        mend=patient.there(f"echo {_PERFORMANCE} | sudo tee {paths}"),
    )


def swap(patient: Patient) -> Check:
    """No swap in use: a launch that swaps measures the disk."""
    assert patient.probe is not None
    used = patient.probe.swap_used_bytes
    if used is None:
        return Check(name="swap", status="skip", found="swap cannot be read there")
    if used == 0:
        return Check(name="swap", status="ok", found="none in use")
    mend = patient.there("sudo swapoff -a")
    return Check(name="swap", status="warn", found=f"{used / 1e6:.0f} MB in use", mend=mend)


def under_voltage(patient: Patient) -> Check:
    """The supply holds: a board under voltage slows down, and corrupts its card."""
    return _throttle_bits(
        patient,
        "under_voltage",
        _UNDER_VOLTAGE_BITS,
        "a supply of 5 V and 3 A (Raspberry Pi 5: 5 A) on a short cable",
    )


def throttled(patient: Patient) -> Check:
    """The firmware has not slowed the processors down since boot, nor does it now."""
    return _throttle_bits(patient, "throttled", _SLOWED_BITS, "a heatsink or a fan")


def _throttle_bits(patient: Patient, name: str, bits: int, cure: str) -> Check:
    """Judge some of the bits of `vcgencmd get_throttled`: the lower half is now, the upper since boot."""
    assert patient.facts is not None
    said = patient.facts.throttled
    if said is None:
        return Check(name=name, status="skip", found="no vcgencmd there: no Raspberry Pi")
    if not said & bits:
        return Check(name=name, status="ok", found=f"not since boot ({said:#x})")
    when = "now" if said & bits & _NOW_BITS else "since boot"
    return Check(
        name=name,
        status="fail" if when == "now" else "warn",
        found=f"{name.replace('_', ' ')} {when} (vcgencmd get_throttled: {said:#x})",
        mend=f"{cure}; then {patient.there('sudo reboot')} forgets it",
    )


def processors(patient: Patient) -> Check:
    """No other process uses the processors right now."""
    found = busy.ask(patient.commands("a look at /proc"), patient.device)
    if found is None:
        return Check(name="processors", status="skip", found="/proc cannot be read there")
    if not found:
        return Check(name="processors", status="ok", found="no process uses them")
    words = "; ".join(f"{one.name} (pid {one.pid}) uses {one.share:.0%} of one" for one in found)
    pids = ",".join(str(one.pid) for one in found)
    mend = patient.there(f"top -b -n 1 -p {pids}") + " shows it; stop it, or wait for its end"
    return Check(name="processors", status="warn", found=words, mend=mend)


def load(patient: Patient) -> Check:
    """Nothing else keeps the processors busy."""
    assert patient.facts is not None
    now, cores = patient.facts.load_1m, patient.facts.cores
    if now is None or cores is None:
        return Check(name="load", status="skip", found="the load cannot be read there")
    found = f"{now:.2f} over the last minute on {cores} cores"
    if now <= _BUSY_SHARE * cores:
        return Check(name="load", status="ok", found=found)
    mend = patient.there("top") + " shows what runs; stop it"
    return Check(name="load", status="warn", found=found, mend=mend)
