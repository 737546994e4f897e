"""The gate with fakes at the seams: its launches, its verdicts, and the result of each failure."""

import itertools
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from test_run_loop import leaving

from harness.analysis.gate import judging, loop, stopping, verdicts
from harness.analysis.gate.contest import CONFIRMING, Contest, Evidence, Rules, Side
from harness.analysis.gate.document import GateRow, Result, explained
from harness.analysis.gate.findings import Comparison, Key
from harness.analysis.gate.noise import DeviceNoise
from harness.demo import DATA
from harness.errors import Crashed, HarnessError, TransferFailed, Unreachable
from harness.events import DeviceEvent, Event, LaunchEnded, LaunchStarted
from harness.measure.conditions import WaitClock
from harness.measure.leases import Patience
from harness.measure.pairs import Pair
from harness.measure.sessions import Session
from harness.measure.soaking import SOAKING
from harness.optimize import reference
from harness.testing import FakeDialect, FakeTransport
from harness.tflite import flatbuffer
from harness.types import (
    DEFAULT_CONDITIONS,
    Accept,
    Cell,
    Conditions,
    Covariates,
    Delegation,
    Device,
    DeviceFacts,
    Dose,
    Failure,
    Launch,
    LaunchOrder,
    Profile,
    ThermalPolicy,
    Uncompiled,
    Variant,
)

DEVICE = Device(name="d", profile="fake", address="fake:")
PROFILE = Profile(
    name="fake",
    title="a fake",
    arch="fake",
    xnnpack=False,
    targets=("xnnpack", "edgetpu"),
    thermal=ThermalPolicy(gate=False),
)
A, B = "a" * 64, "b" * 64
LATENCY = Rules(metrics=("latency",))


class Watch:
    def __init__(self) -> None:
        self.launches: list[Launch] = []
        self.orders: list[LaunchOrder] = []
        self.events: list[Event] = []
        self.evidence: list[Evidence] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, LaunchStarted):
            self.orders.append(event.order)
        elif isinstance(event, LaunchEnded):
            self.launches.append(event.launch)
        elif isinstance(event, DeviceEvent):
            self.events.append(event)
        elif isinstance(event, loop.ContestEnded):
            self.evidence.append(event.evidence)


def side(name: str, digest: str, model: str, device: str, size: int = 1000) -> Side:
    variant: Variant = Variant(
        model=model,
        recipe="r",
        target="xnnpack",
        path=Path("x"),
        digest=digest,
        size_bytes=size,
    )
    return Side(
        cell=Cell(
            model=model,
            recipe=f"{name}:r",
            target="xnnpack",
            device=device,
            threads=1,
            variant=variant,
            dose=Dose(min_inferences=9),
        )
    )


def contest(model: str = "m", device: str = "d", b_size: int = 1000) -> Contest:
    return Contest(
        key=Key(model=model, device=device, recipe="r"),
        a=side("baseline", A, model, device),
        b=side("candidate", B, model, device, b_size),
    )


def session(device: Device = DEVICE, **answers: Any) -> Session:
    return Session(device, transport=FakeTransport, dialect=FakeDialect.opener(**answers))


def hold(
    contests: list[Contest] | None = None,
    *,
    rules: Rules = LATENCY,
    sessions: Mapping[str, Session | HarnessError] | None = None,
    noise: float | None = None,
    clock: Any = None,
    noise_of_launches: float = 0.0,
    conditions: Conditions = DEFAULT_CONDITIONS,
    **answers: Any,
) -> tuple[Result, Watch]:
    watch = Watch()
    context = loop.GateContext(
        sessions=sessions or {"d": session(noise=noise_of_launches, **answers)},
        emit=watch,
        profiles={"fake": PROFILE},
        rules=rules,
        conditions=conditions,
        **({} if clock is None else {"timing": WaitClock(clock=clock)}),
    )
    result = judging.gate(
        context,
        contests or [contest()],
        Result(baseline="a", candidate="b"),
        noise=lambda _: None if noise is None else DeviceNoise(half_width=noise),
    )
    context.close()
    return result, watch


