"""The command gate as users and CI run it: real files and real launches on this machine."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from harness.demo import DATA
from harness.demo.loopback_sshd import LoopbackSshd
from harness.records.store import checksums

CLI = [sys.executable, "-m", "harness.cli"]
QUICK = "[dose]\nlaunches = 1\nwarmup_seconds = 0.05\nmin_seconds = 0.05\n"
GATE = '[gate]\nmetrics = ["latency", "size", "accuracy"]\nmax_pairs = 6\n'
PRINTED = {"exit_code", "verdict", "run", "rows", "away", "failed"}


def environment(home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "EDGE_HARNESS_RESULTS": str(home / "results"),
        "XDG_CONFIG_HOME": str(home / "config"),
    }


def edge(home: Path, *arguments: object, code: int) -> Any:
    done = subprocess.run(
        [*CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(home),
        cwd=home,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return (
        json.loads(done.stdout)
        if "--json" in arguments and done.stdout
        else done.stdout + done.stderr
    )


def plan_of(home: Path, extra: str = GATE, *, threads: str = "[1]", data: bool = True) -> Path:
    for file in DATA.glob("digits*.*"):
        shutil.copy(file, home)
    shutil.copy(home / "digits.tflite", home / "same.tflite")
    plan = home / "plan.toml"
    evaluation = 'evaluation = "digits_evaluation.npz"\n' if data else ""
    plan.write_text(
        '[model]\nname = "digits"\npath = "digits.tflite"\n'
        f'[data]\ncalibration = "digits_calibration.npz"\n{evaluation}'
        f'[run]\nrecipes = ["float32", "int8"]\ndevices = ["this-machine"]\nthreads = {threads}\n'
        f"{QUICK}{extra}",
        encoding="utf-8",
    )
    return plan


COMPUTED = ("a", "b", "ratio", "ratio_low", "ratio_high", "hodges_lehmann", "p_adjusted")
"""Values that the store and the gate compute in different ways."""


def test_the_same_bytes_are_reported_and_not_measured(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    sides = ("--baseline", tmp_path / "digits.tflite", "--candidate", tmp_path / "same.tflite")
    text = edge(tmp_path, "gate", plan, *sides, code=0)
    assert "the same bytes" in text
    assert "--measure-identical" in text
    assert list((tmp_path / "results").glob("*")) == []


def test_a_real_gate_is_stored_and_shown_with_reasons(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    arguments = ("gate", plan, "--baseline", "float32", "--candidate", "int8", "--json")
    done = subprocess.run(
        [*CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        env=environment(tmp_path),
        cwd=tmp_path,
        timeout=240,
        check=False,
    )
    document = json.loads(done.stdout)
    assert done.returncode == document["exit_code"] in (0, 1, 2), done.stderr
    assert set(document) > PRINTED
    rows = {row["metric"]: row for row in document["rows"]}
    assert set(rows) == {"latency", "load", "first", "memory", "size", "accuracy"}
    assert [name for name, row in rows.items() if row["judged"]] == ["latency", "size", "accuracy"]
    assert rows["size"]["verdict"] == "IMPROVED"
    assert rows["accuracy"]["pairs"] == 540
    assert rows["latency"]["pairs"] == 6
    assert rows["latency"]["ratio"] == pytest.approx(rows["latency"]["b"] / rows["latency"]["a"])
    assert all(row["reason"] for row in rows.values())
    kept = tmp_path / "results" / document["run"]
    stored = json.loads((kept / "gate.json").read_text())
    assert len(stored.pop("sum")) == 16
    assert stored == document
    again = edge(tmp_path, "judge", "latest", "--json", code=document["exit_code"])
    for before, after in zip(document["rows"], again["rows"], strict=True):
        assert {**after, **dict.fromkeys(COMPUTED)} == {**before, **dict.fromkeys(COMPUTED)}
        for name in COMPUTED:
            value = before[name]
            assert after[name] == (value if value is None else pytest.approx(value, rel=1e-9))
    strict = edge(tmp_path, "judge", "latest", "--margin", "0.001", code=3)
    assert "--min-effect (0.02) must be under --margin (0.001)" in strict
    wide = edge(tmp_path, "judge", "latest", "--margin", "3", code=3)
    assert "edge-harness: --margin: must be at least 0 and at most 1, not 3.0" in wide
    shown = edge(tmp_path, "show", "latest", "--json", code=0)["rows"]
    assert {row["status"] for row in shown} == {"ok"}
    (run,) = edge(tmp_path, "runs", "--json", code=0)["runs"]
    assert run["kind"] == "gate"
    assert "is a gate" in edge(tmp_path, "run", plan, "--resume", "latest", code=3)


def test_a_stored_run_is_measured_again_from_its_files_on_the_same_machine_only(
    tmp_path: Path,
) -> None:
    plan = plan_of(tmp_path)
    run = edge(tmp_path, "run", plan, "--recipe", "float32", "--json", code=0)["run"]
    gate = ("gate", plan, "--baseline", run, "--candidate", "float32")
    assert "the same bytes" in edge(tmp_path, *gate, code=0)
    plan_of(tmp_path, threads="[2]")
    assert "unlike machines" in edge(tmp_path, *gate, "--measure-identical", code=3)
    plan_of(tmp_path)
    record = tmp_path / "results" / run / "run.json"
    plain = json.loads(record.read_text())
    plain["devices"]["this-machine"]["facts"]["identity"] = "another"
    record.write_text(json.dumps(plain))
    assert "run.json is damaged" in edge(tmp_path, *gate, "--measure-identical", code=3)
    del plain["sum"]
    record.write_text(checksums.summed(plain, "/run.json"))
    text = edge(tmp_path, *gate, "--measure-identical", code=3)
    assert "which is not the machine behind this-machine" in text


@pytest.mark.parametrize(
    ("candidate", "extra", "message"),
    [
        ("int9", GATE, "is no file, no recipe of the plan (float32, int8) and no stored run"),
        ("runtime:tflite_runtime=0.1", GATE, "has no runtime tflite_runtime 0.1 (it has:"),
        ("runtime:nothing", GATE, "runtime:NAME=VERSION"),
        ("int8", '[gate]\nmetrics = ["latencey"]\n', 'unknown metric "latencey"; did you mean'),
        ("int8", "[gate]\nmetrics = []\n", "gate.metrics: at least one of"),
        ("int8", "[gate]\nmargin = 0.02\nmin_effect = 0.05\n", "must be under margin"),
    ],
)
def test_invalid_input_is_one_line_and_exit_3(
    tmp_path: Path, candidate: str, extra: str, message: str
) -> None:
    plan = plan_of(tmp_path, extra)
    found = edge(tmp_path, "gate", plan, "--baseline", "float32", "--candidate", candidate, code=3)
    assert message in found.splitlines()[-1]


def test_accuracy_without_data_to_judge_it_by_is_refused(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, data=False)
    arguments = ("gate", plan, "--baseline", "float32", "--candidate", "int8")
    assert "no data.evaluation" in edge(tmp_path, *arguments, code=3)


def test_a_device_that_is_away_is_exit_4(tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    (tmp_path / "farm.toml").write_text(
        '[device.board]\nprofile = "linux_x86_64"\naddress = "ssh://nobody@127.0.0.1:9"\n'
    )
    arguments = ("gate", plan, "--baseline", "float32", "--candidate", "int8", "--device", "board")
    document = edge(tmp_path, *arguments, "--json", code=4)
    assert document["away"][0]["device"] == "board"
    assert document["verdict"] is None


def test_a_gate_over_ssh_measures_both_sides_there(tmp_path: Path, sshd: LoopbackSshd) -> None:
    plan = plan_of(tmp_path, GATE.replace('"latency", ', ""))
    entries = {
        "profile": "linux_x86_64",
        "address": sshd.uri,
        "identity": str(sshd.identity),
        "known_hosts": str(sshd.known_hosts),
        "python": sys.executable,
        "workdir": str(tmp_path / "board"),
    }
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())
    (tmp_path / "farm.toml").write_text(f"[device.board]\n{lines}")
    arguments = ("gate", plan, "--baseline", "float32", "--candidate", "int8", "--device", "board")
    document = edge(tmp_path, *arguments, "--json", code=0)
    rows = {row["metric"]: row for row in document["rows"]}
    assert rows["latency"]["device"] == "board"
    assert rows["latency"]["pairs"] == 6
    assert rows["latency"]["verdict"] is None
    assert document["verdict"] == "PASS"


def test_ctrl_c_keeps_what_was_measured(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, GATE.replace("6", "500"))
    arguments = ["gate", plan, "--baseline", "float32", "--candidate", "int8"]
    going = subprocess.Popen(
        [*CLI, *map(str, arguments)],
        env=environment(tmp_path),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            lines = [
                line
                for file in (tmp_path / "results").glob("*/launches.jsonl")
                for line in file.read_text().splitlines()
            ]
            if len(lines) >= 4:
                break
            time.sleep(0.05)
        going.send_signal(signal.SIGINT)
        _, errors = going.communicate(timeout=30)
    finally:
        going.kill()
        going.wait()
    assert going.returncode == 130, errors
    assert b"Traceback" not in errors
    assert len(lines) >= 4
    (record,) = (tmp_path / "results").glob("*/run.json")
    command = "edge-harness gate plan.toml --baseline float32 --candidate int8 --resume"
    assert f"`{command} {record.parent.name}` continues" in errors.decode()
    assert "run PLAN" not in errors.decode()
