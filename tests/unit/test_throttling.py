"""Throttling, under-voltage and heat during a launch: the flags of a run and of a gate."""

from __future__ import annotations

from typing import Any

import pytest
from test_bench import measured
from test_run_loop import PROFILES, cell

from harness.devices import throttling
from harness.measure import pairs
from harness.records import table
from harness.records.store import Store
from harness.records.table import display
from harness.types import Covariates, LaunchOrder, Outcome


@pytest.mark.parametrize(
    ("before", "after", "flags"),
    [
        ({}, {}, ()),
        ({"throttled": 0}, {"throttled": 0}, ()),
        # Since boot, and not during this launch.
        ({"throttled": 0x50000}, {"throttled": 0x50000}, ()),
        ({"throttled": 0}, {"throttled": 0x1}, ("under_voltage",)),
        ({"throttled": 0x50005}, {"throttled": 0x50000}, ("throttled", "under_voltage")),
        # It came and went inside the launch: only the bits since boot say so.
        ({"throttled": 0}, {"throttled": 0x10000}, ("under_voltage",)),
        ({"throttled": 0x10000}, {"throttled": 0x30000}, ("throttled",)),
        ({"throttled": 0x2}, {"throttled": 0x20000}, ("throttled",)),
        ({"throttled": 0}, {"throttled": 0x80008}, ("throttled",)),
        ({"thermal_status": 0}, {"thermal_status": 2}, ("throttled",)),
        ({"cooling": 0}, {"cooling": 0}, ()),
        ({"cooling": 0}, {"cooling": 3}, ("throttled",)),
        ({"max_mhz": 1800.0}, {"max_mhz": 1200.0}, ("throttled",)),
        # The user's own limit.
        ({"max_mhz": 1200.0}, {"max_mhz": 1200.0}, ()),
        ({"max_mhz": 1200.0}, {"max_mhz": 1800.0}, ()),
        ({"frequency_mhz": 1800.0}, {"frequency_mhz": 1500.0}, ("throttled",)),
        ({"frequency_mhz": 1800.0}, {"frequency_mhz": 1790.0}, ()),
        (
            {"frequency_mhz": 1800.0, "seconds_at_mhz": {"600": 9.0, "1500": 1.0, "1800": 5.0}},
            {"frequency_mhz": 1800.0, "seconds_at_mhz": {"600": 9.0, "1500": 1.9, "1800": 5.3}},
            ("throttled",),
        ),
        (
            {"frequency_mhz": 1500.0, "seconds_at_mhz": {"1500": 1.0}},
            {"frequency_mhz": 1500.0, "seconds_at_mhz": {"1500": 1.1, "1800": 0.9}},
            (),
        ),
        ({"temperature_c": 79.0}, {"temperature_c": 80.0}, ("hot",)),
        ({"temperature_c": 79.0}, {"temperature_c": 79.9}, ()),
    ],
)
def test_the_state_before_and_after_gives_the_flags(
    before: dict[str, Any], after: dict[str, Any], flags: tuple[str, ...]
) -> None:
    made = throttling.flags(
        Covariates(**before), Covariates(**after), pinned_mhz=1800.0, hot_celsius=80.0
    )
    assert made == flags


def test_without_a_pinned_frequency_or_a_limit_neither_is_judged() -> None:
    slow, hot = Covariates(frequency_mhz=600.0), Covariates(temperature_c=99.0)
    assert throttling.flags(slow, hot) == ()


def test_the_gate_drops_a_block_for_the_same_states() -> None:
    still = Covariates(throttled=0x40000, cooling=0, max_mhz=1800.0)
    assert pairs.discard_reason([(still, still)] * 2) is None
    for worse in (
        Covariates(throttled=0x40004),
        Covariates(throttled=0x60000),
        Covariates(cooling=2),
        Covariates(max_mhz=1500.0),
        Covariates(thermal_status=1),
    ):
        assert pairs.discard_reason([(still, still), (still, worse)]) is not None
    # On a plateau (soak) the processor is slowed from the start.
    slow = Covariates(cooling=2)
    assert pairs.discard_reason([(slow, slow)] * 2, reference=slow) is None


def test_a_run_flags_its_launches_and_the_row_counts_them() -> None:
    def states(order: LaunchOrder) -> tuple[Covariates, Covariates]:
        bad = order.kind == "timed" and order.block in {1, 3}
        return Covariates(throttled=0), Covariates(throttled=0xD0000 if bad else 0)

    outcomes, _ = measured([cell("a")], covariates=states)
    timed = [one for one in outcomes["a"].launches if one.kind == "timed"]
    assert [one.block for one in timed if "throttled" in one.flags] == [1, 3]
    assert [one.block for one in timed if "under_voltage" in one.flags] == [1, 3]
    assert PROFILES["fake"].thermal.hot_celsius is None


def test_a_row_says_how_many_launches_were_slowed(tmp_path: Any) -> None:
    import synthetic_runs as synthetic

    of = synthetic.cell()
    with Store(tmp_path).create(synthetic.record([of])) as writer:
        launches = []
        for block in range(5):
            flags = ("throttled",) if block < 3 else ()
            made = synthetic.launch(of, synthetic.latencies(of, block), block=block, flags=flags)
            writer.launch(made)
            launches.append(made)
        writer.outcome(Outcome(cell=of, launches=tuple(launches)))
        writer.finish()
    (row,) = table.rows(Store(tmp_path).open("latest"))
    assert row["conditions"] == "throttled (3 of 5 launches)"
    assert "throttled" in row.flags
    legend = display.legend([row])
    assert "throttled (3 of 5 launches)" in legend
    assert "throttled: the processor was slowed down" in legend
