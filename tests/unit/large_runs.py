"""A stored run of thousands of rows, written in bulk: the store's own writer syncs every line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import synthetic_runs as synthetic

from harness.records.store import Store, checksums, contents
from harness.records.store.codec import OutcomeLine, dump
from harness.records.store.contents import Contents, RunEnd
from harness.records.store.journal import scope
from harness.records.store.layout import LAUNCHES, OUTCOMES, SAMPLES
from harness.records.store.samples import MERGED
from harness.types import Cell

DEVICES = ("pi", "pixel", "radxa", "jetson")
TARGETS = ("xnnpack", "gpu")
LAUNCHES_OF_A_ROW = 3
SAMPLES_OF_A_LAUNCH = 50


def cells(count: int) -> list[Cell]:
    """Make the cells of a grid: recipes, their targets, and devices; half are an accelerator's."""
    made = []
    for number in range(count):
        recipe = f"int8@{number // (len(TARGETS) * len(DEVICES))}"
        target = TARGETS[number % len(TARGETS)]
        device = DEVICES[number // len(TARGETS) % len(DEVICES)]
        made.append(
            synthetic.cell(
                recipe,
                device,
                target=target,
                variant=replace(synthetic.variant(recipe), target=target),
            )
        )
    return made


def stored(root: Path, count: int) -> str:
    """Store a run of `count` rows with 150 samples each, whole and ended; return its id."""
    import duckdb

    made = cells(count)
    with Store(root).create(synthetic.record(made)) as writer:
        folder, record = writer.path, writer.record
    lines, outcomes = _Lines(LAUNCHES, record.key), _Lines(OUTCOMES, record.key)
    end = RunEnd(launches={}, outcomes={})
    has_bare: set[tuple[str, int]] = set()
    for cell in made:
        kinds = [("timed", block) for block in range(LAUNCHES_OF_A_ROW)] + [("memory", 0)]
        if (cell.device, cell.threads) not in has_bare:
            has_bare.add((cell.device, cell.threads))
            kinds.append(("bare", 0))
        template = _template(cell)
        launches = {}
        for kind, block in kinds:
            named = f"{cell.id}-{kind}-{block}-0"
            plain = {**template, "id": named, "cell_id": cell.id, "kind": kind, "block": block}
            launches[named] = lines.add({**plain, "samples_sha256": "0" * 64})
        end.launches[cell.id] = launches  # type: ignore[index]
        outcome = dump(OutcomeLine(cell=cell.id, launches=tuple(launches)))
        end.outcomes[cell.id] = outcomes.add(outcome)  # type: ignore[index]
    lines.write(folder)
    outcomes.write(folder)
    merged = folder / SAMPLES / MERGED
    ids = [(cell, named) for cell, launches in end.launches.items() for named in launches]
    with duckdb.connect() as connection:
        connection.execute("CREATE TABLE launches (cell VARCHAR, launch VARCHAR, number INTEGER)")
        _insert(connection, ids)
        connection.execute(_COPY.format(run=record.id, samples=SAMPLES_OF_A_LAUNCH, path=merged))
    digest = checksums.digest(merged)
    contents.write(folder, record.key, Contents(merged={digest: lines.count}, end=end))
    return record.id


_COPY = """
    COPY (
        SELECT '{run}' AS run, cell, launch, kind[2]::INTEGER AS block, 0::INTEGER AS position,
            kind[1] AS kind, if(kind[1] = 'timed', 'latency', 'peak_rss') AS series,
            place::BIGINT AS at_ns,
            if(kind[1] = 'timed', 200000 + 1000 * sin(number * 7 + place * 3 + number % 5), 6e7 + number)::DOUBLE
                AS value,
            1::BIGINT AS count
        FROM (SELECT *, string_split(launch, '-')[2:3] AS kind FROM launches),
            LATERAL (SELECT unnest(range(if(kind[1] = 'timed', {samples}, 1))) AS place)
        ORDER BY cell, kind, block, launch, series, at_ns
    ) TO '{path}' (FORMAT parquet, COMPRESSION zstd)
"""


def _insert(connection: Any, ids: list[tuple[str, str]]) -> None:
    import numpy as np

    columns = {
        "cell": np.array([cell for cell, _ in ids], dtype=object),
        "launch": np.array([launch for _, launch in ids], dtype=object),
        "number": np.arange(len(ids), dtype=np.int32),
    }
    connection.register("columns", columns)
    connection.execute("INSERT INTO launches SELECT cell, launch, number FROM columns")


def _template(cell: Cell) -> dict[str, Any]:
    launch = synthetic.launch(cell, [])
    delegation = replace(launch.delegation, delegate=cell.target, evidence="graph walk")
    made: dict[str, Any] = dump(
        replace(launch, delegation=delegation, inferences=SAMPLES_OF_A_LAUNCH, samples=())
    )
    return made


class _Lines:
    """The lines of a journal, as the store's writer makes them."""

    def __init__(self, name: str, key: str) -> None:
        self._name, self._scope = name, scope(key, name)
        self._lines: list[str] = []

    @property
    def count(self) -> int:
        return len(self._lines)

    def add(self, plain: dict[str, Any]) -> str:
        text = checksums.summed({**plain, "number": self.count + 1}, self._scope)
        self._lines.append(text)
        return checksums.sum_of(text.encode()) or ""

    def write(self, folder: Path) -> None:
        text = "".join(f"{line}\n" for line in self._lines)
        (folder / self._name).write_text(text, encoding="utf-8")
