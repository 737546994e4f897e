"""The trial launches of doctor."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

from harness.farm.device_under_test import DeviceUnderTest
from harness.measure.bench import Bench
from harness.measure.sessions import Session
from harness.types import Conditions, Dose, Launch, LaunchOrder

SHORT = Dose(launches=1, min_inferences=1, min_seconds=0.0, warmup_seconds=0.0)
UNCHANGED = Conditions(pin=False, thermal="none")
"""Doctor examines a device without changing its conditions."""

STEADY = Dose(launches=1, min_inferences=10, min_seconds=0.02, warmup_seconds=0.0)


def trial_launch(
    dut: DeviceUnderTest,
    target: str,
    *,
    position: int = 0,
    dose: Dose = SHORT,
    delegate: str | None = None,
    delegate_options: Mapping[str, str] | None = None,
) -> Launch:
    """Launch the small model once on the device; raises the HarnessError of a failed launch.

    The caller needs the checks `agent` and `runtime` and the condition `model`.
    """
    assert dut.transport is not None
    assert dut.dialect is not None
    assert dut.facts is not None
    assert dut.model is not None
    digest = hashlib.sha256(dut.model.read_bytes()).hexdigest()
    session = Session.adopt(dut.device, dut.transport, dut.dialect, dut.facts)
    order = LaunchOrder(
        cell_id="doctor",
        kind="timed",
        block=0,
        position=position,
        variant_digest=digest,
        target=target,
        threads=1,
        dose=dose,
        delegate=delegate,
        delegate_options=delegate_options or {},
    )
    with Bench(session=session, conditions=UNCHANGED) as bench:
        session.bring({digest: dut.model})
        return bench.trial(order)
