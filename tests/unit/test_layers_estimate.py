"""Times from truncated graphs, on a simulated device with given costs per operator."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from harness.analysis.layers import Layers, OperatorTime, Subject, alignment, estimate
from harness.analysis.layers.operators import NEGATIVE, SEVERAL, WITHIN_NOISE
from harness.errors import HarnessError, ModelRejected, Unreachable
from harness.events import Emit, Event, LaunchStarted, MeasuringStarted, ignore
from harness.measure.leases import Patience
from harness.measure.sessions import Session
from harness.protocols import Transport
from harness.testing import FakeDialect, FakeTransport
from harness.tflite import flatbuffer
from harness.types import Delegation, Device, Launch, LaunchOrder, Push

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "harness" / "demo" / "data" / "digits.tflite"
DEVICE = Device(name="d", profile="fake", address="fake:")
COST_NS = 100_000.0
OPERATORS = 9


class Simulated(FakeDialect):
    """A device on which a file takes the sum of its operators' costs."""

    def __init__(
        self,
        device: Device,
        *,
        costs: Sequence[float] = (COST_NS,) * OPERATORS,
        whole_ns: float | None = None,
        refused: Mapping[int, HarnessError] | None = None,
        jitter: Sequence[float] = (0.0,),
        orders: list[LaunchOrder] | None = None,
    ) -> None:
        super().__init__(device, orders=orders)
        self.costs, self.whole_ns = costs, whole_ns
        self.refused, self.jitter = refused or {}, jitter
        self.lengths: dict[str, int] = {}
        self.original = hashlib.sha256(DIGITS.read_bytes()).hexdigest()

    def deploy(self, files: Mapping[str, Path]) -> tuple[Push, ...]:
        for digest, path in files.items():
            assert hashlib.sha256(path.read_bytes()).hexdigest() == digest
            self.lengths[digest] = sum(flatbuffer.read(path).operators.values())
        return ()

    def launch(self, order: LaunchOrder) -> Launch:
        length = self.lengths[order.variant_digest]
        if length in self.refused and order.variant_digest != self.original:
            raise self.refused[length]
        launch = super().launch(order)
        ns = sum(self.costs[:length]) + self.jitter[(order.block + length) % len(self.jitter)]
        if order.variant_digest == self.original and self.whole_ns is not None:
            ns = self.whole_ns
        part = launch.samples[0]
        return replace(
            launch,
            delegation=Delegation(delegate="fake", delegated_ops=min(length, 8), total_ops=length),
            samples=(replace(part, value=array("d", [ns] * len(part))),),
        )


def measured(
    tmp_path: Path,
    *,
    at_most: int = 64,
    launches: int = 4,
    emit: Emit = ignore,
    **device: object,
) -> Layers:
    subject = Subject(
        run="r",
        model="digits",
        recipe="float32",
        target="xnnpack",
        device="d",
        threads=1,
        path=DIGITS,
        digest=hashlib.sha256(DIGITS.read_bytes()).hexdigest(),
        stored_p50_ns=COST_NS * OPERATORS,
    )

    def open_simulated(transport: Transport, opened: Device) -> Simulated:
        return Simulated(opened, **device)  # type: ignore[arg-type]

    session = Session(DEVICE, transport=FakeTransport, dialect=open_simulated)
    (found,) = estimate.measure(
        [subject], session, tmp_path, launches=launches, at_most=at_most, emit=emit
    )
    return found


def test_an_operator_is_the_difference_of_neighbouring_prefixes(tmp_path: Path) -> None:
    costs = [COST_NS * (1 + position) for position in range(OPERATORS)]

    found = measured(tmp_path, costs=costs)

    assert [one.ns for one in found.operators] == pytest.approx(costs)
    assert [one.first for one in found.operators] == list(range(OPERATORS))
    assert found.operators[0].type == "CONV_2D"
    assert found.sum_ns == pytest.approx(found.whole_ns)
    assert found.estimate
    assert not any("off the whole" in remark for remark in found.remarks())
    assert all(one.half_width_ns == 0 for one in found.operators)


def test_every_file_has_its_own_launches_in_mirrored_blocks(tmp_path: Path) -> None:
    orders: list[LaunchOrder] = []

    measured(tmp_path, orders=orders, at_most=3)

    timed = [order for order in orders if order.block >= 0]
    blocks = [[o.cell_id for o in timed if o.block == block] for block in range(4)]
    assert len(timed) == 4 * (3 + 1)
    assert blocks[1] == blocks[0][::-1]
    assert blocks[3] == blocks[2][::-1]
    assert {order.kind for order in orders} == {"timed"}


def test_the_number_of_launches_and_each_launch_are_events(tmp_path: Path) -> None:
    events: list[Event] = []

    measured(tmp_path, at_most=3, emit=events.append)

    assert isinstance(events[0], MeasuringStarted)
    started = [event for event in events if isinstance(event, LaunchStarted)]
    assert len(started) == events[0].launches == (3 + 1) * (1 + 4)
    assert started[0].cell.recipe == "float32 #0 0-2"


def test_a_gap_between_the_sum_and_the_whole_is_a_remark(tmp_path: Path) -> None:
    found = measured(tmp_path, whole_ns=2 * COST_NS * OPERATORS)

    remark = found.remarks()[0]
    assert "-50% off the whole model" in remark
    assert found.plain()["gap"] == pytest.approx(-0.5)


