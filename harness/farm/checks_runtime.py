"""Checks of what runs models on a device: the runtime, its numpy, the C library, the delegate."""

from __future__ import annotations

from dataclasses import replace

from harness.errors import RuntimeMissing
from harness.farm import setup, wheels
from harness.farm.checks import CheckResult, Fix, FixKind, check, fail, ok, skip, warn
from harness.farm.patient import Patient
from harness.farm.trial import STEADY, trial_launch
from harness.farm.wheels import LEAST_GLIBC, Site

_KERNEL_FILES = {"/proc": "/proc/self", "/sys": "/sys/devices/system/cpu"}
_MOUNT = {"/proc": "mount -t proc proc /proc", "/sys": "mount -t sysfs sysfs /sys"}

NEWER_SYSTEM = FixKind(
    id="newer-system",
    does="Use a newer image of the system, or build a runtime on the device",
    by_hand="a C library cannot be replaced under a running system",
)
SETUP = FixKind(id="setup", does="Install the runtime that the device can have")
MOUNT_KERNEL = FixKind(id="mount-kernel-files", does="Mount /proc and /sys in the container")
OTHER_RUNTIME = FixKind(
    id="other-runtime",
    does="Use another version of the runtime",
    by_hand="which version has the delegate on that processor is known by trying only",
)


_SETUP_FIXES = (SETUP, setup.NUMPY_FIRST, setup.NUMPY_BY_HAND)


@check(needs=("python_agent", "system"), fixes=(NEWER_SYSTEM,))
def libc(patient: Patient) -> CheckResult:
    """The C library is new enough for a runtime's wheel."""
    assert patient.system is not None
    # The Python's own, where there is one: it may be another than the shell's.
    known = (patient.facts.libc if patient.facts else None) or (
        patient.probe.libc if patient.probe else None
    )
    known = known or patient.system.libc
    if known is None and patient.facts is None and patient.probe is None:
        return skip("nothing there says the version of the C library")
    found = known or "unknown"
    version = wheels.glibc(known)
    if version is not None and version >= LEAST_GLIBC:
        return ok(found)
    if patient.facts is not None and patient.facts.runtimes:
        return ok(f"{found}; the runtime there works with it")
    least = ".".join(str(part) for part in LEAST_GLIBC)
    return fail(
        f"{found}: ai-edge-litert has no wheel for less than glibc {least}",
        patient.by_hand(
            NEWER_SYSTEM,
            "a newer system image, or a runtime built from source on the device "
            "(https://ai.google.dev/edge/litert/build/cmake_pip)",
        ),
    )


@check(needs=("agent",), fixes=(*_SETUP_FIXES, NEWER_SYSTEM))
def runtime(patient: Patient) -> CheckResult:
    """A TFLite runtime is there and imports."""
    assert patient.facts is not None
    found = patient.facts.runtimes
    if found:
        return ok(", ".join(f"{one.name} {one.version}" for one in found))
    missing = f"no runtime imports in {patient.agent.python}"
    if patient.facts.runtime_problems:
        missing += f": {'; '.join(patient.facts.runtime_problems)}"
    return fail(missing, _install(patient))


@check(
    needs=("python_agent", "agent"), unless_failed=("runtime",), fixes=(*_SETUP_FIXES, NEWER_SYSTEM)
)
def numpy(patient: Patient) -> CheckResult:
    """The runtime that is used can work with its NumPy: tflite_runtime fails or errs with NumPy 2."""
    assert patient.facts is not None
    used = patient.facts.runtimes[:1]
    if used and not setup.sound(used[0]):
        return fail(
            f"numpy {used[0].numpy} with tflite_runtime {used[0].version}, "
            "which is built for numpy 1",
            _install(patient),
        )
    if not used or not used[0].numpy:
        return skip("no runtime, or it needs none")
    return ok(used[0].numpy)


@check(needs=("python_agent", "model", "runtime"), fixes=(MOUNT_KERNEL, OTHER_RUNTIME))
def xnnpack(patient: Patient) -> CheckResult:
    """The XNNPACK delegate is really made: a cpuinfo that cannot be read leaves it out in silence."""
    launch = trial_launch(patient, "xnnpack", dose=STEADY)
    made = launch.delegation
    found = f"{made.delegate} with {launch.runtime}" + (f" ({made.evidence})" * bool(made.evidence))
    if made.delegate == "xnnpack":
        return ok(found)
    # A profile may be of a board that also runs 32-bit systems, whose wheels may lack it.
    is_64 = patient.probe is None or Site.of(patient.probe).arch in wheels.MACHINES_64
    is_promised = is_64 and (patient.profile is None or patient.profile.xnnpack)
    found = f"the delegate was not made: {found}"
    fix = _xnnpack_fix(patient)
    return fail(found, fix) if is_promised else warn(found, fix)


def _xnnpack_fix(patient: Patient) -> Fix:
    """Mount what cpuinfo reads if it is missing, which it is in some containers."""
    there = patient.system.kernel_files if patient.system else frozenset(_KERNEL_FILES.values())
    missing = [folder for folder, file in _KERNEL_FILES.items() if file not in there]
    if missing:
        command = " && ".join(f"{{sudo}}{_MOUNT[folder]}" for folder in missing)
        return patient.as_root(MOUNT_KERNEL, command)
    command = f"edge-harness setup {patient.device.name} --runtime ai_edge_litert==VERSION"
    look = patient.remote_command("cat /proc/cpuinfo /sys/devices/system/cpu/present")
    advice = f"another version of the runtime ({command}); {look} must name the processors"
    return patient.by_hand(OTHER_RUNTIME, advice)


def _install(patient: Patient) -> Fix:
    """Write the command that installs the runtime this device can have."""
    name = patient.device.name
    if patient.probe is None:
        return patient.by_harness(SETUP, "setup", name)
    site = Site.of(patient.probe)
    try:
        wanted = wheels.best(site)
    except RuntimeMissing as error:
        return patient.by_hand(NEWER_SYSTEM, str(error))
    if not setup.lacks_numpy(site, wanted):
        return patient.by_harness(SETUP, "setup", name)
    first = setup.numpy_fix(patient)
    then = patient.by_harness(SETUP, "setup", name)
    if first.command is None:
        return replace(first, text=f"{first.text}; then {then.text}")
    command = f"{first.command} && {then.command}"
    return replace(first, command=command, text=command)
