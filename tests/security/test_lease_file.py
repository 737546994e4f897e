"""Every user of a device can write the lease file, so its content is not trusted."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCES = Path(__file__).resolve().parents[2] / "agents" / "python_tflite"

# os.kill is replaced by a recorder: a real kill of -1 would end every process of this user.
SCRIPT = """
import json, os, sys, time
sys.path.insert(0, sys.argv[1])
import lease
killed = []
os.kill = lambda pid, signal: killed.append(pid)
for pid, start in json.loads(sys.argv[2]):
    start = lease.start(pid) if start is None else start
    entry = lease.Entry(1, lease._boot(), 1, pid, start, "t" * 16, "x")
    began = time.monotonic()
    lease._supersede(entry, "t" * 16)
    assert time.monotonic() - began < 5
print(json.dumps(killed))
"""


def killed_for(*named: tuple[int, str | None]) -> list[int]:
    """The processes that the next agent kills for a lease with this pid (start None: the true start)."""
    argv = [sys.executable, "-c", SCRIPT, str(SOURCES), json.dumps(named)]
    done = subprocess.run(argv, capture_output=True, check=True, text=True)
    found: list[int] = json.loads(done.stdout)
    return found


@pytest.fixture
def bystander() -> Iterator[int]:
    """A process of this user that is not an agent."""
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process.pid
        process.kill()


def test_no_process_but_an_agent_is_ended(bystander: int) -> None:
    assert killed_for((bystander, None), (os.getpid(), None)) == []


def test_no_number_stands_for_other_processes() -> None:
    numbers, starts = (-1, 0, 1, -2, 2**31, 2**52), (None, "-", "0", "")
    assert killed_for(*((pid, start) for pid in numbers for start in starts)) == []


def test_an_agent_of_this_user_is_ended(tmp_path: Path) -> None:
    zip_there = tmp_path / "agents" / "a.zip"
    zip_there.parent.mkdir()
    zip_there.mkdir()
    (zip_there / "__main__.py").write_text("import time\ntime.sleep(60)\n")
    with subprocess.Popen([sys.executable, str(zip_there)]) as agent:
        assert killed_for((agent.pid, None)) == [agent.pid]
        agent.kill()
