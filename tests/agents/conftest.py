"""A real agent on this machine, spoken to by the dialect or line by line."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from harness.dialects.framing import JsonLines
from harness.dialects.json_lines import JsonLinesDialect, open_json_lines
from harness.dialects.packing import agent_zip
from harness.protocols import Channel
from harness.transports.local import LocalTransport, open_local
from harness.types import Device, Dose, LaunchOrder

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 60.0
SHORT = Dose(min_inferences=20, min_seconds=0.01, warmup_seconds=0.01)
LONG = Dose(min_inferences=20, min_seconds=60.0, max_seconds=60.0, warmup_seconds=0.01)


def _missing(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def launch_processes(workdir: Path) -> list[int]:
    """Pids of the launches of the agent in `workdir`."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes().split(b"\0")
                zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            ours = any(word.startswith(os.fsencode(workdir)) for word in words)
            if ours and b"child" in words and not zombie:
                found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], Any], seconds: float = 20.0) -> Any:
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "the state did not come before the deadline"
        time.sleep(0.01)
    return found


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_HARNESS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def shared_data() -> Path:
    folder = ROOT.parent / "shared" / "data"
    if not folder.is_dir():
        _missing("../shared/data with the real models is not there")
    return folder


@pytest.fixture(scope="session")
def kws(shared_data: Path) -> Path:
    return shared_data / "kws" / "kws_ref_model.tflite"


@pytest.fixture(scope="session")
def second_python() -> str:
    """The Python of a venv with tflite-runtime 2.14, which needs numpy 1."""
    folder = ROOT / ".cache" / "tflite-runtime-2.14.0"
    python = folder / "bin" / "python"
    ready = folder / "ready"
    if not ready.is_file():
        # Its wheels end at 3.11.
        here = sys.executable if sys.version_info < (3, 12) else shutil.which("python3.11")
        if here is None:
            _missing("tflite-runtime 2.14 needs Python 3.11 or older; python3.11 is not there")
        subprocess.run([str(here), "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "-q", "tflite-runtime==2.14.0", "numpy<2"]
        if subprocess.run(pip, check=False).returncode:
            _missing("tflite-runtime 2.14 cannot be installed from the package index")
        ready.touch()
    return str(python)


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    # Spaces and letters outside ASCII belong in a path.
    return tmp_path / "über workdir"


@pytest.fixture
def device(workdir: Path) -> Device:
    return Device(
        name="bench-one",
        profile="linux_x86_64",
        address="local:",
        python=sys.executable,
        workdir=str(workdir),
    )


@pytest.fixture
def transport(device: Device) -> Iterator[LocalTransport]:
    opened = open_local(device)
    yield opened
    opened.close()


@pytest.fixture
def dialect(transport: LocalTransport, device: Device) -> Iterator[JsonLinesDialect]:
    opened = open_json_lines(transport, device)
    yield opened
    opened.close()


@pytest.fixture
def order(kws: Path) -> LaunchOrder:
    return LaunchOrder(
        cell_id="cell",
        kind="timed",
        block=1,
        position=2,
        variant_digest=digest_of(kws),
        target="xnnpack",
        threads=1,
        dose=SHORT,
        seed=7,
        timeout_seconds=SECONDS,
    )


@dataclass
class RawAgent:
    """The agent, spoken to line by line."""

    channel: Channel
    workdir: Path
    lines: JsonLines = field(init=False)
    last: int = 0

    def __post_init__(self) -> None:
        self.lines = JsonLines(self.channel, "raw")

    def send(self, verb: str, **fields: Any) -> int:
        self.last += 1
        self.lines.send({"v": 1, "id": self.last, "verb": verb, "epoch": 0, **fields})
        return self.last

    def read(self) -> dict[str, Any]:
        return self.lines.read(time.monotonic() + SECONDS)

    def ask(self, verb: str, **fields: Any) -> dict[str, Any]:
        self.send(verb, **fields)
        while (answer := self.read())["event"] == "progress":
            pass
        return answer

    def give(self, source: Path, part: str | None = None) -> dict[str, Any]:
        digest = digest_of(source)
        part = part or f"{digest}.part"
        shutil.copyfile(source, self.workdir / "incoming" / part)
        return self.ask("commit", digest=digest, part=part)


@pytest.fixture
def raw(transport: LocalTransport, device: Device, workdir: Path) -> Iterator[RawAgent]:
    archive, digest = agent_zip()
    target = workdir / "agents" / f"{digest}.zip"
    transport.put(archive, str(target))
    channel = transport.talk([device.python, str(target)])
    agent = RawAgent(channel, workdir)
    agent.ask("have", digests=[])
    yield agent
    channel.close()
