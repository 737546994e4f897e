"""Fixtures with a real agent on this machine.

Test modules name this file in `pytest_plugins`: a second conftest.py would hide the first one's
names from `from conftest import ...`.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from agent_lab import SECONDS, SHORT, RawAgent, digest_of
from shared_data import shared_file

from harness.devices.dialects.python_agent.dialect import JsonLinesDialect, open_json_lines
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.dialects.python_agent.packing import agent_zip
from harness.devices.transports.local import LocalTransport, open_local
from harness.types import Device, LaunchOrder


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache folder of the test's own, where the agent is packed."""
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="session")
def shared_data() -> Path:
    return shared_file("")


@pytest.fixture(scope="session")
def kws(shared_data: Path) -> Path:
    return shared_data / "kws" / "kws_ref_model.tflite"


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    # Spaces and letters outside ASCII belong in a path.
    return tmp_path / "über workdir"


@pytest.fixture
def device(workdir: Path, own_cache: None) -> Device:
    return Device(
        name="bench-one",
        profile="linux_x86_64",
        address="local:",
        dialect_options={"python": sys.executable, "workdir": str(workdir)},
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


@pytest.fixture
def raw(transport: LocalTransport, device: Device, workdir: Path) -> Iterator[RawAgent]:
    archive, digest = agent_zip()
    target = workdir / "agents" / f"{digest}.zip"
    transport.put(archive, str(target))
    channel = transport.talk([AgentOptions.of(device).python, str(target)])
    agent = RawAgent(channel, workdir)
    agent.take()
    yield agent
    channel.close()
