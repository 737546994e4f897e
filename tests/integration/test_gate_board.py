"""Gates and selftests of a fake board, whose launches take as long as a test says."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_campaign import FARM, PLAN, prepare
from zygote import Zygote, zygote

from harness.records.store import Store

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
    assert f"does not count: {reason}" in edge.edge(tmp_path, *GATE).out
    quiet = edge.edge(tmp_path, *SELFTEST, "--json", LOAD="1.1")
    assert (quiet.code, quiet.json["fit"], quiet.json["unfit"]) == (0, True, None)
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


# --- a gate that goes on with a larger budget -------------------------------------------------------

SHORT = "[dose]\nmin_seconds = 0.01\nwarmup_seconds = 0.0\n[gate]\nmetrics = ['latency']\n"


def prepare_with(home: Path, gate: str) -> None:
    plan = PLAN[: PLAN.index("[dose]")]
    prepare(home, plan=f"{plan}{SHORT}{gate}\n")


@pytest.mark.parametrize("budget", [1, 3])
def test_the_hint_of_a_budget_is_followed_as_typed(
    edge: Zygote, tmp_path: Path, budget: int
) -> None:
    prepare_with(tmp_path, f"budget_seconds = {budget}")
    done = edge.edge(tmp_path, *GATE, "--json", SLOWER="1.3", PACE="0.11")
    launched: set[str] = set()
    for _ in range(4):
        if done.code != 2:
            break
        (contest,) = done.json["contests"]
        assert contest["out_of_budget"] == budget
        (row,) = [row for row in done.json["rows"] if row["judged"]]
        hint = re.search(
            r"set gate.budget_seconds to (\d+) or more, and `(.*?)` goes", row["reason"]
        )
        assert hint is not None, row["reason"]
        before = {one.id for one in Store(tmp_path / "results").open("latest").launches()}
        assert launched <= before
        budget, launched = int(hint[1]), before
        prepare_with(tmp_path, f"budget_seconds = {budget}\nmax_pairs = 18")
        words = shlex.split(hint[2])[1:]
        done = edge.edge(tmp_path, *words, "--json", SLOWER="1.3", PACE="0.11")
    assert (done.code, done.json["contests"][0]["out_of_budget"]) == (1, None), done.err
    assert done.json["rows"][0]["fresh"]["pairs"] == 10
    assert len(edge.edge(tmp_path, "runs", "--json").json["runs"]) == 1


@pytest.mark.parametrize("change", ["margin = 0.1", "metrics = ['size']"])
def test_a_gate_goes_on_with_the_rules_that_it_began_with(
    edge: Zygote, tmp_path: Path, change: str
) -> None:
    prepare_with(tmp_path, "budget_seconds = 1")
    assert edge.edge(tmp_path, *GATE, PACE="0.2").code == 2
    plan = (tmp_path / "plan.toml").read_text().replace("metrics = ['latency']\n", "")
    (tmp_path / "plan.toml").write_text(f"{plan}{change}\n")
    done = edge.edge(tmp_path, *GATE, "--resume", "latest")
    assert (done.code, "was made from another plan" in done.err) == (3, True)


# --- a gate of which nothing is left to measure -----------------------------------------------------


@pytest.mark.parametrize(("slower", "code"), [("1", 0), ("1.3", 1)])
def test_a_finished_gate_prints_its_stored_verdict(
    edge: Zygote, tmp_path: Path, slower: str, code: int
) -> None:
    prepare(tmp_path)
    done = edge.edge(tmp_path, *GATE, "--json", SLOWER=slower)
    assert done.code == code
    again = edge.edge(tmp_path, *GATE, "--json", "--resume", "latest", AT_LAUNCH="1:SIGKILL")
    assert (again.code, again.json) == (code, done.json)
    run = done.json["run"]
    text = edge.edge(
        *(tmp_path, *GATE, "--resume", "latest", "--junit", "gate.xml"), AT_LAUNCH="1:SIGKILL"
    )
    assert text.code == code
    assert f"nothing is left to measure of gate {run}: this is its stored verdict" in text.err
    assert not re.search("measuring|board: ", text.err), text.err
    assert f"run {run}; exit {code}" in text.out
    assert run in (tmp_path / "gate.xml").read_text()


def test_a_gate_whose_budget_is_used_goes_on_with_a_larger_one_only(
    edge: Zygote, tmp_path: Path
) -> None:
    prepare_with(tmp_path, "budget_seconds = 1")
    first = edge.edge(tmp_path, *GATE, "--json", PACE="0.2")
    same = edge.edge(tmp_path, *GATE, "--json", "--resume", "latest", AT_LAUNCH="1:SIGKILL")
    assert (same.code, same.json) == (2, first.json)
    prepare_with(tmp_path, "budget_seconds = 100")
    assert edge.edge(tmp_path, *GATE, "--resume", "latest").code == 0


def test_more_pairs_go_on_with_a_gate_that_their_number_ended(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path, plan=PLAN.replace("max_pairs = 6", "max_pairs = 4"))
    assert edge.edge(tmp_path, *GATE).code == 2
    prepare(tmp_path)
    done = edge.edge(tmp_path, *GATE, "--json", "--resume", "latest")
    assert (done.code, done.json["rows"][0]["pairs"]) == (0, 6)


def test_only_the_missing_fresh_launches_are_announced(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path)
    # Two pilots, two launches for the memory, twelve of the first pairs, five of the fresh ones.
    killed = edge.edge(tmp_path, *GATE, SLOWER="1.3", AT_LAUNCH="22:SIGKILL")
    assert killed.code == -9
    done = edge.edge(tmp_path, *GATE, "--resume", "latest", SLOWER="1.3")
    assert done.code == 1, done.err
    assert "measuring 2 cells, at most 16 launches" in done.err
