"""Checks of the software that runs models: the runtime, its NumPy, the C library, the delegate."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

from harness import assets
from harness.errors import RuntimeMissing
from harness.farm import setup, wheels
from harness.farm.checks import CheckResult, Fix, FixKind, check, fail, ok, skip, warn
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.trial import STEADY, trial_launch
from harness.farm.wheels import MIN_GLIBC, Site

_KERNEL_FILES = {"/proc": "/proc/self", "/sys": "/sys/devices/system/cpu"}
_MOUNT = {"/proc": "mount -t proc proc /proc", "/sys": "mount -t sysfs sysfs /sys"}

NEWER_SYSTEM = FixKind(
    id="newer-system",
    does="Use a newer image of the system, or build a runtime on the device",
    by_hand="a C library cannot be replaced under a running system",
)
SETUP = FixKind(id="setup", does="Install a runtime that fits the device")
MOUNT_KERNEL = FixKind(id="mount-kernel-files", does="Mount /proc and /sys in the container")
OTHER_RUNTIME = FixKind(
    id="other-runtime",
    does="Use another version of the runtime",
    by_hand="only a trial shows which version has the delegate on that processor",
)


INSTALL_LIGHT = FixKind(
    id="install-light",
    does="Install a runtime into this installation of edge-harness",
    by_hand="it comes from a package index",
)

_SETUP_FIXES = (SETUP, INSTALL_LIGHT, setup.NUMPY_FIRST, setup.NUMPY_BY_HAND)


@check(needs=("python_agent", "system"), fixes=(NEWER_SYSTEM,))
def libc(dut: DeviceUnderTest) -> CheckResult:
    """The C library is new enough for a runtime's wheel."""
    assert dut.system is not None
    # Python may use another C library than the shell.
    known = (dut.facts.libc if dut.facts else None) or (dut.probe.libc if dut.probe else None)
    known = known or dut.system.libc
    if known is None and dut.facts is None and dut.probe is None:
        return skip("the device does not report the version of its C library")
    found = known or "unknown"
    version = wheels.glibc(known)
    if version is not None and version >= MIN_GLIBC:
        return ok(found)
    if dut.facts is not None and dut.facts.runtimes:
        return ok(f"{found}; the installed runtime works with it")
    minimum = ".".join(str(part) for part in MIN_GLIBC)
    return fail(
        f"{found}: ai-edge-litert has no wheel for less than glibc {minimum}",
        dut.by_hand(
            NEWER_SYSTEM,
            "use a newer system image, or build a runtime from source on the device "
            "(https://ai.google.dev/edge/litert/build/cmake_pip)",
        ),
    )


@check(needs=("agent",), fixes=(*_SETUP_FIXES, NEWER_SYSTEM))
def runtime(dut: DeviceUnderTest) -> CheckResult:
    """A TFLite runtime is installed and imports."""
    assert dut.facts is not None
    found = ", ".join(f"{one.name} {one.version}" for one in dut.facts.runtimes)
    if found and dut.is_this_python and not _has_runtime_here():
        return warn(
            f"{found} for the agent only: edge-harness itself has no ai-edge-litert, with which it "
            "reads and checks models",
            _install_here(),
        )
    if found:
        return ok(found)
    missing = f"no runtime imports in {dut.agent.python}"
    if dut.facts.runtime_problems:
        missing += f": {'; '.join(dut.facts.runtime_problems)}"
    return fail(missing, _install(dut))


@check(
    needs=("python_agent", "agent"), unless_failed=("runtime",), fixes=(*_SETUP_FIXES, NEWER_SYSTEM)
)
def numpy(dut: DeviceUnderTest) -> CheckResult:
    """The runtime works with the installed NumPy; tflite_runtime fails or computes garbage with NumPy 2."""
    assert dut.facts is not None
    used = dut.facts.runtimes[:1]
    if used and not setup.can_run(used[0]):
        return fail(
            f"numpy {used[0].numpy} with tflite_runtime {used[0].version}, "
            "which is built for numpy 1",
            _install(dut),
        )
    if not used or not used[0].numpy:
        return skip("no runtime, or a runtime that needs no NumPy")
    return ok(used[0].numpy)


@check(needs=("python_agent", "model", "runtime"), fixes=(MOUNT_KERNEL, OTHER_RUNTIME))
def xnnpack(dut: DeviceUnderTest) -> CheckResult:
    """The runtime creates the XNNPACK delegate. It omits it silently if cpuinfo cannot be read."""
    launch = trial_launch(dut, "xnnpack", dose=STEADY)
    made = launch.delegation
    found = f"{made.delegate} with {launch.runtime}" + (f" ({made.evidence})" * bool(made.evidence))
    if made.delegate == "xnnpack":
        return ok(found)
    # A board may also run a 32-bit system, and 32-bit wheels may lack the delegate.
    is_64 = dut.probe is None or Site.of(dut.probe).arch in wheels.MACHINES_64
    is_promised = is_64 and (dut.profile is None or dut.profile.xnnpack)
    found = f"the delegate was not created: {found}"
    fix = _xnnpack_fix(dut)
    return fail(found, fix) if is_promised else warn(found, fix)


def _xnnpack_fix(dut: DeviceUnderTest) -> Fix:
    """Mount /proc and /sys if they are missing, as in some containers: cpuinfo reads them."""
    present = dut.system.kernel_files if dut.system else frozenset(_KERNEL_FILES.values())
    missing = [folder for folder, file in _KERNEL_FILES.items() if file not in present]
    if missing:
        command = " && ".join(f"{{sudo}}{_MOUNT[folder]}" for folder in missing)
        return dut.as_root(MOUNT_KERNEL, command)
    command = f"edge-harness setup {dut.device.selector} --runtime ai_edge_litert==VERSION"
    look = dut.remote_command("cat /proc/cpuinfo /sys/devices/system/cpu/present")
    advice = f"try another version of the runtime ({command}); {look} must list the processors"
    return dut.by_hand(OTHER_RUNTIME, advice)


def _has_runtime_here() -> bool:
    return importlib.util.find_spec("ai_edge_litert") is not None


def _install_here() -> Fix:
    """Return the command that installs a runtime for the agent and for edge-harness itself.

    `setup` would install one for the agent only.
    """
    command = assets.install_command("light")
    return Fix(kind=INSTALL_LIGHT, command=command, text=command)


def _install(dut: DeviceUnderTest) -> Fix:
    """Return the command that installs a runtime that fits this device."""
    name = dut.device.name
    if dut.is_this_python:
        return _install_here()
    if dut.probe is None:
        return dut.by_harness(SETUP, "setup", name)
    site = Site.of(dut.probe)
    try:
        wanted = wheels.choose_runtime(site)
    except RuntimeMissing as error:
        return dut.by_hand(NEWER_SYSTEM, str(error))
    if not setup.lacks_numpy(site, wanted):
        return dut.by_harness(SETUP, "setup", name)
    first = setup.numpy_fix(dut)
    then = dut.by_harness(SETUP, "setup", name)
    if first.command is None:
        return replace(first, text=f"{first.text}; then {then.text}")
    command = f"{first.command} && {then.command}"
    return replace(first, command=command, text=command)