def timed(watch: Watch) -> list[Launch]:
    return [launch for launch in watch.launches if launch.kind == "timed"]


def only(result: Result) -> Any:
    (row,) = result.judged
    return row


SLOWER = {A: 1e6, B: 1.1e6}
SAME = {A: 1e6, B: 1e6}


def test_blocks_hold_one_launch_of_each_side_in_mirrored_order() -> None:
    _, watch = hold(latencies=SAME)
    order = [launch.cell_id for launch in timed(watch)]
    assert len(order) == 12
    assert all(len({*order[at : at + 2]}) == 2 for at in range(0, 12, 2))
    assert all(order[at + 2 : at + 4] == order[at : at + 2][::-1] for at in range(0, 12, 4))


def test_a_slower_candidate_is_confirmed_by_fresh_pairs_and_fails_the_build() -> None:
    result, watch = hold(latencies=SLOWER)
    row = only(result)
    assert (row.verdict, row.confirmed, result.exit_code) == ("REGRESSION", True, 1)
    assert row.ratio.estimate == pytest.approx(1.1)
    assert len([launch for launch in timed(watch) if launch.block >= CONFIRMING]) == 20
    assert len(watch.evidence) == 2, "the contest ends twice: first, and with fresh pairs"
    assert loop.ContestEnded(evidence=watch.evidence[0]).plain() == {
        "event": "contest",
        "model": "m",
        "device": "d",
        "threads": 1,
        "recipe": "r",
    }
    assert row.fresh.pairs == 10


@pytest.mark.parametrize(("fresh", "verdict"), [(7, "INCONCLUSIVE"), (20, "REGRESSION")])
def test_a_gate_that_is_stopped_while_it_confirms_says_why(fresh: int, verdict: str) -> None:
    _, watch = hold(latencies=SLOWER)
    so_far = stopping.EvidenceSoFar.of([contest()], {})
    so_far.add(loop.ContestEnded(evidence=watch.evidence[0]))
    for launch in [one for one in timed(watch) if one.block >= CONFIRMING][:fresh]:
        so_far.add(LaunchEnded(launch=launch))
    result = stopping.judged(
        so_far,
        Result(baseline="a", candidate="b"),
        KeyboardInterrupt("stopped by SIGHUP"),
        rules=LATENCY,
        accuracies={},
        noise=lambda _: None,
        resumption=None,
    )
    assert only(result).verdict == verdict
    why = "only 3 of 10 fresh pairs were measured: the gate ended early (stopped by SIGHUP)"
    assert only(result).reason.endswith(f"but not confirmed: {why}") is (fresh < 20)


@pytest.mark.parametrize(("stretch", "seconds"), [(True, 3.0), (False, 0.15)])
def test_launches_of_slow_inferences_last_longer_confirmation_included(
    stretch: bool, seconds: float
) -> None:
    slow = {A: 4e6, B: 4.4e6}
    result, watch = hold([replace(contest(), stretch=stretch)], latencies=slow)
    assert result.exit_code == 1
    orders = [order for order in watch.orders if order.kind == "timed" and order.block >= 0]
    assert {order.dose.min_seconds for order in orders} == {seconds}
    assert any(order.block >= CONFIRMING for order in orders)


def test_a_model_beside_itself_is_equivalent_with_zero_variance() -> None:
    result, _ = hold(latencies=SAME)
    assert (only(result).verdict, result.exit_code) == ("EQUIVALENT", 0)
    assert "constant" in only(result).labels


def test_a_faster_candidate_is_improved() -> None:
    result, _ = hold(latencies={A: 1.1e6, B: 1e6})
    assert (only(result).verdict, result.exit_code) == ("IMPROVED", 0)


