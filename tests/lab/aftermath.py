"""Inspect devices and the stored run after faults; report violated conditions.

The inspection reads files, processes and journal lines directly, without the program under test. Each problem has a kind: `lost` and `doubled` outcomes and launches, `wrong file`, `stray`
files of ours outside the work folder, `orphan` processes, `unreadable` runs.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

import duckdb

from harness import api
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.records import store
from harness.records.store import StoredRun

from .device import LabDevice

ORPHAN_SECONDS = 40.0
"""An agent whose controller is lost without a message ends with its lease, after 30 s."""

_FOLDERS = {"agents", "blobs", "incoming", "out"}
_LEASE = re.compile(r"/(run|var)/lock/edge-harness/[^/]+|/tmp/edge-harness-[^/]+\.lease")


@dataclass(frozen=True, slots=True)
class Problem:
    """A violated condition."""

    kind: str
    what: str


@dataclass(slots=True)
class Inspection:
    """Inspects devices after faults; create it before the faults."""

    devices: Sequence[LabDevice]
    _before: dict[str, set[str]] = field(init=False)

    def __post_init__(self) -> None:
        """Record the files that are outside of the work folders already."""
        self._before = {device.name: strays(device) for device in self.devices}

    def problems(self, run: Path) -> list[Problem]:
        """Inspect the folder of a finished run and its devices, which must run; empty if all is correct."""
        found = list(of_run(run))
        for device in self.devices:
            found += of_device(device)
            new = strays(device) - self._before[device.name]
            found += [Problem("stray", f"{device.name}: {name}") for name in sorted(new)]
        return found


# --- devices -----------------------------------------------------------------------------------


def of_device(device: LabDevice) -> Iterator[Problem]:
    """Inspect the files and processes of a running device."""
    for process in left_processes(device):
        yield Problem("orphan", f"{device.name}: {process}")
    files = device.files(AgentOptions.of(device.entry).workdir)
    for name, content in files.items():
        reason = _wrong(name, content)
        if reason:
            yield Problem("wrong file", f"{device.name}: {name}: {reason}")


def strays(device: LabDevice) -> set[str]:
    """List the files of the device's user outside of the work folder, except leases."""
    own = f"{AgentOptions.of(device.entry).workdir}/"
    return {
        name for name in device.of_user() if not name.startswith(own) and not _LEASE.fullmatch(name)
    }


def ours(device: LabDevice) -> dict[int, str]:
    """List our agent's processes on a device and their children: process id to command."""
    agents = f"{AgentOptions.of(device.entry).workdir}/agents/"
    return {pid: command for pid, command in device.commands().items() if agents in command}


def left_processes(device: LabDevice, seconds: float = ORPHAN_SECONDS) -> list[str]:
    """Wait until our processes on a device end; returns those that did not."""
    deadline = time.monotonic() + seconds
    while (left := ours(device)) and time.monotonic() < deadline:
        time.sleep(0.1)
    return sorted(left.values())


def _wrong(name: str, content: bytes) -> str | None:
    """Return the fault of a file in the work folder, None if it is correct; `name` is relative to it."""
    folder, _, file = name.partition("/")
    if folder not in _FOLDERS:
        return "not one of our folders"
    if file.endswith(".part") or folder == "incoming" or file.startswith("."):
        return None  # not under a final name
    if folder == "agents":
        return None if _is_whole_zip(content) else "not a whole zip"
    found = hashlib.sha256(content).hexdigest()
    return None if found == file else f"its sha256 is {found}"


def _is_whole_zip(content: bytes) -> bool:
    try:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return archive.testzip() is None
    except zipfile.BadZipFile:
        return False


# --- the stored run ----------------------------------------------------------------------------


def of_run(run: Path) -> Iterator[Problem]:
    """Inspect the folder of a run."""
    try:
        stored = store.open_folder(run)
        frame = api.load(run.name, results=run.parent)
    except Exception as error:  # noqa: BLE001 - no error may make a run unreadable
        yield Problem("unreadable", f"{run}: {error!r}")
        return
    if len(frame) != len(stored.record.cells):
        yield Problem("lost", f"{len(frame)} rows of {len(stored.record.cells)} cells")
    yield from (Problem("unreadable", text) for text in stored.damage())
    launches = journal(run / "launches.jsonl")
    outcomes = journal(run / "outcomes.jsonl")
    yield from _of_launches(stored, launches)
    yield from _of_outcomes(stored, outcomes, {str(line.get("id")) for line in launches})
    yield from _shown(run, len(stored.record.cells))


def journal(path: Path) -> list[dict[str, Any]]:
    """Read a journal as plain JSON lines."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def _of_launches(stored: StoredRun, lines: Sequence[Mapping[str, Any]]) -> Iterator[Problem]:
    places = Counter(
        (line["cell_id"], line["kind"], line["block"], line["position"]) for line in lines
    )
    yield from (
        Problem("doubled", f"launch {place}") for place, count in places.items() if count > 1
    )
    sampled = _sampled(stored.path / "samples")
    for line in lines:
        if line["id"] not in sampled:
            yield Problem("lost", f"the samples of launch {line['id']}")
    for name in sampled - {line["id"] for line in lines}:
        yield Problem("doubled", f"samples of launch {name}, which is not in the journal")


def _sampled(folder: Path) -> set[str]:
    """Return the names of launches with samples on disk."""
    files = [str(path) for path in folder.glob("*.parquet")]
    if not files:
        return set()
    with duckdb.connect() as connection:
        rows = connection.execute("SELECT DISTINCT launch FROM read_parquet(?)", [files])
        return {str(name) for (name,) in rows.fetchall()}


def _of_outcomes(
    stored: StoredRun, lines: Sequence[Mapping[str, Any]], launches: set[str]
) -> Iterator[Problem]:
    counts = Counter(line["cell"] for line in lines)
    last = {line["cell"]: line for line in lines}
    for cell in stored.record.cells:
        if counts[cell.id] != 1:
            kind = "doubled" if counts[cell.id] else "lost"
            yield Problem(kind, f"cell {cell.id} on {cell.device}: {counts[cell.id]} outcomes")
            continue
        line = last[cell.id]
        failure = line.get("failure")
        if failure is not None:
            if not failure["kind"] or not failure["reason"]:
                yield Problem("lost", f"cell {cell.id}: a failure without a reason: {failure}")
            continue
        wanted = [f"{cell.id}-timed-{block}-" for block in range(cell.dose.launches)]
        wanted += [f"{cell.id}-memory-{block}-" for block in range(cell.dose.memory_launches)]
        named = line["launches"]
        for start in wanted:
            if sum(name.startswith(start) for name in named) != 1:
                yield Problem("lost", f"cell {cell.id}: {start}* in {named}")
        yield from (
            Problem("lost", f"launch {name} of cell {cell.id}")
            for name in named
            if name not in launches
        )
    for cell_id in counts.keys() - {cell.id for cell in stored.record.cells}:
        yield Problem("doubled", f"an outcome of cell {cell_id}, which is not of this run")


def _shown(run: Path, cells: int) -> Iterator[Problem]:
    """Compare with the output of the command."""
    command = Path(sys.executable).with_name("edge-harness")
    argv = [str(command), "show", run.name, "--results", str(run.parent), "--format", "json"]
    done = subprocess.run(argv, capture_output=True, check=False, timeout=120.0)
    if done.returncode != 0 or len(json.loads(done.stdout)["rows"]) != cells:
        yield Problem("unreadable", f"show ends with {done.returncode}: {done.stderr!r}")
