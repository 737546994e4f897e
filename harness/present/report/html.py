"""Write a run as one self-contained HTML page: no scripts, no external resources, phone-friendly.

:mod:`harness.present.report.charts` draws the charts as SVG. The page's content security policy
forbids everything else. Every text is escaped, also names from a device or a plan.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from harness import assets
from harness.errors import HarnessError
from harness.present.report import figures
from harness.printable import counted
from harness.records.store import DeviceRecord, StoredRun
from harness.records.store.journal import appearing
from harness.records.table import MEASURED, PENDING, Row, display, minutes, trust
from harness.records.table.rows import Measured, read, rows_of

_TEMPLATE = "page.html.j2"
_MAX_ROWS = 20_000
"""Rows of the table. A page of them has about 12 MB, which a browser opens in seconds."""
_MAX_REASONS = 200

_NOT_RANKED = frozenset({"emulated", "simulated"})


def write(run: StoredRun, path: Path) -> None:
    """Write the page of a run, completely or not at all.

    Raises StoreError if the run cannot be read or the page cannot be written, HarnessError if
    jinja2 is missing.
    """
    write_measured(read(run), path)


def write_measured(measured: Measured, path: Path) -> None:
    """Write the page of a run that is read already; see :func:`write`."""
    text = page_of(measured)
    with appearing(path) as part:
        part.write_text(text, encoding="utf-8")


def page(run: StoredRun) -> str:
    """Return the HTML of a run's page."""
    return page_of(read(run))


def page_of(measured: Measured) -> str:
    """Return the HTML of the page of a run that is read already."""
    try:
        from jinja2 import Environment, FileSystemLoader, StrictUndefined
    except ImportError as error:
        raise HarnessError(
            f"the HTML page needs jinja2, which is not installed; {assets.install_command('report')}"
        ) from error
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(_TEMPLATE).render(_context(measured))


def _context(measured: Measured) -> dict[str, Any]:
    run = measured.run
    rows = rows_of(measured)
    columns = display.columns(rows)
    drawn = figures.drawn(measured, rows)
    return {
        "counted": counted,
        "run": run.record,
        "models": list(dict.fromkeys(display.clean(row["model"]) for row in rows)),
        "counts": {
            "measured": sum(row["status"] in MEASURED for row in rows),
            "failed": sum(row["status"] not in (*MEASURED, PENDING) for row in rows),
            "pending": sum(row["status"] == PENDING for row in rows),
        },
        "best": _best(rows),
        "columns": columns,
        "rows": [
            {"status": row["status"], "cells": [column.text(row) for column in columns]}
            for row in rows[:_MAX_ROWS]
        ],
        "left_out": max(0, len(rows) - _MAX_ROWS),
        "reasons": _first(display.explained(rows)),
        "evidence": _first(display.evidence(rows)),
        "legend": [
            *display.legend(rows, flags=False).splitlines(),
            *minutes.lines(measured, rows),
        ],
        "flags": display.flag_meanings(rows),
        "figures": drawn,
        "devices": [_device(name, item) for name, item in run.record.devices.items()],
        "host": _facts(run.record.host),
        "versions": _facts(run.record.versions),
        "plan": json.dumps(run.record.plan, indent=2, ensure_ascii=False),
        "gate": _gate(run),
        "damage": _first([display.clean(line) for line in measured.damage.sentences]),
    }


def _first(lines: Sequence[str]) -> list[str]:
    """Return the first lines, and how many more there are."""
    more = len(lines) - _MAX_REASONS
    return [*lines[:_MAX_REASONS], *([counted(more, "more reason")] if more > 0 else [])]


def _gate(run: StoredRun) -> dict[str, Any] | None:
    """Return the verdict of a gate's run: the comparisons, the reasons, and the sides' names."""
    from harness.analysis.gate.document import reasons, summary
    from harness.present.report.exports import verdicts

    found = verdicts.of(run)
    if found is None:
        return None
    sides = f"A: {found['baseline']}; B: {found['candidate']}"
    return {
        "verdict": found["verdict"] or "no verdict",
        "rows": [
            {key: display.clean(text) for key, text in row.items()} for row in verdicts.table(found)
        ],
        "reasons": [display.clean(line) for line in reasons(found)],
        "about": [
            display.clean(line) for line in (sides, summary(found), *verdicts.remarks(found))
        ],
    }


def _best(rows: Sequence[Row]) -> list[dict[str, str]]:
    """Return the row with the lowest p50 per model and device, without emulators and doubtful rows."""
    found: dict[tuple[str, str], Row] = {}
    for row in rows:
        if not _is_ranked(row):
            continue
        key = (row["model"], row["device"])
        if key not in found or row["latency_p50_ms"] < found[key]["latency_p50_ms"]:
            found[key] = row
    return [
        {
            "where": display.clean(f"{model} on {device}"),
            "recipe": display.clean(row["recipe"]),
            "p50": display.milliseconds(row["latency_p50_ms"]),
            "interval": display.half_width(row),
            "accuracy": display.accuracy(row["accuracy"], row),
            "size": display.size(row["size_bytes"]),
        }
        for (model, device), row in found.items()
    ]


def _is_ranked(row: Row) -> bool:
    """Return whether a row can be the best: VALID and measured on a device."""
    return (
        row["status"] == "ok"
        and row["latency_p50_ms"] is not None
        and not _NOT_RANKED & set(row["flags"])
        and trust.doubt(row) is None
    )


def _device(name: str, item: DeviceRecord) -> dict[str, Any]:
    plain: dict[str, Any] = {"profile": item.device.profile, "address": item.device.address}
    if item.device.tags:
        plain["tags"] = item.device.tags
    if item.facts is not None:
        facts = item.facts
        runtimes = [f"{runtime.name} {runtime.version}" for runtime in facts.runtimes]
        memory = facts.memory_total_bytes
        plain |= {
            "board": facts.board,
            "chip": facts.chip,
            "cores": facts.cores,
            "memory": None if memory is None else f"{memory / 1e9:.1f} GB",
            "system": " ".join(filter(None, (facts.system, facts.kernel, facts.machine))) or None,
            "libc": facts.libc,
            "python": facts.python,
            "runtimes": runtimes,
            "governor": facts.governor,
            "temperature": None if facts.temperature_c is None else f"{facts.temperature_c:.1f} °C",
            "accelerators": facts.accelerators,
            "identity": facts.identity,
        }
    failure = None if item.failure is None else f"{item.failure.kind}: {item.failure.reason}"
    return {
        "name": display.clean(name),
        "facts": _facts(plain),
        "failure": None if failure is None else display.clean(failure),
    }


def _facts(plain: Mapping[str, Any]) -> dict[str, str]:
    """Format the facts that are known; lists are joined."""
    return {
        display.clean(key): display.clean(
            ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else value
        )
        for key, value in plain.items()
        if value not in (None, "", (), [])
    }
