"""The check of a device's GPU: a small model runs on it, and which adapter it was."""

from __future__ import annotations

import re
import shlex

from harness.devices.delegation import is_software
from harness.errors import Crashed, FellBack, ModelRejected, Unsupported
from harness.farm import vulkan
from harness.farm.checks import CheckResult, Fix, FixKind, check, fail, ok, skip, warn
from harness.farm.linux import packages
from harness.farm.patient import Patient
from harness.farm.trial import trial_launch

_SEEN = "gpu"

DRIVER = FixKind(
    id="gpu-driver",
    does="Install the Vulkan driver of the GPU",
    by_hand="a driver shows itself on its own hardware only",
)
LOADER = FixKind(id="vulkan-loader", does="Install the Vulkan loader")
DRIVER_NEEDS = FixKind(id="driver-library", does="Install the library that the driver lacks")
DRIVER_PART = FixKind(
    id="driver-part",
    does="Install the graphics part of the driver",
    by_hand="it comes with the driver, or with the container's runtime",
)
OTHER_DRIVER = FixKind(
    id="other-driver",
    does="Use another version of the GPU's driver",
    by_hand="a driver shows itself on its own hardware only",
)
GPU_RUNTIME = FixKind(
    id="gpu-runtime",
    does="Use a version of ai-edge-litert that runs this GPU",
    by_hand="the runtime refuses the GPU, and only hardware shows which version takes it",
)
GPU_SETUP = FixKind(
    id="gpu-setup",
    does="Install ai-edge-litert, which runs models on GPUs, into the Python there",
    by_hand="a runtime that works is left alone by `setup`, and only a GPU shows that it is enough",
)


@check(
    needs=("profile:gpu", "model", "runtime"),
    fixes=(DRIVER, LOADER, DRIVER_NEEDS, DRIVER_PART, OTHER_DRIVER, GPU_RUNTIME, GPU_SETUP),
)
def gpu(patient: Patient) -> CheckResult:
    """A GPU that the profile has as a target runs a model, and is one.

    One that the profile names must be there (`fail`); in a profile of many machines only one that the
    device shows (`warn`).
    """
    try:
        made = trial_launch(
            patient,
            "gpu",
            position=2,
            delegate_options=patient.device.delegate_options.get("gpu", {}),
        ).delegation
    except Unsupported as error:
        return _absent(patient, str(error))
    except Crashed as error:
        log = patient.remote_command("dmesg | tail")
        advice = f"another version of the GPU's driver; {log} may say why"
        return fail(str(error), patient.by_hand(OTHER_DRIVER, advice))
    except (FellBack, ModelRejected) as error:
        command = f"edge-harness setup {patient.device.name} --runtime ai_edge_litert==VERSION"
        advice = f"another version of the runtime: {command}"
        return fail(str(error), patient.by_hand(GPU_RUNTIME, advice))
    adapter = made.adapter
    words = ", ".join(filter(None, (adapter.name, adapter.type, adapter.driver))) if adapter else ""
    found = f"{words or 'an adapter without a name'}; {made.settings or 'no settings'}"
    if adapter is not None and is_software(adapter):
        found += ": computed on the processor, so its rows are flagged emulated"
        return warn(found, _driver(patient))
    return ok(found)


def _absent(patient: Patient, found: str) -> CheckResult:
    assert patient.profile is not None
    assert patient.facts is not None
    is_named = any(one.target == "gpu" for one in patient.profile.accelerators)
    if not is_named and _SEEN not in patient.facts.accelerators:
        return skip(found)
    why, fix = _absent_fix(patient, found)
    return fail(found + why, fix) if is_named else warn(found + why, fix)


def _absent_fix(patient: Patient, found: str) -> tuple[str, Fix]:
    if "loader is missing" in found:
        return "", _packaged(patient, LOADER, "vulkan loader")
    if "ai-edge-litert" in found:
        pip = f"{shlex.quote(patient.agent.python)} -m pip install ai-edge-litert"
        advice = f"ai-edge-litert in the Python of the device: {patient.remote_command(pip)}"
        return "", patient.by_hand(GPU_SETUP, advice)
    if "no Vulkan driver" in found:
        return _passed_over(patient)
    return "", _driver(patient)


def _passed_over(patient: Patient) -> tuple[str, Fix]:
    """Say which installed driver does not load, and what fixes it; the driver where none is."""
    for driver in vulkan.ask(patient.commands, patient.device):
        if driver.fault:
            why = (
                f"; the driver {driver.library} of {driver.manifest} does not load: {driver.fault}"
            )
            return why, _loading(patient, driver)
    return "", _driver(patient)


def _loading(patient: Patient, driver: vulkan.Driver) -> Fix:
    lacks = re.match(r"(\S+\.so[.\d]*): cannot open shared object file", driver.fault)
    name = lacks.group(1) if lacks else ""
    install = packages.install_library(patient.system, name) if name else None
    if install:
        return patient.as_root(DRIVER_NEEDS, install)
    if name and name.rpartition("/")[2] == driver.library.rpartition("/")[2]:
        advice = (
            "the driver's graphics part is not there: install it (in a container of NVIDIA's "
            "runtime: NVIDIA_DRIVER_CAPABILITIES=all)"
        )
        return patient.by_hand(DRIVER_PART, advice)
    return patient.by_hand(DRIVER, f"install what has {name}") if name else _driver(patient)


def _driver(patient: Patient) -> Fix:
    note = " (NVIDIA: the Vulkan part of its own driver), for the GPU there is"
    return _packaged(patient, DRIVER, "vulkan driver", note)


def _packaged(patient: Patient, kind: FixKind, what: str, note: str = "") -> Fix:
    install = packages.install(patient.system, what)
    if install:
        return patient.as_root(kind, install, note)
    return patient.by_hand(kind, f"install the {what.replace('vulkan', 'Vulkan')} there{note}")
