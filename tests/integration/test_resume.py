"""--resume continues only what is the same: device, model, plan, kind; and says what is not."""

import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fault_campaign import FARM, PLAN, prepare
from zygote import Done, Zygote, zygote

from harness.demo import DATA
from harness.durable import FAULT_POINTS

RUN = ("run", "plan.toml")
GATE = ("gate", "plan.toml", "--baseline", "as_is", "--candidate", "float16")
SEARCH = ("search", "plan.toml")


@pytest.fixture(name="edge", scope="module")
def _edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zygote]:
    with zygote(tmp_path_factory.mktemp("zygote")) as made:
        yield made


def board(*facts: str, name: str = "board", address: str = "fakeboard:1") -> str:
    return (
        f'[device.{name}]\nprofile = "linux_x86_64"\naddress = "{address}"\n'
        f'dialect = "fakeboard"\ntags = {json.dumps(facts)}\n'
    )


def killed(edge: Zygote, home: Path, *words: str, at: str = "append outcomes.jsonl") -> str:
    """Run a command until it passes the point; return the run that it leaves."""
    done = edge.edge(home, *words, **{FAULT_POINTS: f"{at}:{home / 'points'}"})
    assert done.code == -9
    (record,) = (home / "results").glob("*/run.json")
    return record.parent.name


def launches(home: Path, run: str) -> int:
    return len((home / "results" / run / "launches.jsonl").read_text().splitlines())


def rows(done: Done, code: int = 0) -> list[tuple[Any, ...]]:
    assert done.code == code, (done.out, done.err)
    return [(row["device"], row["recipe"], row["status"]) for row in done.json["rows"]]


@pytest.mark.parametrize(
    ("fact", "reason"),
    [
        ("identity=two", "another machine answers (identity two; the run has one)"),
        ("kernel=6.9", "its kernel is 6.9, not 0"),
        ("runtime=1", "its runtime is fake 1, not fake 0"),
        ("cores=2", "its number of cores is 2, not 1"),
        ("usable_cores=2", None),
    ],
)
def test_a_device_that_is_not_as_it_was_is_refused(
    edge: Zygote, tmp_path: Path, fact: str, reason: str | None
) -> None:
    prepare(tmp_path, farm=board())
    run = killed(edge, tmp_path, *RUN)
    before = launches(tmp_path, run)
    (tmp_path / "farm.toml").write_text(board(fact))
    done = edge.edge(tmp_path, *RUN, "--resume", run)
    if reason is None:  # the run did not know this fact
        assert done.code == 0
        return
    assert done.code == 3
    assert reason in done.err
    assert "--other-device" in done.err
    assert launches(tmp_path, run) == before
    (tmp_path / "farm.toml").write_text(board())
    done = edge.edge(tmp_path, *RUN, "--resume", run, "--json")
    assert rows(done) == [("board", "as_is", "ok"), ("board", "float16", "ok")]


def test_another_device_gets_rows_of_its_own_where_the_user_says_so(
    edge: Zygote, tmp_path: Path
) -> None:
    prepare(tmp_path, farm=board())
    run = killed(edge, tmp_path, *RUN)
    (tmp_path / "farm.toml").write_text(board("identity=two"))
    done = edge.edge(tmp_path, *RUN, "--resume", run, "--other-device", "--json")
    found = rows(done)
    assert found[:2] == [("board", "as_is", "pending"), ("board", "float16", "pending")]
    (alias,) = {device for device, _, _ in found[2:]}
    for row in done.json["rows"][:2]:
        assert f"not measured on board as it was: the run continued as {alias}; `" in row["reason"]
    assert re.fullmatch("board-[0-9a-f]{6}", alias)
    assert [status for _, _, status in found[2:]] == ["ok", "ok"]
    again = edge.edge(tmp_path, *RUN, "--resume", run, "--json")
    assert rows(again) == found
    (tmp_path / "farm.toml").write_text(board())
    whole = edge.edge(tmp_path, *RUN, "--resume", run, "--json")
    assert [status for _, _, status in rows(whole)] == ["ok"] * 4
    assert edge.edge(tmp_path, *RUN, "--other-device").code == 3


