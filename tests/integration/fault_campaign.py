"""Kill a controller at its fault points, continue, and compare with an undisturbed one.

`Campaign.points` lists the points that one undisturbed command passes. `Campaign.trial` kills the
command at the N-th, lets a user continue, and returns what is lost, doubled or cannot go on.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from zygote import Done, Zygote

from harness.demo import DATA
from harness.durable import FAULT_POINTS
from harness.records.store import Store, StoredRun
from harness.records.store.creation import NEW

Kind = Literal["run", "gate", "search"]
FARM = '[device.board]\nprofile = "linux_x86_64"\naddress = "fakeboard:1"\ndialect = "fakeboard"\n'
PLAN = """
[model]
name = "digits"
path = "digits.tflite"
[run]
recipes = ["as_is", "float16"]
devices = ["board"]
[dose]
launches = 2
[gate]
metrics = ["latency"]
max_pairs = 6
[search]
space = ["as_is", "float16"]
objectives = ["latency_p50_ms", "size_bytes"]
device = "board"
"""
_SIDES = ("--baseline", "as_is", "--candidate", "float16")
_WORDS: dict[Kind, tuple[str, ...]] = {
    "run": ("run", "plan.toml", "--json"),
    "gate": ("gate", "plan.toml", *_SIDES, "--json"),
    "search": ("search", "plan.toml", "--json"),
}
_EXACT = ("metric", "verdict", "a", "b", "pairs", "confirmed")


def prepare(home: Path, farm: str = FARM, plan: str = PLAN) -> None:
    home.mkdir(parents=True, exist_ok=True)
    shutil.copy(DATA / "digits.tflite", home)
    (home / "farm.toml").write_text(farm)
    (home / "plan.toml").write_text(plan)


def name_of(point: str) -> str:
    """Return a point's name without what differs between runs."""
    point = re.sub(r"[0-9a-f]{12}-([a-z]+)-\d+-\d+", r"LAUNCH-\1", point)
    point = re.sub(r"\.?\d{8}-\d{6}-[\w.-]*?-[0-9a-f]{6}", "RUN", point)
    return re.sub(r"[0-9a-f]{40,64}", "DIGEST", point)


@dataclass(slots=True, kw_only=True)
class Campaign:
    """The trials of one kind of command."""

    kind: Kind
    home: Path
    zygote: Zygote
    expected: Any = None
    names: list[str] = field(default_factory=list)

    def points(self) -> list[str]:
        """Return the names of the points of an undisturbed command, in order."""
        # The first one fills the build cache.
        for _ in range(2):
            done = self._start(0)
            assert done.code == 0, (done.out, done.err)
        self.expected = self._found(done.json)
        self.names = [name_of(line) for line in self._log.read_text().splitlines()]
        return self.names

    def trial(self, number: int) -> list[str]:
        """Kill at the point of this number (from 1) and continue; return the faults."""
        killed = self._start(number)
        passed = [name_of(line) for line in self._log.read_text().splitlines()]
        if killed.code != -9:
            return [f"was not killed: exit {killed.code}, {len(passed)} points"]
        before = self._lines()
        faults = self._readers()
        done = self._continue()
        if done.code != 0:
            return [*faults, f"cannot go on: exit {done.code}: {done.err.strip()[-300:]}"]
        found = self._found(done.json)
        if found != self.expected:
            faults.append(f"is not as undisturbed: {found} and not {self.expected}")
        after = self._lines()
        faults += [f"lost: {line[:80]}" for line in before - after]
        return [f"{passed[-1]}: {fault}" for fault in faults]

    # --- the command ------------------------------------------------------------------------------

    @property
    def _log(self) -> Path:
        return self.home / "points"

    @property
    def _results(self) -> Path:
        return self.home / "results"

    def _start(self, number: int) -> Done:
        shutil.rmtree(self._results, ignore_errors=True)
        self._log.unlink(missing_ok=True)
        return self.zygote.edge(
            self.home, *_WORDS[self.kind], **{FAULT_POINTS: f"{number}:{self._log}"}
        )

    def _continue(self) -> Done:
        """Continue what is there, else start again, as a user would."""
        words = _WORDS[self.kind]
        if self.kind == "search":
            begun = list(self._results.glob("searches/*/search.json"))
        else:
            begun = list(self._results.glob("[!.]*/run.json"))
        if len(begun) > 1:
            return Done(code=70, out="", err="several records")
        if begun:
            words = (*words, "--resume", begun[0].parent.name)
        return self.zygote.edge(self.home, *words)

    def _readers(self) -> list[str]:
        """Return the faults of reading what the kill left."""
        listed = self.zygote.edge(self.home, "runs", "--json")
        faults = [] if listed.code == 0 else [f"runs: exit {listed.code}"]
        return faults + [
            f"unreadable: {run['unreadable']}" for run in listed.json["runs"] if run["unreadable"]
        ]

    # --- what is stored ---------------------------------------------------------------------------

    def _runs(self) -> list[StoredRun]:
        store = Store(self._results)
        return [store.open(name) for name in store.ids()]

    def _lines(self) -> set[str]:
        """Return the stored launches that count, as text without the run's name."""
        return {
            f"{launch.id} {launch.wall_ns} {launch.runtime}"
            for run in self._runs()
            for launch in run.launches()
        }

    def _found(self, document: Any) -> Any:
        """Return what must be the same with and without a kill."""
        runs = self._runs()
        samples = [
            row
            for run in runs
            for row in run.query(
                "SELECT kind, series, count(*), sum(value) FROM samples GROUP BY ALL ORDER BY ALL"
            )
        ]
        return {
            "launches": sorted(one.id for run in runs for one in run.launches()),
            "twice": [name for name, count in self._counts().items() if count > 1],
            "samples": sorted(samples),
            "answer": self._answer(document),
            "left": sorted(
                path.name for path in self._results.rglob("*.part") if NEW not in path.parts
            ),
        }

    def _counts(self) -> Counter[str]:
        """Count the measurements of each launch that were not revoked."""
        counts: Counter[str] = Counter()
        for file in self._results.glob("*/launches.jsonl"):
            for line in file.read_text().splitlines():
                plain = json.loads(line)
                plain = plain.get("line", plain)
                if "again" in plain:
                    counts[plain["again"]] -= 1
                else:
                    counts[plain["id"]] += 1
        return counts

    def _answer(self, document: Any) -> Any:
        if self.kind == "run":
            return [
                (row["recipe"], row["status"], row["launches"], row["latency_p50_ms"])
                for row in document["rows"]
            ]
        if self.kind == "gate":
            return [
                document["verdict"],
                *[[_rounded(row[name]) for name in _EXACT] for row in document["rows"]],
            ]
        return [
            sorted(trial["recipe"] for trial in document["trials"]),
            sorted(point["recipe"] for point in document["front"]),
        ]


def _rounded(value: object) -> object:
    return round(value, 9) if isinstance(value, float) else value


def one_of_each(names: Sequence[str]) -> list[int]:
    """Return the number of the last point of each name, from 1."""
    return sorted({name: number for number, name in enumerate(names, start=1)}.values())