def test_noise_needs_more_pairs_and_a_narrow_interval_ends_the_contest() -> None:
    calm, _ = hold(latencies=SAME, noise_of_launches=0.002)
    rough, _ = hold(latencies=SAME, noise_of_launches=0.3)
    assert only(calm).pairs == 6
    assert only(rough).pairs == 20
    assert only(rough).verdict == "INCONCLUSIVE"
    assert only(rough).pairs_needed > 20


def test_unchanged_models_under_noise_and_drift_are_never_red() -> None:
    def noisy(name: str) -> Session:
        device = Device(name=name, profile="fake", address="fake:")

        def open_fake(transport: Any, device: Device) -> FakeDialect:
            return FakeDialect(device, latencies=SAME, noise=0.04, drift=0.0005)

        return Session(device, transport=FakeTransport, dialect=open_fake)

    names = [f"d{index}" for index in range(40)]
    result, _ = hold(
        [contest(name, name) for name in names], sessions={name: noisy(name) for name in names}
    )
    assert len(result.judged) == 40
    assert result.exit_code in (0, 2)


def test_every_metric_has_a_row_and_only_those_of_the_rules_are_judged() -> None:
    rules = Rules(metrics=("size", "memory"))
    result, watch = hold([contest(b_size=1200)], rules=rules, latencies=SLOWER)
    assert {one.row.metric for one in result.shown if one.is_judged} == {"size", "memory"}
    shown = {one.row.metric: one for one in result.shown}
    assert shown["latency"].judged.ratio
    assert "gate.metrics" in shown["latency"].judged.reason
    assert result.exit_code == 1  # 20 % larger
    assert len([launch for launch in watch.launches if launch.kind == "memory"]) == 12


@pytest.mark.parametrize("peaks", [[46616576] * 6, [46616575, 46616577, 46600001]])
def test_bytes_are_whole_numbers_in_a_document(peaks: list[int]) -> None:
    row = Comparison(
        key=contest().key,
        metric="memory",
        pairs=tuple(Pair(block=n, a=one, b=one + 4096) for n, one in enumerate(peaks)),
    )
    judged = verdicts.judge([row])[0]
    shown = GateRow(row=row, judged=judged, is_judged=True)
    (plain,) = Result(baseline="a", candidate="b", shown=(shown,)).plain()["rows"]
    assert all(isinstance(plain[side], int) for side in "ab")
    assert min(peaks) <= plain["a"] <= max(peaks)
    assert plain["a"] < plain["b"]


def test_a_device_lost_half_way_keeps_its_evidence_and_is_inconclusive() -> None:
    one = contest()
    gone: list[HarnessError] = [Unreachable("gone")]
    faults = {
        f"{side.cell.id}-timed-4-{place}": list(gone)
        for side, place in itertools.product((one.a, one.b), (0, 1))
    }
    live = {"d": leaving(DEVICE, latencies=SLOWER, faults=faults)}
    result, watch = hold([one, contest("next")], sessions=live)
    first, second = result.judged
    assert (first.verdict, first.pairs, result.exit_code) == ("INCONCLUSIVE", 4, 2)
    assert "lost after block 3" in first.reason
    assert "lost" in second.reason
    assert len(timed(watch)) == 8


def test_an_agent_that_stays_unreachable_after_a_crash_is_a_lost_device() -> None:
    class Dying(FakeDialect):
        def hello(self) -> DeviceFacts:
            if self.orders and self.orders[-1].kind == "timed":
                raise Unreachable("gone")
            return super().hello()

    one = contest()
    crash: dict[str, list[HarnessError]] = {
        f"{side.cell.id}-timed-2-{place}": [Crashed("SIGSEGV")]
        for side, place in itertools.product((one.a, one.b), (0, 1))
    }
    dialect = Dying.opener(latencies=SLOWER, faults=crash, orders=[])
    patience = Patience(away_seconds=0.1)
    live = Session(DEVICE, transport=FakeTransport, dialect=dialect, patience=patience)
    result, watch = hold([one, contest("next")], sessions={"d": live})
    assert [evidence.failure.kind for evidence in watch.evidence if evidence.failure] == ["crashed"]
    (second,) = result.judged
    assert "lost" in second.reason