def test_a_runtime_that_only_the_launches_show_is_not_pooled(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path, farm=board())
    stopped = edge.edge(tmp_path, *RUN, "--json", AT_LAUNCH="6:SIGTERM")
    assert stopped.code == 143
    (record,) = (tmp_path / "results").glob("*/run.json")
    again = (*RUN, "--resume", record.parent.name, "--json")
    done = edge.edge(tmp_path, *again, AT_RUNTIME="fake 1")
    reasons = [row["reason"] for row in done.json["rows"] if row["status"] == "changed"]
    assert reasons
    assert all("its runtime is fake 1, not fake 0" in reason for reason in reasons)
    text = edge.edge(tmp_path, *again[:-1], AT_RUNTIME="fake 1").out
    (hint,) = re.findall(r"rows stopped: the device changed: `edge-harness (.*?)`", text)
    assert hint.split()[-3:] == ["--resume", record.parent.name, "--retry-failed"]
    assert "fake 1" not in (record.parent / "launches.jsonl").read_text()
    whole = edge.edge(tmp_path, *shlex.split(hint), "--json")
    assert rows(whole) == [("board", "as_is", "ok"), ("board", "float16", "ok")]


@pytest.mark.parametrize("stop", [6, 12])
def test_a_gate_pools_no_runtime_that_only_the_launches_show(
    edge: Zygote, tmp_path: Path, stop: int
) -> None:
    prepare(tmp_path, farm=board())
    stopped = edge.edge(tmp_path, *GATE, "--json", AT_LAUNCH=f"{stop}:SIGTERM")
    assert stopped.code == 143
    run = stopped.json["run"]
    done = edge.edge(tmp_path, *GATE, "--json", "--resume", run, AT_RUNTIME="fake 1")
    assert done.code != 0
    assert "its runtime is fake 1, not fake 0" in json.dumps(done.json)
    (reason,) = {one["reason"] for one in done.json["failed"]}
    assert reason.endswith(
        f"put the device back and continue with --resume: `edge-harness {shlex.join(GATE)} "
        f"--resume {run}`"
    )
    assert "fake 1" not in (tmp_path / "results" / run / "launches.jsonl").read_text()


def test_the_same_machine_at_another_address_continues(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path, farm=board())
    run = killed(edge, tmp_path, *RUN)
    (tmp_path / "farm.toml").write_text(board(address="fakeboard:2"))
    done = edge.edge(tmp_path, *RUN, "--resume", run, "--json")
    assert rows(done) == [("board", "as_is", "ok"), ("board", "float16", "ok")]


def test_a_device_that_was_away_at_first_is_held_to_its_facts_later(
    edge: Zygote, tmp_path: Path
) -> None:
    prepare(tmp_path, farm=FARM.replace("fakeboard:1", "ssh://127.0.0.1:1"))
    run = edge.edge(tmp_path, *RUN, "--json").json["run"]
    again = (*RUN, "--resume", run, "--retry-failed", "--json")
    (tmp_path / "farm.toml").write_text(board())
    done = edge.edge(tmp_path, *again)
    assert rows(done) == [("board", "as_is", "ok"), ("board", "float16", "ok")]
    record = json.loads((tmp_path / "results" / run / "run.json").read_text())
    assert record["devices"]["board"]["facts"]["identity"] == "one"


TWO = board("identity=one", name="a") + board("identity=two", name="b", address="fakeboard:2")


def test_one_of_two_devices_is_continued_alone(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path, farm=TWO, plan=PLAN.replace('["board"]', '["a", "b"]'))
    run = killed(edge, tmp_path, *RUN, at="open log.jsonl")
    done = edge.edge(tmp_path, *RUN, "--resume", run, "--device", "a", "--json")
    found = rows(done, 1)  # the rows of the other device are missing
    assert [status for device, _, status in found if device == "a"] == ["ok", "ok"]
    assert [status for device, _, status in found if device == "b"] == ["pending", "pending"]
    assert edge.edge(tmp_path, *RUN, "--resume", run, "--device", "board").code == 3
    found = rows(edge.edge(tmp_path, *RUN, "--resume", run, "--recipe", "as_is", "--json"), 1)
    assert [status for _, _, status in found] == ["ok", "ok", "ok", "pending"]
    text = edge.edge(tmp_path, *RUN, "--resume", run, "--recipe", "as_is")
    assert text.code == 1
    assert "1 of 4 rows pending: `edge-harness run plan.toml" in text.out
    assert f"--resume {run}` measures what is missing" in text.out
    found = rows(edge.edge(tmp_path, *RUN, "--resume", run, "--json"))
    assert [status for _, _, status in found] == ["ok"] * 4


