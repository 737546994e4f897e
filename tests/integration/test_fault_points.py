"""A controller that is killed at any durable write leaves what can be continued, and nothing twice.

The whole campaign, every point of a run, a gate and a search, is `benchmarks/fault_points.py`.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_campaign import Campaign, Kind, one_of_each, prepare
from zygote import Zygote, zygote


@pytest.fixture(name="edge", scope="module")
def _edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


@pytest.mark.parametrize(("kind", "step"), [("run", 3), ("gate", 7), ("search", 13)])
def test_a_killed_controller_can_be_continued_and_nothing_is_lost_or_doubled(
    kind: Kind, step: int, edge: Zygote, tmp_path: Path
) -> None:
    prepare(tmp_path)
    campaign = Campaign(kind=kind, home=tmp_path, zygote=edge)
    names = campaign.points()
    for file in ("run.json", "launches.jsonl", "outcomes.jsonl", "_merged.parquet"):
        assert any(name.endswith(f" {file}") for name in names)
    faults = [fault for number in one_of_each(names)[::step] for fault in campaign.trial(number)]
    assert faults == []
