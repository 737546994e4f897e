"""Check a device's GPU: run a small model on it and report the adapter."""

from __future__ import annotations

import shlex

from harness.devices.delegation import is_software
from harness.errors import Crashed, FellBack, ModelRejected, Unsupported
from harness.farm import vulkan
from harness.farm.checks import CheckResult, Fix, FixKind, check, fail, ok, skip, warn
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import packages
from harness.farm.trial import trial_launch

_GPU_NODE = "gpu"
_NO_DRIVER = "no Vulkan driver"

DRIVER = FixKind(
    id="gpu-driver",
    does="Install the Vulkan driver of the GPU",
    by_hand="a driver works on its own hardware only",
)
LOADER = FixKind(id="vulkan-loader", does="Install the Vulkan loader")
DRIVER_NEEDS = FixKind(id="driver-library", does="Install the library that the driver needs")
DRIVER_PART = FixKind(
    id="driver-part",
    does="Install the graphics part of the driver",
    by_hand="it comes with the driver, or with the container's runtime",
)
OTHER_DRIVER = FixKind(
    id="other-driver",
    does="Use another version of the GPU's driver",
    by_hand="a driver works on its own hardware only",
)
GPU_RUNTIME = FixKind(
    id="gpu-runtime",
    does="Use a version of ai-edge-litert that supports this GPU",
    by_hand="only a trial on the hardware shows which version supports it",
)
GPU_SETUP = FixKind(
    id="gpu-setup",
    does="Install ai-edge-litert, which runs models on GPUs, into the device's Python",
    by_hand="`setup` does not replace a runtime that works, and only a GPU can test the result",
)


@check(
    needs=("profile:gpu", "model", "runtime"),
    fixes=(DRIVER, LOADER, DRIVER_NEEDS, DRIVER_PART, OTHER_DRIVER, GPU_RUNTIME, GPU_SETUP),
)
def gpu(dut: DeviceUnderTest) -> CheckResult:
    """A model runs on the GPU, and the adapter is not a software renderer.

    If the profile names the GPU as an accelerator, its absence is a failure. Otherwise (a profile of
    many machines) it is a warning if the device shows a GPU, else the check is skipped.
    """
    try:
        made = trial_launch(
            dut,
            "gpu",
            position=2,
            delegate_options=dut.device.delegate_options.get("gpu", {}),
        ).delegation
    except Unsupported as error:
        return _absent(dut, str(error))
    except Crashed as error:
        log = dut.remote_command("dmesg | tail")
        advice = f"install another version of the GPU's driver; {log} may show the cause"
        return fail(str(error), dut.by_hand(OTHER_DRIVER, advice))
    except (FellBack, ModelRejected) as error:
        command = f"edge-harness setup {dut.device.selector} --runtime ai_edge_litert==VERSION"
        advice = f"try another version of the runtime: {command}"
        return fail(str(error), dut.by_hand(GPU_RUNTIME, advice))
    adapter = made.adapter
    label = ", ".join(filter(None, (adapter.name, adapter.type, adapter.driver))) if adapter else ""
    found = f"{label or 'an adapter without a name'}; {made.settings or 'no settings'}"
    if adapter is not None and is_software(adapter):
        found += ": computed on the processor, so its rows have the flag `emulated`"
        driver = _faulty_driver(dut)
        if driver is not None:
            return warn(f"{found}; {driver.why}", _load_fix(dut, driver))
        return warn(found, _driver_fix(dut))
    return ok(found)


def _absent(dut: DeviceUnderTest, found: str) -> CheckResult:
    assert dut.profile is not None
    assert dut.facts is not None
    is_named = any(one.target == "gpu" for one in dut.profile.accelerators)
    is_expected = is_named or _GPU_NODE in dut.facts.accelerators
    driver = _faulty_driver(dut) if _NO_DRIVER in found else None
    if driver is not None:
        # A driver is installed, so "install one" would be wrong.
        found = f"{found.partition('; install')[0]}; {driver.why}"
    if not is_expected:
        return skip(found)
    fix = _absent_fix(dut, found) if driver is None else _load_fix(dut, driver)
    return fail(found, fix) if is_named else warn(found, fix)


def _absent_fix(dut: DeviceUnderTest, found: str) -> Fix:
    if "loader is missing" in found:
        return _package_fix(dut, LOADER, "vulkan loader")
    if "ai-edge-litert" in found:
        pip = f"{shlex.quote(dut.agent.python)} -m pip install ai-edge-litert"
        advice = f"install ai-edge-litert into the Python of the device: {dut.remote_command(pip)}"
        return dut.by_hand(GPU_SETUP, advice)
    return _driver_fix(dut)


def _faulty_driver(dut: DeviceUnderTest) -> vulkan.VulkanDriver | None:
    """Return an installed driver that does not load; None if all do, or if none is installed."""
    drivers = vulkan.list_drivers(dut.commands, dut.device)
    return next((driver for driver in drivers if driver.fault), None)


def _load_fix(dut: DeviceUnderTest, driver: vulkan.VulkanDriver) -> Fix:
    name = driver.lacks
    install = packages.install_library(dut.system, name) if name else None
    if install:
        return dut.as_root(DRIVER_NEEDS, install)
    if driver.is_absent:
        advice = (
            "the driver's graphics part is missing: install it (in a container of NVIDIA's "
            "runtime: NVIDIA_DRIVER_CAPABILITIES=all)"
        )
        return dut.by_hand(DRIVER_PART, advice)
    return (
        dut.by_hand(DRIVER, f"install the package that contains {name}")
        if name
        else _driver_fix(dut)
    )


def _driver_fix(dut: DeviceUnderTest) -> Fix:
    note = " (NVIDIA: the Vulkan part of its own driver) for the device's GPU"
    return _package_fix(dut, DRIVER, "vulkan driver", note)


def _package_fix(dut: DeviceUnderTest, kind: FixKind, what: str, note: str = "") -> Fix:
    install = packages.install(dut.system, what)
    if install:
        return dut.as_root(kind, install, note)
    return dut.by_hand(kind, f"install the {what.replace('vulkan', 'Vulkan')} on the device{note}")
