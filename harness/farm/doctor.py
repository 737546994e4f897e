"""List the checks of `doctor` and run them on a device.

Checks concern the transport, the platform, the agent and its runtime, the accelerators of the
profile, and the conditions of a measurement. If a check needs another one that failed, its status is
`skip`, never `ok`, and it names the failed check.
"""

from __future__ import annotations

from pathlib import Path

from harness import assets
from harness.config import profiles as known_profiles
from harness.devices import opening
from harness.farm import (
    checks,
    checks_accelerators,
    checks_agent,
    checks_gpu,
    checks_runtime,
    checks_transport,
)
from harness.farm.android import checks as android
from harness.farm.checks import Check, CheckResult
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import checks as linux
from harness.protocols import OpenDialect, OpenTransport
from harness.types import Device, Profile

TRANSPORT: tuple[Check, ...] = (
    checks_transport.reachable,
    checks_transport.host_key,
    checks_transport.commands,
    checks_transport.round_trip,
)
PLATFORM: tuple[Check, ...] = (
    linux.disk,
    linux.read_only,
    linux.noexec,
    linux.swap,
    linux.processors,
)
AGENT: tuple[Check, ...] = (
    checks_agent.agent,
    checks_runtime.libc,
    checks_runtime.runtime,
    checks_runtime.numpy,
    checks_runtime.xnnpack,
)
ACCELERATORS: tuple[Check, ...] = (
    linux.usb,
    linux.device_nodes,
    checks_accelerators.delegates,
    checks_accelerators.compiler,
    checks_gpu.gpu,
)
CONDITIONS: tuple[Check, ...] = (
    linux.clock,
    linux.governor,
    linux.under_voltage,
    linux.throttled,
    linux.temperature,
    linux.load,
)
PHONE: tuple[Check, ...] = (
    android.api_level,
    android.abi,
    android.storage,
    android.runs_programs,
    android.heat,
    android.charge,
)
CHECKS: tuple[Check, ...] = checks.ordered(
    (
        *TRANSPORT,
        android.adb,
        linux.system,
        checks_transport.files,
        *PHONE,
        checks_agent.python,
        *PLATFORM,
        *AGENT,
        *ACCELERATORS,
        *CONDITIONS,
    )
)
"""All checks, in the order in which they run and are shown; those of phones only for phones."""


def examine(
    device: Device,
    open_transport: OpenTransport,
    open_dialect: OpenDialect,
    profile: Profile | None = None,
    model: Path | None = None,
    *,
    farm: Path | None = None,
    is_farm_named: bool = False,
) -> list[CheckResult]:
    """Run every check on a device, in order of need.

    `model` is a small .tflite file for trial launches; without it the checks that need one are
    skipped. `farm` is the file with the device's entry. Printed commands name it if
    `is_farm_named`: the user named it on the command line.
    """
    dut = DeviceUnderTest(
        device=device,
        profile=profile,
        model=model,
        farm=farm,
        is_farm_named=is_farm_named,
        open_transport=open_transport,
        open_dialect=open_dialect,
    )
    try:
        phone = dut.is_phone
        return checks.run([one for one in CHECKS if phone or "phone" not in one.needs], dut)
    finally:
        if dut.dialect is not None:
            dut.dialect.close()
        if dut.transport is not None:
            dut.transport.close()


def examine_entry(device: Device, farm: Path | None, *, is_farm_named: bool) -> list[CheckResult]:
    """Run every check on a device of a farm, with its profile and the embedded model."""
    profile = known_profiles.load_all().get(device.profile)
    return examine(
        device,
        opening.open_transport,
        lambda transport, device: opening.open_dialect(transport, device, profile),
        profile,
        model=assets.EMBEDDED_MODEL,
        farm=farm,
        is_farm_named=is_farm_named,
    )
