"""The program as a user meets it: the command, real files, this machine, a real sshd."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from edge_command import CLI, edge

from harness.demo import DATA
from harness.demo.loopback_sshd import LoopbackSshd

ROOT = Path(__file__).resolve().parents[2]
QUICK = "[dose]\nlaunches = 2\nwarmup_seconds = 0.05\nmin_seconds = 0.05\n"


@pytest.fixture(name="home")
def _home(tmp_path: Path) -> Path:
    """An own results folder and configuration; the build cache is shared by the session."""
    return tmp_path


def digits_plan(folder: Path, *, recipes: str, devices: str, extra: str = QUICK) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for file in DATA.glob("digits*.*"):
        shutil.copy(file, folder)
    plan = folder / "plan.toml"
    plan.write_text(
        f'[model]\nname = "digits"\npath = "digits.tflite"\n'
        f'[data]\ncalibration = "digits_calibration.npz"\nevaluation = "digits_evaluation.npz"\n'
        f"[run]\nrecipes = {recipes}\ndevices = {devices}\n{extra}",
        encoding="utf-8",
    )
    return plan


def farm_of(folder: Path, server: LoopbackSshd, **keys: str) -> Path:
    entries = {
        "profile": "linux_x86_64",
        "address": server.uri,
        "identity": str(server.identity),
        "known_hosts": str(server.known_hosts),
        "python": sys.executable,
        "workdir": str(folder / "board"),
        **keys,
    }
    farm = folder / "farm.toml"
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in entries.items())
    farm.write_text(f"[device.board]\n{lines}", encoding="utf-8")
    return farm


def test_the_main_job_here_and_over_ssh(home: Path, sshd: LoopbackSshd) -> None:
    plan = digits_plan(
        home,
        recipes='["float32", "int8"]',
        devices='["this-machine", "board"]',
        extra=QUICK.replace("launches = 2", "launches = 3"),
    )
    farm_of(home, sshd)
    document = edge(home, "run", plan, "--json")
    rows = document["rows"]
    assert {(row["device"], row["recipe"]) for row in rows} == {
        (device, recipe) for device in ("this-machine", "board") for recipe in ("float32", "int8")
    }
    for row in rows:
        assert row["status"] == "ok"
        assert 0 < row["latency_p50_ms"] < 100
        assert row["launches"] == 3
        assert row["inferences"] >= 200
        assert row["accuracy"] > 0.95
        assert row["accuracy_source"] == "host"
        assert row["peak_rss_mb"] > row["model_memory_mb"] > 0
        assert row["delegate"] == "xnnpack"
        assert row["runtime"].startswith("ai_edge_litert 2.")
    shown = edge(home, "show", "latest", "--format", "json", "--json")
    assert shown == document
    assert "int8" in edge(home, "show", document["run"], "--format", "markdown")
    assert edge(home, "show", "latest", "--format", "csv").count("\n") >= 5
    assert "below noise" in edge(home, "compare", "latest", "latest", "--format", "csv")
    page = home / "page.html"
    edge(home, "report", "latest", "-o", page)
    assert "board" in page.read_text(encoding="utf-8")
    assert edge(home, "runs", "--json")["runs"][0]["id"] == document["run"]


def test_the_numbers_of_the_table_are_from_the_stored_samples(home: Path) -> None:
    plan = digits_plan(home, recipes='["float32"]', devices='["this-machine"]')
    row = edge(home, "run", plan, "--json")["rows"][0]
    import duckdb

    folder = next((home / "results").glob("*"))
    medians = duckdb.sql(
        f"select median(value) from read_parquet('{folder}/samples/*.parquet') "
        "where series = 'latency' and kind = 'timed' group by launch"
    ).fetchall()
    expected = float(np.median([value for (value,) in medians])) / 1e6
    assert len(medians) == 2
    assert row["latency_p50_ms"] == pytest.approx(expected, rel=1e-9)


def test_bench_needs_no_file_at_all(home: Path, sshd: LoopbackSshd) -> None:
    model = DATA / "digits.tflite"
    words = ("bench", model, "--on", "local:", "--launches", "1", "--json")
    assert edge(home, *words)["rows"][0]["status"] == "ok"
    unknown = edge(home, "bench", model, "--on", sshd.uri, code=None)
    assert "edge-harness add" in unknown


def test_add_detects_writes_the_entry_and_examines(home: Path, sshd: LoopbackSshd) -> None:
    farm = home / "farm.toml"
    farm.write_text("# my boards\n", encoding="utf-8")
    common = ("--farm", farm, "--identity", sshd.identity, "--python", sys.executable)
    refused = edge(home, "add", sshd.uri, "--name", "b", *common, code=3)
    assert "SHA256:" in refused
    print_of_key = subprocess.run(
        ["ssh-keygen", "-lf", "-"],
        input=sshd.host_key_public,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()[1]
    wrong = edge(home, "add", sshd.uri, "--yes-key", "SHA256:wrong", *common, code=3)
    assert print_of_key in wrong
    met = edge(
        home,
        "add",
        sshd.uri,
        "--name",
        "b",
        "--yes-key",
        print_of_key,
        *common,
        "--json",
        code=None,
    )
    assert met["device"]["profile"] == f"linux_{os.uname().machine}"
    assert met["facts"]["runtimes"]
    assert {check["status"] for check in met["checks"]} <= {"ok", "warn", "skip"}
    text = farm.read_text(encoding="utf-8")
    assert text.startswith("# my boards\n")
    assert "[device.b]" in text
    rows = edge(home, "devices", "--farm", farm, "--json", code=None)["devices"]
    assert {row["name"]: row["status"] for row in rows}["b"] == "ready"


def test_kill_minus_nine_then_resume_does_only_what_is_missing(home: Path) -> None:
    plan = digits_plan(
        home,
        recipes='["float32", "float16", "dynamic"]',
        devices='["this-machine"]',
        extra="[dose]\nlaunches = 4\nwarmup_seconds = 0.2\n",
    )
    edge(home, "run", plan, "--dry-run")
    environment = {**os.environ, "EDGE_HARNESS_RESULTS": str(home / "results")}
    with (home / "log").open("w") as log:
        process = subprocess.Popen(
            [*CLI, "run", str(plan)], stdout=log, stderr=log, env=environment, cwd=home
        )
        journal = _wait_for_lines(home / "results", 6)
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    before = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    whole = [line for line in before if line.endswith("\n")]
    run_id = journal.parent.name
    document = edge(home, "run", plan, "--resume", run_id, "--json")
    assert document["run"] == run_id
    assert [row["status"] for row in document["rows"]] == ["ok"] * 3
    assert [row["launches"] for row in document["rows"]] == [4] * 3
    after = journal.read_text(encoding="utf-8").splitlines(keepends=True)
    assert after[: len(whole)] == whole
    ids = [json.loads(line)["id"] for line in after]
    assert len(ids) == len(set(ids)) == 3 * 5 + 1
    changed = plan.read_text(encoding="utf-8").replace("launches = 4", "launches = 3")
    plan.write_text(changed, encoding="utf-8")
    assert "digest" in edge(home, "run", plan, "--resume", run_id, code=3)


def _wait_for_lines(results: Path, count: int) -> Path:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        for journal in results.glob("*/launches.jsonl"):
            if len(journal.read_text(encoding="utf-8").splitlines()) >= count:
                return journal
        time.sleep(0.05)
    pytest.fail("the run never wrote its launches")


def test_ctrl_c_leaves_things_whole(home: Path) -> None:
    plan = digits_plan(
        home, recipes='["float32"]', devices='["this-machine"]', extra="[dose]\nlaunches = 30\n"
    )
    environment = {**os.environ, "EDGE_HARNESS_RESULTS": str(home / "results")}
    process = subprocess.Popen(
        [*CLI, "run", str(plan)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
        cwd=home,
        text=True,
    )
    journal = _wait_for_lines(home / "results", 3)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert f"`edge-harness run plan.toml --resume {journal.parent.name}` continues" in errors
    row = edge(home, "show", journal.parent.name, "--json")["rows"][0]
    assert row["status"] == "pending"
    assert row["latency_p50_ms"] is None


def test_two_runs_at_once_into_one_folder(home: Path) -> None:
    plan = digits_plan(home, recipes='["float32"]', devices='["this-machine"]')
    environment = {**os.environ, "EDGE_HARNESS_RESULTS": str(home / "results")}
    both = [
        subprocess.Popen(
            [*CLI, "run", str(plan), "--json"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=home,
        )
        for _ in range(2)
    ]
    documents = [json.loads(process.communicate(timeout=120)[0]) for process in both]
    assert documents[0]["run"] != documents[1]["run"]
    assert all(document["rows"][0]["status"] == "ok" for document in documents)
    assert len(edge(home, "runs", "--json")["runs"]) == 2


def test_a_path_with_spaces_quotes_and_letters_of_the_world(home: Path, sshd: LoopbackSshd) -> None:
    folder = home / "ma modèle \"日本\" 'x' $HOME;ls"
    plan = digits_plan(folder, recipes='["float32"]', devices='["this-machine", "board"]')
    farm_of(folder, sshd, workdir=str(folder / "the board's folder"))
    rows = edge(home, "run", plan, "--json")["rows"]
    assert [row["status"] for row in rows] == ["ok", "ok"]


@pytest.fixture(name="full_disk")
def _full_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        if os.environ.get("CI") == "true":
            pytest.fail("a full disk needs root to mount a small one")
        pytest.skip("a full disk needs root to mount a small one")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk_on_the_device_is_a_row_with_the_reason(
    home: Path, sshd: LoopbackSshd, full_disk: Path
) -> None:
    plan = digits_plan(home, recipes='["float32"]', devices='["board"]')
    farm_of(home, sshd, workdir=str(full_disk / "w"))
    row = edge(home, "run", plan, "--json", code=1)["rows"][0]
    assert row["status"] == "no_space"
    assert "bytes are free" in row["reason"]
    assert row["latency_p50_ms"] is None


@pytest.mark.parametrize("what", ["no-python", "no-runtime"])
def test_a_device_without_python_or_runtime(home: Path, sshd: LoopbackSshd, what: str) -> None:
    python = "/no/such/python3"
    if what == "no-runtime":
        empty = home / "empty"
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", empty], check=True)
        python = str(empty / "bin" / "python")
    plan = digits_plan(home, recipes='["float32"]', devices='["board"]')
    farm_of(home, sshd, python=python)
    row = edge(home, "run", plan, "--json", code=1)["rows"][0]
    assert row["status"] == "no_runtime"
    assert "python" in row["reason"]
    doctor = edge(home, "doctor", "board", "--farm", home / "farm.toml", "--json", code=1)
    failed = [check for check in doctor["board"] if check["status"] == "fail"]
    assert failed
    assert all(check["mend"] for check in failed)


def test_a_device_whose_clock_is_a_day_off(home: Path, sshd: LoopbackSshd) -> None:
    if not shutil.which("faketime"):
        if os.environ.get("CI") == "true":
            pytest.fail("install faketime")
        pytest.skip("needs faketime")
    wrapper = home / "python-yesterday"
    wrapper.write_text(f'#!/bin/sh\nexec faketime -m -f "-1d" {sys.executable} "$@"\n')
    wrapper.chmod(0o755)
    plan = digits_plan(home, recipes='["float32"]', devices='["board"]')
    farm_of(home, sshd, python=str(wrapper))
    document = edge(home, "run", plan, "--json")
    assert document["rows"][0]["status"] == "ok"
    record = json.loads((home / "results" / document["run"] / "run.json").read_text())
    assert record["devices"]["board"]["facts"]["clock_offset_seconds"] == pytest.approx(
        -86400, abs=60
    )
    checks = edge(home, "doctor", "board", "--farm", home / "farm.toml", "--json", code=None)
    assert any("clock" in c["name"] and c["status"] == "warn" for c in checks["board"])