def test_a_device_that_left_the_farm_is_named(edge: Zygote, tmp_path: Path) -> None:
    plan = PLAN.replace('["board"]', '["profile:linux_x86_64"]')
    prepare(tmp_path, farm=TWO, plan=plan)
    run = killed(edge, tmp_path, *RUN, at="open log.jsonl")
    (tmp_path / "farm.toml").write_text(board("identity=one", name="a"))
    done = edge.edge(tmp_path, *RUN, "--resume", run)
    assert done.code == 3
    assert "has cells on b" in done.err


@pytest.mark.parametrize("words", [RUN, SEARCH])
def test_a_model_that_changed_is_refused(
    edge: Zygote, tmp_path: Path, words: tuple[str, ...]
) -> None:
    prepare(tmp_path)
    run = killed(edge, tmp_path, *words)
    resume = (*words, "--resume", run if words == RUN else "latest")
    (tmp_path / "digits.tflite").write_bytes((DATA / "digits.tflite").read_bytes() + b"\0")
    done = edge.edge(tmp_path, *resume)
    assert done.code == 3
    assert "model digits changed" in done.err
    shutil.copy(DATA / "digits.tflite", tmp_path)
    assert edge.edge(tmp_path, *resume).code == 0


def test_files_that_a_run_lost_are_made_again(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path)
    run = killed(edge, tmp_path, *RUN)
    kept = sorted((tmp_path / "results" / run / "variants").iterdir())
    bytes_before = [path.read_bytes() for path in kept]
    kept[0].write_bytes(b"")
    kept[1].unlink()
    done = edge.edge(tmp_path, *RUN, "--resume", run, "--json")
    assert [status for _, _, status in rows(done)] == ["ok", "ok"]
    assert [path.read_bytes() for path in kept] == bytes_before


def test_a_gate_is_continued_as_a_gate_and_only_as_it_was(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path, farm=board())
    run = killed(edge, tmp_path, *GATE, at="append outcomes.jsonl")
    before = launches(tmp_path, run)
    for words, code, text in (
        ((*RUN, "--resume", run), 3, "is a gate"),
        (("judge", run), 2, "the gate was killed or failed before its verdict"),
    ):
        done = edge.edge(tmp_path, *words)
        assert done.code == code
        assert text in done.out + done.err
        assert shlex.join(["edge-harness", *GATE, "--resume", run]) in done.out + done.err
    swapped = [*GATE[:2], "--baseline", "float16", "--candidate", "as_is"]
    done = edge.edge(tmp_path, *swapped, "--resume", run)
    assert done.code == 3
    assert 'was started with --baseline "as_is"' in done.err
    (tmp_path / "farm.toml").write_text(board("identity=two"))
    done = edge.edge(tmp_path, *GATE, "--resume", run)
    assert done.code == 3
    assert "another machine answers" in done.err
    (tmp_path / "farm.toml").write_text(board())
    (tmp_path / "digits.tflite").write_bytes((DATA / "digits.tflite").read_bytes() + b"\0")
    done = edge.edge(tmp_path, *GATE, "--resume", run)
    assert done.code == 3
    assert "is now the file" in done.err
    shutil.copy(DATA / "digits.tflite", tmp_path)
    done = edge.edge(tmp_path, *GATE, "--resume", run, "--json")
    assert (done.code, done.json["verdict"]) == (0, "EQUIVALENT")
    assert launches(tmp_path, run) == before
    assert edge.edge(tmp_path, "judge", run).code == 0


def test_a_run_is_not_continued_as_a_gate_or_with_another_plan(
    edge: Zygote, tmp_path: Path
) -> None:
    prepare(tmp_path)
    run = edge.edge(tmp_path, *RUN, "--json").json["run"]
    done = edge.edge(tmp_path, *GATE, "--resume", run)
    assert done.code == 3
    assert f"`edge-harness run plan.toml --resume {run}` continues it" in done.err
    (tmp_path / "plan.toml").write_text(PLAN.replace("launches = 2", "launches = 3"))
    done = edge.edge(tmp_path, *RUN, "--resume", run)
    assert done.code == 3
    assert "another plan" in done.err


def test_a_search_on_another_machine_is_refused(edge: Zygote, tmp_path: Path) -> None:
    prepare(tmp_path, farm=board())
    killed(edge, tmp_path, *SEARCH, at="told study.db")
    (tmp_path / "farm.toml").write_text(board("identity=two"))
    done = edge.edge(tmp_path, *SEARCH, "--resume", "latest")
    assert done.code == 3
    assert "another machine answers" in done.err
    (tmp_path / "farm.toml").write_text(board())
    assert edge.edge(tmp_path, *SEARCH, "--resume", "latest").code == 0
