"""The check of a device's GPU: a small model runs on it, and which adapter it was."""

from __future__ import annotations

import hashlib
import re

from harness.devices.delegation import is_software
from harness.errors import Crashed, FellBack, ModelRejected, Unsupported
from harness.farm import vulkan
from harness.farm.patient import Check, Patient, Status
from harness.types import Delegation, Dose, LaunchOrder

_LAUNCH = Dose(launches=1, min_inferences=1, min_seconds=0.0, warmup_seconds=0.0)
_SEEN = "gpu"
_DRIVER = (
    "sudo apt-get install -y mesa-vulkan-drivers",
    " (NVIDIA: the Vulkan part of its own driver)",
)
_LOADER = "sudo apt-get install -y libvulkan1"
_PACKAGES = {
    "libEGL.so.1": "libegl1",
    "libGL.so.1": "libgl1",
    "libGLdispatch.so.0": "libglvnd0",
    "libGLX.so.0": "libglx0",
    "libX11.so.6": "libx11-6",
    "libX11-xcb.so.1": "libx11-xcb1",
    "libXext.so.6": "libxext6",
    "libdrm.so.2": "libdrm2",
    "libwayland-client.so.0": "libwayland-client0",
    "libxcb.so.1": "libxcb1",
}
"""What drivers need beside themselves and a container often has not; Debian's and Ubuntu's packages."""


def gpu(patient: Patient) -> Check:
    """A GPU that the profile has as a target runs a model, and is one.

    One that the profile names must be there (`fail`); in a profile of many machines only one that the
    device shows (`warn`).
    """
    assert patient.dialect is not None
    assert patient.facts is not None
    if patient.profile is None or "gpu" not in patient.profile.targets:
        return Check(name="gpu", status="skip", found="the profile has no target gpu")
    if patient.model is None or not patient.facts.runtimes:
        return Check(name="gpu", status="skip", found="no model or no runtime to try it with")
    try:
        told = _tried(patient)
    except Unsupported as error:
        return _absent(patient, str(error))
    except Crashed as error:
        mend = "another version of the GPU's driver; " + patient.there("dmesg | tail") + " may say"
        return Check(name="gpu", status="fail", found=str(error), mend=mend)
    except (FellBack, ModelRejected) as error:
        mend = "another version of the runtime: edge-harness setup " + patient.device.name
        return Check(name="gpu", status="fail", found=str(error), mend=mend)
    adapter = told.adapter
    words = ", ".join(filter(None, (adapter.name, adapter.type, adapter.driver))) if adapter else ""
    found = f"{words or 'an adapter without a name'}; {told.settings or 'no settings'}"
    if adapter is not None and is_software(adapter):
        mend = "".join((patient.there(_DRIVER[0]), _DRIVER[1])) + ", for the GPU there is"
        found += ": computed on the processor, so its rows are flagged emulated"
        return Check(name="gpu", status="warn", found=found, mend=mend)
    return Check(name="gpu", status="ok", found=found)


def _absent(patient: Patient, found: str) -> Check:
    assert patient.profile is not None
    assert patient.facts is not None
    named = any(one.target == "gpu" for one in patient.profile.accelerators)
    seen = _SEEN in patient.facts.accelerators
    status: Status = "fail" if named else "warn" if seen else "skip"
    mend = None
    if status != "skip":
        mend = patient.there(_DRIVER[0]) + _DRIVER[1]
        if "loader is missing" in found:
            mend = patient.there(_LOADER)
        elif "ai-edge-litert" in found:
            mend = f"edge-harness setup {patient.device.name}"
        elif "no Vulkan driver" in found:
            why, how = _passed_over(patient)
            found, mend = found + why, how or mend
    return Check(name="gpu", status=status, found=found, mend=mend)


def _passed_over(patient: Patient) -> tuple[str, str | None]:
    """Say which installed driver does not load, and what mends it; nothing where there is none."""
    for driver in vulkan.ask(patient.commands("a look at Vulkan's drivers"), patient.device):
        if not driver.fault:
            continue
        why = f"; the driver {driver.library} of {driver.manifest} does not load: {driver.fault}"
        lacks = re.match(r"(\S+\.so[.\d]*): cannot open shared object file", driver.fault)
        name = lacks.group(1) if lacks else ""
        if name in _PACKAGES:
            return why, patient.there(f"sudo apt-get install -y {_PACKAGES[name]}")
        if lacks and name.rpartition("/")[2] == driver.library.rpartition("/")[2]:
            how = "the driver's graphics part is not there: install it (in a container of NVIDIA's runtime: NVIDIA_DRIVER_CAPABILITIES=all)"
            return why, how
        return why, f"install what has {name}" if name else None
    return "", None


def _tried(patient: Patient) -> Delegation:
    """Run the small model there on the GPU; raises HarnessError."""
    assert patient.dialect is not None
    assert patient.model is not None
    digest = hashlib.sha256(patient.model.read_bytes()).hexdigest()
    patient.dialect.deploy({digest: patient.model})
    order = LaunchOrder(
        cell_id="doctor",
        kind="timed",
        block=0,
        position=2,
        variant_digest=digest,
        target="gpu",
        threads=1,
        dose=_LAUNCH,
        delegate_options=patient.device.delegate_options.get("gpu", {}),
    )
    return patient.dialect.launch(order).delegation