def test_a_device_lost_while_confirming_leaves_the_regression_unconfirmed() -> None:
    one = contest()
    gone: list[HarnessError] = [Unreachable("gone")]
    faults = {
        f"{side.cell.id}-timed-{CONFIRMING + 3}-{place}": list(gone)
        for side, place in itertools.product((one.a, one.b), (0, 1))
    }
    live = {"d": leaving(DEVICE, latencies=SLOWER, faults=faults)}
    result, _ = hold([one], sessions=live)
    assert (only(result).verdict, result.exit_code) == ("INCONCLUSIVE", 2)
    assert "unconfirmed" in only(result).labels


def test_a_link_that_comes_back_costs_nothing() -> None:
    one = contest()
    faults: dict[str, list[HarnessError]] = {
        f"{one.b.cell.id}-timed-2-{place}": [Unreachable("link down")] for place in (0, 1)
    }
    result, watch = hold([one], latencies=SAME, faults=faults)
    assert only(result).verdict == "EQUIVALENT"
    assert [event.name for event in watch.events] == ["reconnecting", "reconnected"]


def test_a_candidate_missing_on_the_device_is_sent_again() -> None:
    one = contest()
    faults: dict[str, list[HarnessError]] = {
        f"{one.b.cell.id}-timed-0-{place}": [TransferFailed("the file is not on this device")]
        for place in (0, 1)
    }
    result, _ = hold([one], latencies=SAME, faults=faults)
    assert result.exit_code == 0


def test_an_absent_device_gives_exit_4_and_the_others_are_judged() -> None:
    result, _ = hold(
        [contest(), contest("m", "away")],
        sessions={"d": session(latencies=SAME), "away": Unreachable("connection refused")},
    )
    assert result.exit_code == 4
    assert dict(result.away) == {"away": "connection refused"}
    assert len(result.judged) == 1


def test_a_candidate_that_crashes_is_no_verdict_and_exit_3() -> None:
    one = contest()
    faults: dict[str, list[HarnessError]] = {
        f"{one.b.cell.id}-timed-1-{place}": [Crashed("SIGSEGV")] for place in (0, 1)
    }
    result, _ = hold([one, contest("fine")], latencies=SAME, faults=faults)
    assert result.exit_code == 3
    assert result.failed[0][1:] == ("crashed", "SIGSEGV")
    assert [row.key.model for row in result.judged] == ["fine"]
    assert any("SIGSEGV" in line for line in explained(result))


def test_a_side_that_was_not_built_is_a_failure_of_its_contest() -> None:
    one = contest()
    failure = Failure(kind="not_built", reason="no calibration data")
    broken = Contest(
        key=one.key,
        a=one.a,
        b=Side(cell=Cell(**{**_fields(one.b.cell), "variant": failure})),
    )
    assert broken.failure == failure


def _fields(cell: Cell) -> dict[str, Any]:
    return {name: getattr(cell, name) for name in cell.__dataclass_fields__}


def test_a_device_that_throttles_in_every_block_is_inconclusive_and_stops_early() -> None:
    def throttled(order: LaunchOrder) -> tuple[Covariates, Covariates]:
        started = order.block >= 0 and order.kind == "timed"
        return Covariates(throttled=0), Covariates(throttled=4 if started else 0)

    result, watch = hold(latencies=SLOWER, covariates=throttled)
    assert (only(result).verdict, result.exit_code) == ("INCONCLUSIVE", 2)
    assert "throttled" in only(result).reason
    assert len(timed(watch)) == 10


def test_one_pair_only_is_inconclusive() -> None:
    result, _ = hold(rules=Rules(metrics=("latency",), max_pairs=1), latencies=SLOWER)
    assert (only(result).verdict, only(result).pairs) == ("INCONCLUSIVE", 1)
    assert "only 1 of at least 6 pairs" in only(result).reason


