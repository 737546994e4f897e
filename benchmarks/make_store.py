"""Make a store of many runs from one: `python benchmarks/make_store.py RUN FOLDER COUNT`.

Each copy is a whole run with an id of its own, a minute after the one before. Files that no copy has of
its own are hard links, so a thousand runs take about a second.
"""

from __future__ import annotations

import json
import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from harness.records.store import checksums

_FIRST = datetime(2026, 1, 1, tzinfo=UTC)


def copies(source: Path, root: Path, count: int) -> None:
    """Copy a run's folder `count` times into `root`."""
    record = json.loads((source / "run.json").read_text(encoding="utf-8"))
    del record["sum"]
    files = [path for path in source.rglob("*") if path.is_file() and path.name != "run.json"]
    name = source.name.split("-", 2)[2].rpartition("-")[0]
    for number in range(count):
        moment = _FIRST + timedelta(minutes=number)
        made = root / f"{moment:%Y%m%d-%H%M%S}-{name}-{number:06x}"
        for path in files:
            target = made / path.relative_to(source)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.link(path, target)
        copy = {**record, "id": made.name, "created": moment.isoformat(timespec="microseconds")}
        text = checksums.summed(copy, "/run.json")
        (made / "run.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    copies(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
