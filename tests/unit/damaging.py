"""Damage the files of stored runs, and compare their rows with those before.

The tests use short slices of it; `benchmarks/damage.py` runs the whole campaign.
"""

from __future__ import annotations

import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from synthetic_runs import cell, latencies, launch, measure, record

from harness.analysis.gate import document
from harness.errors import StoreError
from harness.present.report.exports import verdicts
from harness.records.store import Store
from harness.records.table.rows import read, rows_of
from harness.types import Delegation, Failure, Launch, Outcome

NOT_OF_THE_RECORD = ("lock",)

Damage = Callable[[Path, random.Random], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What a reader learns about a run."""

    rows: Sequence[Mapping[str, Any]]
    verdict: object
    """The gate's document."""
    said: bool
    """Whether the reader is told of damage."""
    error: str = ""
    """The only line, if the run cannot be read."""

    def against(
        self, before: Reading, *, has_ended: bool, earlier: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """Return `error`, `damaged`, `noted`, `same`, `lost` or `SILENT`, for a reading after damage.

        `lost`: rows are pending again or as they were `earlier`, or the gate has no verdict yet. That is
        right for the end of a journal of a run that has not ended: a run that was killed a moment
        earlier looks the same.
        """
        if self.error:
            return "error"
        is_earlier = False
        if self.verdict != before.verdict:
            if has_ended or self.verdict is not None:
                return "SILENT"
            is_earlier = True
        changed = [
            mine
            for mine, other in zip(self.rows, before.rows, strict=True)
            if _plain(mine) != _plain(other)
        ]
        pending = [
            row
            for row in changed
            if not has_ended and (row["status"] == "pending" or row in earlier)
        ]
        damaged = [row for row in changed if row["status"] == "damaged"]
        if len(changed) > len(pending) + len(damaged) or (damaged and not self.said):
            return "SILENT"
        if damaged:
            return "damaged"
        if pending or is_earlier:
            return "lost"
        return "noted" if self.said else "same"


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a row without the flag that tells of lost checksums, which is no silent change."""
    return {**row, "flags": [flag for flag in row["flags"] if flag != "unchecked"]}


def look(folder: Path) -> Reading:
    """Read a run as the commands do; a fault that is no StoreError passes through."""
    try:
        run = Store(folder.parent).open(folder.name)
        measured = read(run)
        return Reading(
            # A copy of a run has the id of its folder.
            rows=[{**row.plain(), "run": ""} for row in rows_of(measured)],
            verdict=verdicts.of(run),
            said=bool(measured.damage.sentences or measured.damage.cells),
        )
    except StoreError as error:
        assert "\n" not in str(error)
        return Reading(rows=(), verdict=None, said=True, error=str(error))


def make(root: Path, *, has_ended: bool = True, scale: float = 1.0) -> Path:
    """Store a run of every kind of row: ok, failed after a launch, accelerated, not built, pending."""
    good = [cell(recipe) for recipe in ("float32", "int8")]
    failed, pending = cell("dynamic"), cell("float16")
    fast = cell("float32@gpu", target="gpu")
    bad = cell("int16x8", variant=Failure(kind="not_built", reason="no calibration data"))
    with Store(root).create(record([*good, fast, failed, bad, pending])) as writer:
        writer.outcome(Outcome(cell=failed, failure=Failure(kind="crashed", reason="signal 11")))
        writer.launch(launch(failed, latencies(failed, 0, 20), flags=("hot_start",)))
        writer.outcome(Outcome(cell=failed, failure=Failure(kind="crashed", reason="signal 6")))
        for one in good:
            measure(writer, one, blocks=2, n=20, scale=scale)
        made = [accelerated(fast, block, scale) for block in range(2)]
        for item in made:
            writer.launch(item)
        writer.outcome(Outcome(cell=fast, launches=tuple(made)))
        assert isinstance(bad.variant, Failure)
        writer.outcome(Outcome(cell=bad, failure=bad.variant))
        writer.launch(launch(pending, latencies(pending, 0, 20), flags=("uncontrolled",)))
        writer.log({"event": "checked", "cell": good[0].id})
        result = document.Result(baseline="a", candidate="b", away={"third": "no route"})
        gate = document.stored(result, writer.record.key)
        (writer.path / document.FILE).write_text(gate, encoding="utf-8")
        if has_ended:
            writer.finish()
    return writer.path


def accelerated(of: Any, block: int, scale: float) -> Launch:
    """Make a launch of an accelerator that took every operator."""
    delegation = Delegation(
        delegate="gpu", delegated_ops=5, total_ops=5, partitions=1, evidence="graph walk"
    )
    values = latencies(of, block, 20, 0.5 * scale)
    return launch(of, values, block, delegation=delegation)


def files(folder: Path) -> list[Path]:
    """List the files of a run's record."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if path.name not in NOT_OF_THE_RECORD)


class Campaign:
    """Damages a run again and again, each time from its intact state, and counts what readers see."""

    def __init__(self, run: Path) -> None:
        """Read the intact run, which writes its cache of quantiles."""
        self._run = run
        contents = run / "contents.json"
        self._has_ended = contents.exists() and '"end":{' in contents.read_text(encoding="utf-8")
        self.before = look(run)
        assert not self.before.said, self.before
        self._intact = {path: path.read_bytes() for path in files(run)}
        self._earlier = [] if self._has_ended else self._earlier_rows()
        self.seen: Counter[str] = Counter()
        self.silent: list[str] = []

    def _earlier_rows(self) -> list[Mapping[str, Any]]:
        """Return the rows that the run had after each of its outcomes."""
        journal = self._run / "outcomes.jsonl"
        lines = journal.read_bytes().splitlines(keepends=True)
        rows: list[Mapping[str, Any]] = []
        for count in range(len(lines)):
            journal.write_bytes(b"".join(lines[:count]))
            rows += look(self._run).rows
        self.restore()
        return rows

    @property
    def files(self) -> list[Path]:
        """The intact files."""
        return list(self._intact)

    def try_one(self, name: str, damage: Callable[[], object], *, cached: bool = True) -> str:
        """Damage the run, look at it and restore it; without `cached`, the quantiles are made again."""
        damage()
        if not cached:
            (self._run / "quantiles.json").unlink(missing_ok=True)
        after = look(self._run)
        seen = after.against(self.before, has_ended=self._has_ended, earlier=self._earlier)
        self.seen[seen] += 1
        if seen == "SILENT":
            self.silent.append(name)
        self.restore()
        return seen

    def restore(self) -> None:
        """Restore the intact files."""
        for path in set(files(self._run)) - set(self._intact):
            path.unlink()
        for path, data in self._intact.items():
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(data)

    def flips(self, count: int, seed: int) -> None:
        """Flip single bits: half of them anywhere, half in a file chosen before the place."""
        rng = random.Random(seed)
        sizes = [len(self._intact[path]) for path in self.files]
        for number in range(count):
            weights = sizes if number % 2 else None
            (path,) = rng.choices(self.files, weights)
            data = bytearray(self._intact[path])
            place, bit = rng.randrange(len(data)), rng.randrange(8)
            data[place] ^= 1 << bit
            self.try_one(
                f"bit {bit} of byte {place} of {path.name}",
                lambda path=path, data=data: path.write_bytes(data),  # type: ignore[misc]
                cached=number % 4 < 2,
            )

    def every_file(self, seed: int, count: int = 4) -> Iterator[tuple[str, Path, bytes | None]]:
        """Yield larger damage of every file: the kind, the file, its bytes or None if it is gone."""
        rng = random.Random(seed)
        for path in self.files:
            data = self._intact[path]
            yield "deleted", path, None
            yield "emptied", path, b""
            for _ in range(count):
                place = rng.randrange(len(data))
                yield "cut", path, data[:place]
                yield (
                    "zeros",
                    path,
                    data[:place] + bytes(min(200, len(data) - place)) + data[place + 200 :],
                )
            yield "garbage at the end", path, data + b"garbage"

    def every_line(self) -> Iterator[tuple[str, Path, bytes]]:
        """Yield journals in which a line is deleted, repeated, moved, or cut off at the end."""
        for path in self.files:
            if path.suffix != ".jsonl":
                continue
            lines = self._intact[path].splitlines(keepends=True)
            for place, line in enumerate(lines):
                rest = [*lines[:place], *lines[place + 1 :]]
                yield "line deleted", path, b"".join(rest)
                yield "line repeated", path, b"".join([*lines, line])
                yield "line moved to the front", path, b"".join([line, *rest])
                yield "line moved to the end", path, b"".join([*rest, line])
                yield "lines cut off", path, b"".join(lines[:place])
                yield "last line cut", path, b"".join(lines[:place]) + line[: len(line) // 2]

    def run_damages(self, damages: Iterator[tuple[str, Path, bytes | None]]) -> None:
        """Try each damage with and without the cache of the quantiles."""
        for number, (kind, path, data) in enumerate(damages):
            self.try_one(f"{path.name}: {kind}", _replacing(path, data), cached=number % 2 == 0)

    def swaps(self, other: Path) -> None:
        """Put each file of another run in the place of this run's."""
        for path in self.files:
            theirs = other / path.relative_to(self._run)
            self.try_one(f"{path.name} of another run", _replacing(path, theirs.read_bytes()))


def _replacing(path: Path, data: bytes | None) -> Callable[[], object]:
    return path.unlink if data is None else lambda: path.write_bytes(data)


def copy(run: Path, root: Path) -> Path:
    """Copy a run into another folder of runs, with its name."""
    shutil.copytree(run, root / run.name)
    return root / run.name


__all__ = ["Campaign", "Reading", "accelerated", "copy", "files", "look", "make"]
