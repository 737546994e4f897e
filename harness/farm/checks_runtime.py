"""Checks of what runs models on a device: the runtime, its numpy, the C library, the delegate."""

from __future__ import annotations

import hashlib
import re

from harness.farm.patient import Check, Patient
from harness.types import Dose, LaunchOrder

# From the wheels on the package index: ai-edge-litert 2.3.0 is manylinux_2_27 for cp310 to cp314,
# x86_64 and aarch64; tflite-runtime 2.14.0 is manylinux_2_34 for cp39 to cp311, armv7l as well.
_LITERT_GLIBC = (2, 27)
_LITERT_PYTHONS = ((3, 10), (3, 14))
_LITERT_MACHINES = frozenset({"x86_64", "aarch64"})
_TFLITE_GLIBC = (2, 34)
_TFLITE_PYTHONS = ((3, 9), (3, 11))
_TFLITE_MACHINES = frozenset({"x86_64", "aarch64", "armv7l"})
_BITS_64 = 64
_NUMPY_2 = 2
_LAUNCH = Dose(launches=1, min_inferences=10, min_seconds=0.02, warmup_seconds=0.0)


def libc(patient: Patient) -> Check:
    """The C library is new enough for a runtime's wheel."""
    assert patient.facts is not None
    found = patient.facts.libc or "unknown"
    version = _glibc(patient)
    has_runtime = bool(patient.facts.runtimes)
    if version is not None and version >= _LITERT_GLIBC:
        return Check(name="libc", status="ok", found=found)
    if has_runtime:
        return Check(name="libc", status="ok", found=f"{found}; the runtime there works with it")
    least = ".".join(str(part) for part in _LITERT_GLIBC)
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
    problems = patient.facts.extra.get("runtime_problems")
    words = f"no runtime imports in {patient.device.python}"
    if problems:
        words += f": {_problems(problems)}"
    return Check(name="runtime", status="fail", found=words, mend=_install(patient))


def numpy(patient: Patient) -> Check:
    """tflite_runtime has numpy 1; with numpy 2 it makes interpreters that fail or answer garbage."""
    assert patient.facts is not None
    for one in patient.facts.runtimes:
        major = re.match(r"\d+", one.numpy or "")
        if one.name == "tflite_runtime" and major and int(major[0]) >= _NUMPY_2:
            return Check(
                name="numpy",
                status="fail",
                found=f"numpy {one.numpy} with tflite_runtime {one.version}, which needs numpy 1",
                mend=patient.there(f"{patient.device.python} -m pip install 'numpy<2'"),
            )
    versions = sorted({one.numpy for one in patient.facts.runtimes if one.numpy})
    if not versions:
        return Check(name="numpy", status="skip", found="no runtime, or it needs none")
    return Check(name="numpy", status="ok", found=", ".join(versions))


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
    promised = patient.profile is None or patient.profile.xnnpack
    return Check(
        name="xnnpack",
        status="fail" if promised else "warn",
        found=f"the delegate was not made: {found}",
        mend=patient.there("cat /proc/cpuinfo /sys/devices/system/cpu/present")
        + " must name the processors (mount /proc and /sys in a container); "
        "else another runtime version",
    )


def _glibc(patient: Patient) -> tuple[int, ...] | None:
    assert patient.facts is not None
    found = re.search(r"glibc (\d+)\.(\d+)", patient.facts.libc or "")
    return (int(found[1]), int(found[2])) if found else None


def _install(patient: Patient) -> str:
    """Write the command that installs the runtime this device can have."""
    assert patient.facts is not None
    assert patient.probe is not None
    glibc, python = _glibc(patient) or (0, 0), patient.probe.version[:2]
    wide = patient.probe.bits == _BITS_64
    machine = patient.facts.machine
    if not wide:
        machine = "armv7l" if machine in {"aarch64", "armv7l"} else "i686"
    litert, tflite = _LITERT_PYTHONS, _TFLITE_PYTHONS
    if machine in _LITERT_MACHINES and glibc >= _LITERT_GLIBC and litert[0] <= python <= litert[1]:
        wanted = "ai-edge-litert"
    elif (
        machine in _TFLITE_MACHINES and glibc >= _TFLITE_GLIBC and tflite[0] <= python <= tflite[1]
    ):
        wanted = "tflite-runtime==2.14.0 'numpy<2'"
    else:
        return (
            f"no wheel fits ({machine}, {patient.facts.libc}, Python "
            f"{'.'.join(str(part) for part in patient.probe.version)}): a newer system image, or "
            "Python 3.10 to 3.14 beside this one, named by `python` in the farm file"
        )
    if patient.is_local:
        return f"{patient.device.python} -m pip install {wanted}"
    # A virtual environment: today's distributions refuse pip into the system's Python.
    folder = f"{patient.probe.home}/edge-harness-python"
    command = (
        f"{patient.device.python} -m venv --system-site-packages {folder} && "
        f"{folder}/bin/pip install {wanted}"
    )
    return f'{patient.there(command)}; then python = "{folder}/bin/python" in the farm file'


def _problems(problems: object) -> str:
    """Put the agent's account of imports that failed into one line."""
    if isinstance(problems, dict):
        return "; ".join(f"{name}: {why}" for name, why in problems.items())
    if isinstance(problems, (list, tuple)):
        return "; ".join(str(one) for one in problems)
    return str(problems)