@pytest.mark.parametrize("value", [float("nan"), -5.0, 0.0])
def test_an_invalid_time_is_named(value: float) -> None:
    """A clock that steps backwards gives negative times; a damaged record has NaN."""
    result, _ = hold(latencies={A: 1e6, B: value})
    assert (only(result).verdict, result.exit_code) == ("INCONCLUSIVE", 2)
    assert "B is" in only(result).reason


def test_a_budget_that_is_over_before_six_pairs_is_inconclusive() -> None:
    ticks = itertools.count(step=100)
    result, _ = hold(latencies=SLOWER, clock=lambda: float(next(ticks)))
    assert only(result).verdict == "INCONCLUSIVE"
    assert "budget of 300 s" in only(result).reason


def test_a_device_too_noisy_by_its_selftest_is_refused_with_its_half_width() -> None:
    result, _ = hold(latencies=SLOWER, noise=0.051)
    assert only(result).verdict == "INCONCLUSIVE"
    assert "5.1%" in only(result).reason
    assert result.plain()["rows"][0]["device_half_width"] == 0.051


def test_a_shared_host_is_judged_by_the_same_quantile_on_both_sides() -> None:
    result, _ = hold(latencies=SAME, cpu_share=0.6)
    assert result.plain()["rows"][0]["quantile"] == 0.25


@pytest.mark.parametrize(("summary", "quantile"), [("mean", None), ("median", 0.5)])
def test_a_device_with_one_value_per_launch_is_gated_and_the_row_names_the_summary(
    summary: str, quantile: float | None
) -> None:
    result, _ = hold(latencies=SLOWER, summary=lambda _: summary)
    assert only(result).verdict == "REGRESSION"
    (row,) = [row for row in result.plain()["rows"] if row["judged"]]
    assert row["quantile"] == quantile
    assert f"summary_{summary}" in row["labels"]


def test_different_summaries_are_not_compared() -> None:
    result, _ = hold(
        latencies=SLOWER, summary=lambda order: "mean" if order.variant_digest == B else None
    )
    assert only(result).verdict == "INCONCLUSIVE"
    assert "in different ways: every inference, mean" in only(result).reason


def test_launches_are_pinned_to_the_fastest_processors_if_there_is_a_choice() -> None:
    orders: list[LaunchOrder] = []
    hold(latencies=SAME, orders=orders, facts={"processors": (3, 1, 0)})
    assert {order.processors for order in orders if order.kind == "timed"} == {(3,)}
    alone: list[LaunchOrder] = []
    hold(latencies=SAME, orders=alone, facts={"processors": (0,)})
    assert {order.processors for order in alone} == {()}


def test_a_soak_heats_to_a_plateau_and_labels_the_verdict() -> None:
    ticks = itertools.count(step=0.5)
    rules = Rules(metrics=("latency",), budget_seconds=1e6)
    orders: list[LaunchOrder] = []
    result, watch = hold(
        rules=rules,
        conditions=Conditions(thermal="soak"),
        latencies=SAME,
        orders=orders,
        clock=lambda: float(next(ticks)),
    )
    assert "hot" in only(result).labels
    assert len([order for order in orders if order.block == SOAKING]) > 8
    assert all(launch.block >= 0 for launch in watch.launches)


