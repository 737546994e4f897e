"""Two users and one device: the second one is told who has it, or waits."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from edge_command import CLI, edge
from test_cli_job import digits_plan, farm_of

from harness.demo.loopback_sshd import LoopbackSshd
from harness.devices import renewal
from harness.measure.sessions import Session
from harness.types import Device


@pytest.fixture
def leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "leases"
    folder.mkdir()
    monkeypatch.setenv("EDGE_HARNESS_LEASES", str(folder))
    return folder


@pytest.fixture
def taken(leases: Path, own_sshd: LoopbackSshd, tmp_path: Path) -> Iterator[Session]:
    """The board of the farm, held by this process with a work folder of its own."""
    session = Session(
        Device(
            name="board",
            profile="linux_x86_64",
            address=own_sshd.uri,
            transport_options={
                "identity": str(own_sshd.identity),
                "known_hosts": str(own_sshd.known_hosts),
            },
            dialect_options={
                "python": sys.executable,
                "workdir": str(tmp_path / "the other user's"),
            },
        )
    )
    session.hold()
    yield session
    session.close()


def test_everybody_is_told_who_has_a_device(
    tmp_path: Path, taken: Session, own_sshd: LoopbackSshd
) -> None:
    farm = farm_of(tmp_path, own_sshd)
    plan = digits_plan(tmp_path / "plan", recipes='["as_is"]', devices='["board"]')
    me = renewal.holder()

    (row,) = edge(tmp_path, "devices", "board", "--farm", farm, "--json")["devices"]
    assert (row["status"], row["busy_by"]) == ("busy", me)
    assert me in edge(tmp_path, "devices", "board", "--farm", farm).replace("\n", " ")

    ran = edge(tmp_path, "run", plan, "--no-wait", "--farm", farm, "--json", code=1)
    assert {row["status"] for row in ran["rows"]} == {"busy"}
    assert all(me in row["reason"] and "--wait" in row["reason"] for row in ran["rows"])

    checks = {
        one["name"]: one
        for one in edge(tmp_path, "doctor", "board", "--farm", farm, "--json")["board"]
    }
    assert checks["agent"]["status"] == "skip"
    assert me in str(checks["agent"])

    (row,) = edge(tmp_path, "devices", "board", "--clean", "--farm", farm, "--json", code=1)[
        "devices"
    ]
    assert row["status"] == "busy"
    assert "--wait" not in row["reason"]  # `devices` does not have it
    for words in (
        ("setup", "board", "--no-wait"),
        ("selftest", "board", "--no-wait"),
        ("add", own_sshd.uri, "--name", "board", "--no-wait"),
        (
            "gate",
            plan,
            "--baseline",
            "as_is",
            "--candidate",
            plan.with_name("digits.tflite"),
            "--measure-identical",
            "--no-wait",
        ),
    ):
        output = edge(tmp_path, *words, "--farm", farm, code=None).replace("\n", " ")
        assert me in output
        assert words[0] == "gate" or "wait for it with the option --wait" in output

    taken.release()
    ran = edge(tmp_path, "run", "--farm", farm, plan, "--json")
    assert {row["status"] for row in ran["rows"]} == {"ok"}


def test_a_run_that_waits_starts_when_the_device_is_free(
    tmp_path: Path, taken: Session, own_sshd: LoopbackSshd
) -> None:
    farm = farm_of(tmp_path, own_sshd)
    plan = digits_plan(tmp_path / "plan", recipes='["as_is"]', devices='["board"]')
    freed: list[float] = []

    def free() -> None:
        time.sleep(6.0)
        freed.append(time.monotonic())
        taken.release()

    thread = threading.Thread(target=free)
    thread.start()
    ran = edge(tmp_path, "run", plan, "--farm", farm, "--wait", "--json")
    thread.join()
    assert {row["status"] for row in ran["rows"]} == {"ok"}
    assert time.monotonic() > freed[0]


def test_ctrl_c_ends_the_waiting(tmp_path: Path, taken: Session, own_sshd: LoopbackSshd) -> None:
    farm = farm_of(tmp_path, own_sshd)
    plan = digits_plan(tmp_path / "plan", recipes='["as_is"]', devices='["board"]')
    waiting = subprocess.Popen(
        [*CLI, "run", str(plan), "--farm", str(farm), "--wait"],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=tmp_path,
        text=True,
    )
    assert waiting.stderr is not None
    try:
        lines = []
        while not lines or "waiting until it is free" not in lines[-1]:
            lines.append(waiting.stderr.readline())
            assert lines[-1], lines
        assert renewal.holder() in lines[-1]
        waiting.send_signal(2)
        assert waiting.wait(20) == 130
    finally:
        waiting.kill()
        waiting.wait()
        waiting.stderr.close()
