"""Gates and selftests of a fake board, whose launches take as long as a test says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_campaign import FARM, prepare
from zygote import Zygote, zygote

GATE = ("gate", "plan.toml", "--baseline", "as_is", "--candidate", "float16")
SELFTEST = ("selftest", "board", "--model", "digits.tflite")


@pytest.fixture(name="edge", scope="module")
def _edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


def test_a_selftest_that_no_gate_counts_says_so(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path, farm=f'{FARM}tags = ["cores=2"]\n')
    busy = edge.edge(tmp_path, *SELFTEST, LOAD="4.1")
    assert busy.code == 2
    reason = "the device had a load of 4.1 on 2 cores during it, 2.0 is the most"
    assert f"does not count for gates: {reason}; run it again" in busy.out
    assert "fit for the gate" not in busy.out
    plain = edge.edge(tmp_path, *SELFTEST, "--json", LOAD="4.1")
    assert (plain.code, plain.json["fit"], plain.json["unfit"]) == (2, False, reason)
    assert f"does not count: {reason}" in edge.edge(tmp_path, *GATE).out
    quiet = edge.edge(tmp_path, *SELFTEST, LOAD="1.1")
    assert (quiet.code, "fit for the gate" in quiet.out) == (0, True)
    assert "does not count" not in edge.edge(tmp_path, *GATE).out


def test_each_side_is_shown_once_also_if_it_is_measured_again(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path)
    done = edge.edge(tmp_path, *GATE, SLOWER="1.3")
    assert done.code == 1, done.err
    assert "looks worse; measuring fresh pairs" in done.err
    shown = re.findall(r"^\[(\d)/2\] digits (\w+):", done.err, re.MULTILINE)
    assert shown == [("1", "baseline"), ("2", "candidate")]
    rows = edge.edge(tmp_path, "show", "latest", "--json").json["rows"]
    assert [row["launches"] for row in rows] == [16, 16]


# --- what a gate used of its budget -----------------------------------------------------------------


def seconds_of(document: Any) -> float:
    (contest,) = document["contests"]
    return float(contest["seconds"])


@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL"])
def test_the_time_of_an_attempt_counts_also_if_it_is_ended(
    edge: Zygote, tmp_path: Path, name: str
) -> None:
    prepare(tmp_path)
    done = edge.edge(tmp_path, *GATE, "--json", AT_LAUNCH=f"9:{name}", PACE="0.05")
    assert done.code in (143, -9)
    # Two pilots, two launches for the memory, at least four of the first pairs.
    first = seconds_of(edge.edge(tmp_path, "judge", "latest", "--json").json)
    assert first >= 6 * 0.05
    resumed = edge.edge(tmp_path, *GATE, "--json", "--resume", "latest", PACE="0.05")
    assert resumed.code == 0, resumed.err
    assert seconds_of(resumed.json) >= first + 10 * 0.05
