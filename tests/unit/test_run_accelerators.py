"""The loop with an accelerator asked for: who is told which library, and which launches end a cell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from test_run_loop import DEVICE, Watch, cell
from test_run_loop import variant as plain_variant

from harness.errors import Crashed, HarnessError, ModelRejected
from harness.events import NotMeasured
from harness.measure import run as loop
from harness.measure.sessions import Session
from harness.testing import FakeDialect, FakeTransport
from harness.types import (
    Accelerator,
    Adapter,
    Cell,
    Compiled,
    Delegation,
    LaunchOrder,
    Outcome,
    Profile,
    Variant,
)

NPU = Accelerator(
    name="an NPU",
    target="npu",
    external_delegate="/usr/lib/libvx_delegate.so",
    options={"cache": "on", "device": "0"},
)
PROFILE = Profile(
    name="fake", title="a fake", arch="fake", targets=("xnnpack", "npu", "gpu"), accelerators=(NPU,)
)
FULL = Delegation(delegate="npu", delegated_ops=9, total_ops=9, evidence="graph walk")


def variant(name: str, **changes: Any) -> Variant:
    return replace(plain_variant(name), **changes)


def measure(
    asked: Cell,
    told: Delegation,
    faults: dict[str, list[HarnessError]] | None = None,
    **device: object,
) -> tuple[Outcome, Watch, list[LaunchOrder]]:
    orders: list[LaunchOrder] = []

    known = replace(DEVICE, **device)  # type: ignore[arg-type]
    dialect = FakeDialect.opener(delegation=told, orders=orders, faults=faults)
    session = Session(known, transport=FakeTransport, dialect=dialect)
    watch = Watch()
    (outcome,) = loop.run([asked], {"d": session}, watch, profiles={"fake": PROFILE})
    return outcome, watch, orders


def test_the_library_is_the_profiles_and_its_options_the_farms_over_them() -> None:
    own = {"npu": {"device": "1"}, "edgetpu": {"device": "usb:1"}}
    outcome, _, orders = measure(cell("m", target="npu"), FULL, delegate_options=own)
    assert outcome.failure is None
    asked = [order for order in orders if order.target == "npu"]
    assert {order.kind for order in asked} == {"timed", "memory", "bare"}
    assert {order.delegate for order in asked} == {"/usr/lib/libvx_delegate.so"}
    assert asked[0].delegate_options == {"cache": "on", "device": "1"}


def test_the_cpu_is_told_of_no_library() -> None:
    _, _, orders = measure(cell("m"), replace(FULL, delegate="xnnpack"))
    assert {(order.delegate, len(order.delegate_options)) for order in orders} == {(None, 0)}


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        (replace(FULL, delegated_ops=0), "fell_back"),
        (replace(FULL, delegate="none"), "fell_back"),
        (replace(FULL, evidence=""), "invalid"),
        (replace(FULL, fully=False), "invalid"),
        (replace(FULL, clock="run"), "invalid"),
    ],
)
def test_the_first_launch_that_is_not_the_accelerators_ends_the_cell(
    told: Delegation, kind: str
) -> None:
    outcome, watch, _ = measure(cell("m", target="npu"), told)
    assert outcome.failure is not None
    assert outcome.failure.kind == kind
    # It is stored as evidence, and no more of its kind are made.
    assert [one.kind for one in watch.launches].count("timed") == 0


def test_an_accelerators_file_is_timed_on_the_cpu_once() -> None:
    _, watch, orders = measure(cell("m", target="npu"), FULL)
    (beside,) = [order for order in orders if order.target == "xnnpack"]
    assert (beside.kind, beside.delegate) == ("cpu", None)
    assert [one.kind for one in watch.launches].count("cpu") == 1
    # A compiled file has nothing to run there, and a CPU that refuses the file ends nothing.
    compiled = variant("m", operators={"edgetpu-custom-op": 1})
    _, _, orders = measure(cell("m", target="npu", variant=compiled), FULL)
    assert all(order.kind != "cpu" for order in orders)
    asked = cell("m", target="npu")
    for error in (ModelRejected("no such operator"), Crashed("SIGSEGV")):
        outcome, watch, _ = measure(asked, FULL, faults={f"{asked.id}-cpu-0-0": [error]})
        assert outcome.failure is None
        (told,) = [
            one for one in watch.events if isinstance(one, NotMeasured) and one.what == "cpu"
        ]
        assert told.reason == str(error)


def test_a_crash_names_the_library_that_was_in_the_process() -> None:
    asked = cell("m", target="npu")
    faults = {f"{asked.id}-memory-0-0": [Crashed("the launch was killed by SIGSEGV")]}
    outcome, _, _ = measure(asked, FULL, faults=faults)
    assert outcome.failure is not None
    assert "libvx_delegate.so: a delegate that was built for" in outcome.failure.reason


def test_delegated_in_part_is_measured_to_the_end() -> None:
    outcome, watch, _ = measure(
        cell("m", target="npu"), replace(FULL, delegated_ops=8, left=("SOFTMAX",))
    )
    assert outcome.failure is None
    assert [one.kind for one in watch.launches].count("timed") == 4


def test_a_log_that_contradicts_its_file_is_no_number() -> None:
    lie = Compiled(compiler="c", mapped_ops=9, total_ops=9, contradiction="the file has 2 left")
    outcome, _, _ = measure(cell("m", target="npu", variant=variant("m", compiled=lie)), FULL)
    assert outcome.failure is not None
    assert outcome.failure.kind == "invalid"
    assert "the file has 2 left" in outcome.failure.reason


def test_a_software_adapter_is_flagged_emulated() -> None:
    swift = Adapter(name="SwiftShader Device (Subzero)", type="CPU / Software", driver="Vulkan")
    for adapter, flagged in ((swift, True), (Adapter(name="Mali-G76"), False), (None, False)):
        told = Delegation(
            delegate="gpu",
            fully=True,
            clock="run+read",
            evidence="is_fully_accelerated",
            adapter=adapter,
        )
        _, watch, _ = measure(cell("m", target="gpu"), told)
        assert all(("emulated" in one.flags) == flagged for one in watch.launches)
