"""Checks of a device's accelerators: does the delegate library load there, is the compiler here."""

from __future__ import annotations

import hashlib
from pathlib import Path

from harness.errors import AgentError, Crashed, FellBack, HarnessError, ModelRejected, RecipeError
from harness.farm.patient import Check, Patient, Status
from harness.optimize.targets import edgetpu
from harness.types import Accelerator, Dose, LaunchOrder

_LAUNCH = Dose(launches=1, min_inferences=1, min_seconds=0.0, warmup_seconds=0.0)
_EDGETPU = "edgetpu"
_MEND_EDGETPU = (
    "https://coral.ai/docs/accelerator/get-started/ has the commands for libedgetpu and its udev rule; it "
    "must be built for the runtime's version"
)


def delegates(patient: Patient) -> Check:
    """Each delegate library of the profile is loaded in a launch of its own, with a small model.

    A library that has nothing to do in that model was loaded all the same, which is what is asked.
    """
    assert patient.dialect is not None
    known = patient.profile.accelerators if patient.profile else ()
    named = [one for one in known if one.external_delegate]
    if not named:
        return Check(name="delegates", status="skip", found="the profile names no delegate library")
    if patient.model is None or patient.facts is None or not patient.facts.runtimes:
        return Check(name="delegates", status="skip", found="no model or no runtime to try it with")
    told = [_tried(patient, one, patient.model) for one in named]
    statuses: list[Status] = [status for status, _ in told]
    worst: Status = "fail" if "fail" in statuses else "ok"
    mends = {
        _MEND_EDGETPU if one.target == _EDGETPU else "the vendor's page for its delegate library"
        for one, status in zip(named, statuses, strict=True)
        if status == "fail"
    }
    return Check(
        name="delegates",
        status=worst,
        found="; ".join(words for _, words in told),
        mend="; ".join(sorted(mends)) or None,
    )


def compiler(patient: Patient) -> Check:
    """The Edge TPU's compiler is on this host, where the device has an Edge TPU; files may be compiled already."""
    if patient.profile is None or _EDGETPU not in patient.profile.targets:
        return Check(name="compiler", status="skip", found="no Edge TPU in the profile")
    try:
        path = edgetpu.find(edgetpu.PROGRAM)
    except RecipeError:
        found = (
            f"no {edgetpu.PROGRAM} on this host: recipes for edgetpu need it, compiled files do not"
        )
        return Check(name="compiler", status="warn", found=found, mend=edgetpu.INSTALL)
    return Check(name="compiler", status="ok", found=path)


def _tried(patient: Patient, accelerator: Accelerator, model: Path) -> tuple[Status, str]:
    assert patient.dialect is not None
    library, target = accelerator.external_delegate, accelerator.target
    own = patient.device.delegate_options.get(target, {})
    digest = hashlib.sha256(model.read_bytes()).hexdigest()
    order = LaunchOrder(
        cell_id="doctor",
        kind="timed",
        block=0,
        position=1,
        variant_digest=digest,
        target=target,
        threads=1,
        dose=_LAUNCH,
        delegate=library,
        delegate_options={**accelerator.options, **own},
    )
    try:
        patient.dialect.deploy({digest: model})
        launch = patient.dialect.launch(order)
    except (FellBack, ModelRejected):
        return "ok", f"{library} loads for {target}"
    except Crashed as error:
        return "fail", f"{library} takes its process down (another runtime's?): {error}"
    except AgentError as error:
        return "fail", str(error)
    except HarnessError as error:
        return "fail", f"{library} could not be tried: {error}"
    return "ok", f"{launch.delegation.library or library} loads for {target}"
