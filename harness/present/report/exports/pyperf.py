"""pyperf JSON 1.0: `pyperf compare_to before.json after.json`.

Format: https://pyperf.readthedocs.io/en/latest/api.html#json. One run per launch and one value per
run, the launch's median: pyperf treats all values of a file as independent, and the inferences of
one launch are not. `loops` is the number of inferences of that launch. The launch's warm-up is the
run's warm-up, as the number of inferences and their average.
"""

from __future__ import annotations

from typing import Any

from harness import columns
from harness.present.report.exports.entries import ExportEntry, entries, known
from harness.present.report.plain import json_text
from harness.records.table import display
from harness.records.table.quantiles import LaunchQuantiles
from harness.records.table.rows import Measured
from harness.types import Launch

VERSION = "1.0"
_NS = 1e-9


def write(measured: Measured, *, emulated: bool, include_suspect: bool = False) -> str:
    """Write the suite: one benchmark per row, in seconds per inference."""
    return json_text(
        {
            "version": VERSION,
            "benchmarks": [
                _benchmark(entry)
                for entry in entries(measured, emulated=emulated, include_suspect=include_suspect)
            ],
            "metadata": {"unit": "second"},
        }
    )


def _benchmark(entry: ExportEntry) -> dict[str, Any]:
    facts = entry.facts
    metadata = {
        "name": entry.name,
        "hostname": facts and facts.hostname,
        "platform": facts and "-".join(filter(None, (facts.system, facts.kernel, facts.machine))),
        "cpu_model_name": facts and facts.chip,
        "cpu_count": facts and facts.cores,
        **{name: entry.row[column.name] for name, column in columns.exported("pyperf")},
        "edge_flags": " ".join(entry.row["flags"]),
    }
    return {
        "metadata": _plain(metadata),
        "runs": [_run(launch, quantiles) for launch, quantiles in entry.launches],
    }


def _run(launch: Launch, quantiles: LaunchQuantiles) -> dict[str, Any]:
    warmup = launch.warmup
    metadata = {
        "loops": max(1, launch.inferences),
        "duration": launch.wall_ns * _NS,
        "load_avg_1min": launch.before.load_1m,
        "edge_launch": launch.id,
        "edge_temperature": launch.before.temperature_c,
    }
    run: dict[str, Any] = {"metadata": _plain(metadata), "values": [quantiles.p50 * _NS]}
    if warmup is not None and warmup.inferences > 0:
        run["warmups"] = [[warmup.inferences, warmup.seconds / warmup.inferences]]
    return run


def _plain(metadata: dict[str, Any]) -> dict[str, Any]:
    """Leave out nulls and empty texts, which pyperf refuses, and make each text one line."""
    cleaned = {
        key: display.clean(value) if isinstance(value, str) else value
        for key, value in metadata.items()
    }
    return {key: value for key, value in known(cleaned).items() if value != ""}