def test_negative_and_small_differences_are_reported_and_flagged(tmp_path: Path) -> None:
    costs = [COST_NS] * OPERATORS
    costs[3] = -COST_NS / 2

    found = measured(tmp_path, costs=costs, jitter=(0.0, 40e3, 0.0, -40e3, 80e3))

    assert found.operators[3].ns < 0
    assert NEGATIVE in found.operators[3].flags
    assert any(WITHIN_NOISE in one.flags for one in found.operators)
    assert any("within noise here: " in note and "of 9 operators" in note for note in found.notes)


def test_operators_are_grouped_over_the_cap(tmp_path: Path) -> None:
    found = measured(tmp_path, at_most=3)

    assert [(one.first, one.last) for one in found.operators] == [(0, 2), (3, 5), (6, 8)]
    assert all(SEVERAL in one.flags for one in found.operators)
    assert [one.ns for one in found.operators] == pytest.approx([3 * COST_NS] * 3)


def test_a_prefix_that_does_not_run_is_counted_with_the_next(tmp_path: Path) -> None:
    found = measured(tmp_path, refused={4: ModelRejected("no"), 9: ModelRejected("no")})

    assert [(one.first, one.last) for one in found.operators][3] == (3, 4)
    assert found.operators[3].ns == pytest.approx(2 * COST_NS)
    assert found.operators[-1].last == OPERATORS - 1, "the whole file replaces the last prefix"
    assert found.sum_ns == pytest.approx(found.whole_ns)
    assert any("prefixes 0-3, 0-8 did not run (rejected: no)" in note for note in found.notes)


def test_a_whole_file_that_does_not_run_and_a_lost_device_are_errors(tmp_path: Path) -> None:
    class Refusing(Simulated):
        def launch(self, order: LaunchOrder) -> Launch:
            if order.variant_digest == self.original:
                raise ModelRejected("never")
            return super().launch(order)

    session = Session(DEVICE, transport=FakeTransport, dialect=lambda _, d: Refusing(d))
    subject = measured(tmp_path).subject
    with pytest.raises(ModelRejected):
        estimate.measure([subject], session, tmp_path, launches=1, at_most=2)


def test_a_lost_device_is_an_error_and_a_prefix_that_breaks_it_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(Simulated):
        def launch(self, order: LaunchOrder) -> Launch:
            raise Unreachable("gone")

    opened: list[Device] = []

    def open_once(device: Device) -> FakeTransport:
        if opened:
            raise Unreachable("connection refused")
        opened.append(device)
        return FakeTransport(device)

    patience = Patience(away_seconds=0.1)
    session = Session(
        DEVICE, transport=open_once, dialect=lambda _, d: Broken(d), patience=patience
    )
    subject = measured(tmp_path).subject
    with pytest.raises(Unreachable, match="refused"):
        estimate.measure([subject], session, tmp_path, launches=1, at_most=2)
    monkeypatch.setattr("harness.measure.recovery.CALM_SECONDS", 0.01)
    found = measured(tmp_path, refused={2: Unreachable("gone")}, launches=1)
    assert any("did not run (crashed: " in note for note in found.notes)


def test_prefixes_with_fewer_delegated_operators_are_named(tmp_path: Path) -> None:
    class Partial(Simulated):
        def launch(self, order: LaunchOrder) -> Launch:
            launch = super().launch(order)
            taken = 0 if self.lengths[order.variant_digest] < 3 else launch.delegation.total_ops
            return replace(launch, delegation=replace(launch.delegation, delegated_ops=taken))

    session = Session(DEVICE, transport=FakeTransport, dialect=lambda _, d: Partial(d))
    subject = measured(tmp_path).subject
    (found,) = estimate.measure([subject], session, tmp_path, launches=1)

    assert any("in the prefixes 0-0, 0-1 than in the whole" in note for note in found.notes)
    assert all(one.half_width_ns is None for one in found.operators), "under three launches"


def times(subject: Subject, *operators: tuple[str, str, float]) -> Layers:
    return Layers(
        subject=subject,
        source="truncated graphs",
        operators=tuple(
            OperatorTime(first=i, last=i, type=kind, name=name, ns=ns, half_width_ns=2.0)
            for i, (kind, name, ns) in enumerate(operators)
        ),
        whole_ns=sum(ns for _, _, ns in operators),
        whole_is="p50",
        launches=4,
    )


def test_two_files_are_paired_by_type_and_name_then_by_type(tmp_path: Path) -> None:
    subject = measured(tmp_path, launches=1, at_most=1).subject
    a = times(subject, ("CONV_2D", "c1", 100), ("CONV_2D", "c2", 200), ("SOFTMAX", "out", 10))
    b = times(
        subject,
        ("QUANTIZE", "q", 5),
        ("CONV_2D", "c1", 60),
        ("CONV_2D", "c2_int8", 199),
        ("SOFTMAX", "out", 12),
        ("DEQUANTIZE", "d", 1),
    )

    found = alignment.difference(a, b)

    rows = found.rows()
    assert [(row["a"], row["b"]) for row in rows] == [
        (None, "0"),
        ("0", "1"),
        ("1", "2"),
        ("2", "3"),
        (None, "4"),
    ]
    assert rows[1]["difference_us"] == pytest.approx(-0.04)
    assert rows[1]["flags"] == []
    assert rows[2]["flags"] == [WITHIN_NOISE]
    assert rows[0]["difference_us"] is None
    assert any("only in one of the two: 2 of 5 operators" in remark for remark in found.remarks())
