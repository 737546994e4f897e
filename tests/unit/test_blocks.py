from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure import blocks
from harness.types import Cell, Dose, Variant


def cell(name: str, launches: int = 4) -> Cell:
    variant = Variant(
        model=name, recipe="r", target="xnnpack", path=Path("x"), digest="d" * 64, size_bytes=1
    )
    return Cell(
        model=name,
        recipe="r",
        target="xnnpack",
        device="d",
        threads=1,
        variant=variant,
        dose=Dose(launches=launches),
    )


def names(turns: list[blocks.Turn], block: int) -> list[str]:
    return [turn.cell.model for turn in turns if turn.block == block]


@given(st.integers(0, 2**32), st.integers(1, 6), st.integers(1, 9))
def test_every_cell_once_a_block_and_even_blocks_mirror(
    seed: int, count: int, launches: int
) -> None:
    cells = [cell(f"m{index}", launches) for index in range(count)]
    turns = list(blocks.schedule(cells, seed))
    assert len(turns) == count * launches
    for block in range(launches):
        assert sorted(names(turns, block)) == sorted(c.model for c in cells)
        if block % 2:
            assert names(turns, block) == names(turns, block - 1)[::-1]


def test_a_cell_leaves_when_its_dose_is_done() -> None:
    turns = list(blocks.schedule([cell("short", 2), cell("long", 5)], 0))
    assert [names(turns, block) for block in range(2, 5)] == [["long"]] * 3


def test_the_same_seed_gives_the_same_order() -> None:
    cells = [cell(f"m{index}") for index in range(5)]
    first, again, other = (list(blocks.schedule(cells, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


@given(st.floats(1, 1e9))
def test_inner_loop_keeps_the_bounds_of_the_protocol(inference_ns: float) -> None:
    loops = blocks.inner_loop(inference_ns)
    assert loops >= 1
    if inference_ns >= 10_000:
        assert loops == 1
    else:
        assert 20_000 <= loops * inference_ns <= 500_000


def of_scenario(**dose: Any) -> Cell:
    return replace(cell("m"), dose=Dose(**dose))


def test_a_sample_is_a_frame_of_a_stream_and_a_block_offline() -> None:
    assert blocks.inner_loop(500, "stream") == 1
    assert [blocks.inner_loop(t, "offline") for t in (500, 1e6, 6e6, 30e6)] == [20_000, 10, 2, 1]
    assert blocks.inner_loop(500, "sustained") == 40


def test_only_timed_launches_play_a_scenario_and_have_its_deadline() -> None:
    long = of_scenario(scenario="sustained", sustained_minutes=10.0)
    turn = blocks.Turn(block=0, position=0, cell=long)
    assert blocks.order(turn, loops=1).timeout_seconds > 700
    assert blocks.order(turn, loops=1).dose.scenario == "sustained"
    stream = of_scenario(scenario="stream", period_ms=5.0)
    for order in (f(c) for c in (long, stream) for f in (blocks.pilot, blocks.memory, blocks.bare)):
        assert (order.dose.scenario, order.dose.period_ms) == ("single", None)
        assert order.timeout_seconds < 200


def test_inner_loop_by_hand() -> None:
    # 500 ns: 40 of them are 20 us. 9.9 us: three are 29.7 us, two only 19.8.
    assert blocks.inner_loop(500) == 40
    assert blocks.inner_loop(9_900) == 3


def test_a_compared_launch_is_stretched_for_slow_inferences_only() -> None:
    dose = Dose(min_seconds=1.0)
    seconds = [blocks.stretched(dose, ns).min_seconds for ns in (5e4, 1e6, 2e6, 3e6, 1e8)]
    assert seconds == pytest.approx([1.0, 1.0, 2.0, 3.0, 3.0])
    short = Dose(min_seconds=0.5, max_seconds=1.5)
    assert blocks.stretched(short, 1e8).min_seconds == 1.5
