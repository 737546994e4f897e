"""`doctor`: the checks of a device, composed and run.

They are of four kinds: of the transport, of the platform, of the agent and its runtime, and of the
accelerators and sensors that the profile names. Each says what it needs; what cannot be asked
because something before it failed is `skip`, never `ok`, and names what it waits for.
"""

from __future__ import annotations

from pathlib import Path

from harness.farm import (
    checks,
    checks_accelerators,
    checks_agent,
    checks_gpu,
    checks_runtime,
    checks_transport,
)
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
CHECKS: tuple[Check, ...] = checks.ordered(
    (
        *TRANSPORT,
        linux.system,
        checks_transport.files,
        checks_agent.python,
        *PLATFORM,
        *AGENT,
        *ACCELERATORS,
        *CONDITIONS,
    )
)
"""In the order in which they are made and shown."""


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
    """Make every check of a device, in the order in which they depend on each other.

    `model` is a small .tflite file for the checks that make a launch; without it they are skipped.
    `farm` is the file of the device's entry; commands that are printed name it if `is_farm_named`,
    which says that the command line did.
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
        return checks.run(CHECKS, dut)
    finally:
        if dut.dialect is not None:
            dut.dialect.close()
        if dut.transport is not None:
            dut.transport.close()
