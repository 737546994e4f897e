"""Checks of a device's accelerators: the delegate libraries load, and this host has the compiler."""

from __future__ import annotations

from harness.errors import AgentError, Crashed, FellBack, HarnessError, ModelRejected, RecipeError
from harness.farm.checks import CheckResult, FixKind, Status, check, fail, ok, warn
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.trial import trial_launch
from harness.optimize.targets import edgetpu
from harness.types import Accelerator

_EDGETPU = "edgetpu"
_EDGETPU_ADVICE = (
    "https://coral.ai/docs/accelerator/get-started/ has the commands for libedgetpu and its udev rule; it "
    "must be built for the runtime's version"
)

LIBRARY = FixKind(
    id="delegate-library",
    does="Install the vendor's delegate library",
    by_hand="the library comes from the vendor and works with its hardware only",
)
COMPILER = FixKind(
    id="edgetpu-compiler",
    does="Install Google's compiler on this host",
    by_hand="it comes from Google's package repository, under its terms",
)


@check(needs=("library", "model", "runtime"), fixes=(LIBRARY,))
def delegates(dut: DeviceUnderTest) -> CheckResult:
    """Each delegate library of the profile loads, in one launch of a small model per library.

    The check passes even if the library takes no operator of that model: it was loaded.
    """
    known = dut.profile.accelerators if dut.profile else ()
    named = [one for one in known if one.external_delegate]
    tried = [_try_library(dut, one) for one in named]
    found = "; ".join(outcome for _, outcome in tried)
    advice = {
        _EDGETPU_ADVICE if one.target == _EDGETPU else "the vendor's page for its delegate library"
        for one, (status, _) in zip(named, tried, strict=True)
        if status == "fail"
    }
    if not advice:
        return ok(found)
    return fail(found, dut.by_hand(LIBRARY, "; ".join(sorted(advice))))


@check(needs=("profile:edgetpu",), fixes=(COMPILER,))
def compiler(dut: DeviceUnderTest) -> CheckResult:
    """This host has the Edge TPU compiler, if the profile has the target edgetpu.

    Its absence is a warning: the user's files may be compiled already.
    """
    try:
        path = edgetpu.find(edgetpu.PROGRAM)
    except RecipeError:
        found = (
            f"no {edgetpu.PROGRAM} on this host: recipes for edgetpu need it, compiled files do not"
        )
        return warn(found, dut.by_hand(COMPILER, edgetpu.INSTALL))
    return ok(path)


def _try_library(dut: DeviceUnderTest, accelerator: Accelerator) -> tuple[Status, str]:
    library, target = accelerator.external_delegate, accelerator.target
    own = dut.device.delegate_options.get(target, {})
    try:
        launch = trial_launch(
            dut,
            target,
            position=1,
            delegate=library,
            delegate_options={**accelerator.options, **own},
        )
    except (FellBack, ModelRejected):
        return "ok", f"{library} loads for {target}"
    except Crashed as error:
        return "fail", f"{library} crashes its process (built for another runtime?): {error}"
    except AgentError as error:
        return "fail", str(error)
    except HarnessError as error:
        return "fail", f"{library} could not be tried: {error}"
    return "ok", f"{launch.delegation.library or library} loads for {target}"
