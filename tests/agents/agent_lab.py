"""Helpers for tests with a real agent on this machine; the fixtures are in agent_fixtures.py."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from harness.devices.framing import JsonLines
from harness.protocols import Channel
from harness.types import Dose

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
SHORT = Dose(min_inferences=20, min_seconds=0.01, warmup_seconds=0.01)
LONG = Dose(min_inferences=20, min_seconds=60.0, max_seconds=60.0, warmup_seconds=0.01)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def agent_module(name: str) -> ModuleType:
    """A source file of the agent, imported alone."""
    path = ROOT / "agents" / "python_tflite" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"agent_{name}", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def launch_processes(workdir: Path) -> list[int]:
    """Pids of the launches of the agent in `workdir`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
                zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            ours = any(one.startswith(os.fsencode(workdir)) for one in arguments)
            if ours and b"child" in arguments and not zombie:
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the state did not come before the deadline"
        time.sleep(0.01)
    return found


@dataclass
class RawAgent:
    """A connection to the agent, one request at a time."""

    channel: Channel
    workdir: Path
    lines: JsonLines = field(init=False)
    last: int = 0
    epoch: int = 0

    def __post_init__(self) -> None:
        self.lines = JsonLines(self.channel, "raw")

    def send(self, verb: str, **fields: Any) -> int:
        self.last += 1
        self.lines.send({"v": 1, "id": self.last, "verb": verb, "epoch": self.epoch, **fields})
        return self.last

    def read(self) -> dict[str, Any]:
        return self.lines.read(time.monotonic() + SECONDS)

    def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        self.send(verb, **fields)
        while (answer := self.read())["event"] == "progress":
            pass
        return answer

    def take(self, token: str = "rawrawraw") -> dict[str, Any]:
        """Take the device's lease; what is asked from now on is of its epoch."""
        answer = self.ask("lease", action="take", token=token, holder=f"raw {token}")
        self.epoch = answer.get("epoch", self.epoch)
        return answer

    def give(self, source: Path, part: str | None = None) -> dict[str, Any]:
        digest = digest_of(source)
        part = part or f"{digest}.part"
        shutil.copyfile(source, self.workdir / "incoming" / part)
        return self.ask("commit", digest=digest, part=part)