@pytest.mark.parametrize(
    ("delegation", "min_delegated", "failure"),
    [
        (Delegation(delegate="none", delegated_ops=0, total_ops=9), None, "fell_back"),
        (
            Delegation(delegate="tpu", delegated_ops=6, total_ops=9, evidence="graph walk"),
            None,
            "partial",
        ),
        (
            Delegation(delegate="tpu", delegated_ops=6, total_ops=9, evidence="graph walk"),
            0.6,
            None,
        ),
        (
            Delegation(delegate="tpu", delegated_ops=9, total_ops=9, evidence="graph walk"),
            None,
            None,
        ),
    ],
)
def test_a_model_that_did_not_run_on_its_accelerator_is_not_judged(
    delegation: Delegation, min_delegated: float | None, failure: str | None
) -> None:
    one = contest()
    moved = [
        Side(cell=replace(s.cell, target="edgetpu", accept=Accept(min_delegated=min_delegated)))
        for s in (one.a, one.b)
    ]
    result, _ = hold([replace(one, a=moved[0], b=moved[1])], latencies=SAME, delegation=delegation)
    assert [kind for _, kind, _ in result.failed] == ([failure] if failure else [])
    assert result.exit_code == (3 if failure else 0)


def test_the_document_is_plain_data_with_reasons() -> None:
    result, _ = hold(latencies=SLOWER)
    document = result.plain()
    (row,) = [row for row in document["rows"] if row["judged"]]
    assert row["verdict"] == document["verdict"] == "REGRESSION"
    assert row["ratio"] == pytest.approx(row["b"] / row["a"])
    assert row["fresh"]["pairs"] == 10
    assert "exit 1" in result.summary()
    assert any("confirmed by fresh pairs" in line for line in explained(result))


def test_outputs_of_compiled_files_are_compared_as_in_a_run(tmp_path: Path) -> None:
    facts = flatbuffer.read(DATA / "digits.tflite")
    taken = {tensor.name: np.zeros((3, *tensor.shape[1:]), "float32") for tensor in facts.inputs}
    np.savez(tmp_path / "inputs.npz", **taken)
    right = reference.host_outputs(DATA / "digits.tflite", taken)
    wrong = {name: array[:, ::-1] for name, array in right.items()}
    one = contest()
    compiled = [
        replace(
            side,
            cell=replace(
                side.cell,
                check_inputs=str(tmp_path / "inputs.npz"),
                variant=replace(
                    side.variant,
                    operators={"edgetpu-custom-op": 1},
                    inputs=facts.inputs,
                    outputs=facts.outputs,
                    uncompiled=Uncompiled(path=DATA / "digits.tflite", digest=facts.digest),
                ),
            ),
        )
        for side in (one.a, one.b)
    ]
    checked = replace(one, a=compiled[0], b=compiled[1])
    rules = replace(LATENCY, include_suspect=True)
    for outputs, differ in ((right, False), (wrong, True)):
        result, watch = hold([checked], rules=rules, latencies=SAME, outputs=outputs)
        assert len(watch.evidence[0].agreements) == 2
        assert ("outputs_differ" in only(result).labels) == differ
    result, watch = hold([checked], latencies=SAME, outputs=wrong)
    assert result.exit_code == 3
    ((_, kind, reason),) = result.failed
    assert kind == "suspect"
    assert "outputs differ from the host's on the file it was compiled from" in reason
    assert reason.endswith("--include-suspect includes it")
    assert timed(watch) == []


class Buggy(FakeDialect):
    """A plug-in with a bug that shows at the third block."""

    def launch(self, order: LaunchOrder) -> Launch:
        if order.kind == "timed" and order.block == 2:
            raise IndexError
        return super().launch(order)


def test_a_bug_in_one_plug_in_ends_its_own_contests_only() -> None:
    live = Session(
        Device(name="bad", profile="fake", address="fake:"),
        transport=FakeTransport,
        dialect=Buggy.opener(latencies=SAME),
    )
    result, _ = hold(
        [contest("m", "bad"), contest("n", "bad"), contest()],
        sessions={"bad": live, "d": session(latencies=SAME)},
    )
    assert [row.key.device for row in result.judged] == ["d"]
    assert {key.model for key, _, _ in result.failed} == {"m", "n"}
    for _, kind, reason in result.failed:
        assert kind == "failed"
        assert reason.startswith("IndexError, raised at test_gate_loop.py:")
    assert result.exit_code == 3
