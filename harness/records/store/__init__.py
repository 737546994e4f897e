"""Runs on disk: one folder per run, readable while it is written, consistent after a kill -9.

    store = Store(Path("results/runs"))
    with store.create(record) as writer:
        writer.launch(launch)
        writer.outcome(outcome)
        writer.finish()
    run = store.open("latest")

docs/records.md describes the format of each file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from harness import lazy

if TYPE_CHECKING:
    from harness.records.store.codec import DeviceRecord, RunRecord, new_id
    from harness.records.store.folder import Store
    from harness.records.store.layout import SCHEMA, SEARCHES
    from harness.records.store.read import StoredRun, open_folder
    from harness.records.store.summaries import RunSummary
    from harness.records.store.write import RunWriter, StoredProgress
else:
    __getattr__, __dir__ = lazy.attributes(
        __name__,
        {
            "codec": ("DeviceRecord", "RunRecord", "new_id"),
            "folder": ("Store",),
            "layout": ("SCHEMA", "SEARCHES"),
            "read": ("StoredRun", "open_folder"),
            "summaries": ("RunSummary",),
            "write": ("RunWriter", "StoredProgress"),
        },
    )

__all__ = [
    "SCHEMA",
    "SEARCHES",
    "DeviceRecord",
    "RunRecord",
    "RunSummary",
    "RunWriter",
    "Store",
    "StoredProgress",
    "StoredRun",
    "new_id",
    "open_folder",
]
