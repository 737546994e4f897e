"""Checks of what runs models on a device: the runtime, its numpy, the C library, the delegate."""

from __future__ import annotations

import hashlib

from harness.errors import RuntimeMissing
from harness.farm import setup, wheels
from harness.farm.patient import Check, Patient
from harness.farm.wheels import LEAST_GLIBC, Site
from harness.types import Dose, LaunchOrder

_LAUNCH = Dose(launches=1, min_inferences=10, min_seconds=0.02, warmup_seconds=0.0)


def libc(patient: Patient) -> Check:
    """The C library is new enough for a runtime's wheel."""
    assert patient.facts is not None
    found = patient.facts.libc or "unknown"
    version = wheels.glibc(patient.facts.libc)
    has_runtime = bool(patient.facts.runtimes)
    if version is not None and version >= LEAST_GLIBC:
        return Check(name="libc", status="ok", found=found)
    if has_runtime:
        return Check(name="libc", status="ok", found=f"{found}; the runtime there works with it")
    least = ".".join(str(part) for part in LEAST_GLIBC)
    return Check(
        name="libc",
        status="fail",
        found=f"{found}: ai-edge-litert has no wheel for less than glibc {least}",
        mend="a newer system image, or a runtime built from source on the device "
        "(https://ai.google.dev/edge/litert/build/cmake_pip)",
    )


def runtime(patient: Patient) -> Check:
    """A TFLite runtime is there and imports."""
    assert patient.facts is not None
    found = patient.facts.runtimes
    if found:
        words = ", ".join(f"{one.name} {one.version}" for one in found)
        return Check(name="runtime", status="ok", found=words)
    words = f"no runtime imports in {patient.agent.python}"
    if patient.facts.runtime_problems:
        words += f": {'; '.join(patient.facts.runtime_problems)}"
    return Check(name="runtime", status="fail", found=words, mend=_install(patient))


def numpy(patient: Patient) -> Check:
    """The runtime that is used can work with its NumPy: tflite_runtime fails or errs with NumPy 2."""
    assert patient.facts is not None
    used = patient.facts.runtimes[:1]
    if used and not setup.sound(used[0]):
        return Check(
            name="numpy",
            status="fail",
            found=f"numpy {used[0].numpy} with tflite_runtime {used[0].version}, "
            "which is built for numpy 1",
            mend=_install(patient),
        )
    if not used or not used[0].numpy:
        return Check(name="numpy", status="skip", found="no runtime, or it needs none")
    return Check(name="numpy", status="ok", found=used[0].numpy)


def xnnpack(patient: Patient) -> Check:
    """The XNNPACK delegate is really made: a cpuinfo that cannot be read leaves it out in silence."""
    assert patient.facts is not None
    assert patient.dialect is not None
    if patient.model is None:
        return Check(name="xnnpack", status="skip", found="no model was given to try it with")
    if not patient.facts.runtimes:
        return Check(name="xnnpack", status="skip", found="no runtime")
    digest = hashlib.sha256(patient.model.read_bytes()).hexdigest()
    patient.dialect.deploy({digest: patient.model})
    launch = patient.dialect.launch(
        LaunchOrder(
            cell_id="doctor",
            kind="timed",
            block=0,
            position=0,
            variant_digest=digest,
            target="xnnpack",
            threads=1,
            dose=_LAUNCH,
        )
    )
    made = launch.delegation
    found = f"{made.delegate} with {launch.runtime}" + (f" ({made.evidence})" * bool(made.evidence))
    if made.delegate == "xnnpack":
        return Check(name="xnnpack", status="ok", found=found)
    # A profile may be of a board that also runs 32-bit systems, whose wheels may lack it.
    assert patient.probe is not None
    promised = Site.of(patient.probe).arch in wheels.MACHINES_64 and (
        patient.profile is None or patient.profile.xnnpack
    )
    return Check(
        name="xnnpack",
        status="fail" if promised else "warn",
        found=f"the delegate was not made: {found}",
        mend=patient.there("cat /proc/cpuinfo /sys/devices/system/cpu/present")
        + " must name the processors (mount /proc and /sys in a container); "
        "else another runtime version",
    )


def _install(patient: Patient) -> str:
    """Write the command that installs the runtime this device can have."""
    assert patient.probe is not None
    site = Site.of(patient.probe)
    try:
        wanted = wheels.best(site)
    except RuntimeMissing as error:
        return str(error)
    command = f"edge-harness setup {patient.device.name}"
    if setup.lacks_numpy(site, wanted):
        return f"{patient.there(setup.NUMPY_BY_APT)}; then {command}"
    return command
