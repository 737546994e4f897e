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
from harness.columns import NS_PER_MS
from harness.errors import HarnessError
from harness.present.report import charts
from harness.records.store import DeviceRecord, StoredRun
from harness.records.store.journal import appearing
from harness.records.table import MEASURED, PENDING, Row, display, minutes, trust
from harness.records.table.rows import Measured, read, rows_of

_TEMPLATE = "page.html.j2"
_CURVE_POINTS = 41
_MAX_CURVES = 24
"""The number of cells with a curve; more would make the page too long."""

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
    from markupsafe import Markup

    run = measured.run
    rows = rows_of(measured)
    columns = display.columns(rows)
    drawn = {name: Markup(svg) for name, svg in _charts(measured, rows).items()}  # noqa: S704 - escaped by the charts
    return {
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
            for row in rows
        ],
        "reasons": display.explained(rows),
        "evidence": display.evidence(rows),
        "legend": [
            *display.legend(rows, flags=False).splitlines(),
            *minutes.lines(measured),
        ],
        "flags": display.flag_meanings(rows),
        "boxes": {
            name.removeprefix("box "): svg for name, svg in drawn.items() if name.startswith("box ")
        },
        "curves": {
            name.removeprefix("ecdf "): svg
            for name, svg in drawn.items()
            if name.startswith("ecdf ")
        },
        "sizes": drawn.get("sizes"),
        "trades": {
            name.removeprefix("trade "): svg
            for name, svg in drawn.items()
            if name.startswith("trade ")
        },
        "devices": [_device(name, item) for name, item in run.record.devices.items()],
        "host": _facts(run.record.host),
        "versions": _facts(run.record.versions),
        "plan": json.dumps(run.record.plan, indent=2, ensure_ascii=False),
        "gate": _gate(run),
        "damage": [display.clean(line) for line in measured.damage.sentences],
    }


def _gate(run: StoredRun) -> dict[str, Any] | None:
    """Return the verdict of a gate's run: the comparisons, the reasons, and the sides' names."""
    if run.record.kind != "gate":
        return None
    from harness.analysis.gate.document import reasons, summary
    from harness.present.report.exports import verdicts

    found = verdicts.of(run)
    remarks = verdicts.remarks(found)
    if found is None:
        return {"verdict": "no verdict", "rows": [], "reasons": [], "about": remarks}
    sides = f"A: {found['baseline']}; B: {found['candidate']}"
    return {
        "verdict": found["verdict"] or "no verdict",
        "rows": [
            {key: display.clean(text) for key, text in row.items()} for row in verdicts.table(found)
        ],
        "reasons": [display.clean(line) for line in reasons(found)],
        "about": [display.clean(line) for line in (sides, summary(found), *remarks)],
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


def _charts(measured: Measured, rows: Sequence[Row]) -> dict[str, str]:
    """Draw all charts, by name; SVG text with every label escaped."""
    cells = measured.run.record.cells
    shown = {
        cell.id: row
        for cell, row in zip(cells, rows, strict=True)
        if row["status"] in MEASURED and row["latency_p50_ms"] is not None
    }
    drawn: dict[str, str] = {}
    pooled = _pooled(measured)
    by_device: dict[str, list[charts.Box]] = {}
    for cell_id, row in shown.items():
        if cell_id in pooled:
            box = _box(_label(row, rows), pooled[cell_id], measured.medians(cell_id))
            by_device.setdefault(row["device"], []).append(box)
    for device, boxes in by_device.items():
        drawn[f"box {display.clean(device)}"] = charts.boxes(boxes)
    curves = _curves(measured)
    for cell_id, row in list(shown.items())[:_MAX_CURVES]:
        if cell_id in curves:
            drawn[f"ecdf {display.name(row)}"] = charts.ecdf(curves[cell_id])
    sizes: dict[str, charts.Bar] = {}
    for row in rows:
        if row["size_bytes"] is not None:
            label = display.clean(f"{row['model']} {row['recipe']}")
            text = display.size(row["size_bytes"])
            sizes[label] = charts.Bar(label=label, value=row["size_bytes"], text=text)
    if sizes:
        drawn["sizes"] = charts.bars(list(sizes.values()))
    devices = list(dict.fromkeys(display.clean(row["device"]) for row in rows))
    trusted = [row for row in shown.values() if trust.doubt(row) is None]
    for axis, ranked in _by_accuracy(trusted).items():
        points = _points(ranked, rows, devices)
        drawn[f"trade {axis}"] = charts.scatter(points, devices, "p50, ms", axis)
    return drawn


def _by_accuracy(shown: Sequence[Row]) -> dict[str, list[Row]]:
    """Group the rows by metric; the keys are the titles of the accuracy axis."""
    found: dict[str, list[Row]] = {}
    for row in shown:
        if row["accuracy"] is not None and row["latency_p50_ms"] > 0:
            lower = row.better("accuracy") == "lower"
            metric = display.clean(row.metric or "accuracy")
            found.setdefault(f"{metric}, lower is better" if lower else "accuracy", []).append(row)
    return found


def _points(
    shown: Sequence[Row], rows: Sequence[Row], devices: Sequence[str]
) -> list[charts.ChartPoint]:
    return [
        charts.ChartPoint(
            label=_label(row, rows),
            x=row["latency_p50_ms"],
            y=row["accuracy"],
            low=row["latency_p50_low_ms"],
            high=row["latency_p50_high_ms"],
            group=devices.index(display.clean(row["device"])),
        )
        for row in shown
    ]


def _label(row: Row, rows: Sequence[Row]) -> str:
    """Return a short label of a row that is unique under its device's heading."""
    parts = [row["recipe"]]
    if len({other["model"] for other in rows}) > 1:
        parts.insert(0, row["model"])
    if len({other["threads"] for other in rows}) > 1:
        parts.append(f"{row['threads']}t")
    return display.clean(" ".join(parts))


def _pooled(measured: Measured) -> dict[str, list[float]]:
    return dict(
        measured.run.query(
            "SELECT cell, quantile_cont(value, [0.05, 0.25, 0.5, 0.75, 0.95]) FROM samples "
            "WHERE kind = 'timed' AND series = 'latency' GROUP BY cell",
            measured.intact,
        )
    )


def _box(label: str, quantiles: Sequence[float], medians: Sequence[float]) -> charts.Box:
    p5, p25, p50, p75, p95 = (value / NS_PER_MS for value in quantiles)
    inner = tuple(value / NS_PER_MS for value in medians)
    return charts.Box(label=label, p5=p5, p25=p25, p50=p50, p75=p75, p95=p95, medians=inner)


def _curves(measured: Measured) -> dict[str, list[charts.Curve]]:
    """Return each launch's distribution up to its p99; outliers would flatten the curve."""
    shares = [0.99 * index / (_CURVE_POINTS - 1) for index in range(_CURVE_POINTS)]
    found: dict[str, list[charts.Curve]] = {}
    for cell, values in measured.run.query(
        f"SELECT cell, quantile_cont(value, {shares}) FROM samples "  # noqa: S608 - our own numbers
        "WHERE kind = 'timed' AND series = 'latency' GROUP BY cell, launch, block ORDER BY block",
        measured.intact,
    ):
        curve = charts.Curve(values=tuple(value / NS_PER_MS for value in values))
        found.setdefault(cell, []).append(curve)
    return found


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
