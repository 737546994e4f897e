"""The charts of a run's page, drawn from its rows and samples.

A chart shows a limited number of rows, so that the page of a run with thousands can be opened and
read. The page says how many are left out; its table has them.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from harness.columns import NS_PER_MS
from harness.present.report import charts
from harness.records.table import MEASURED, Row, display, trust
from harness.records.table.rows import Measured

MAX_CHART_ROWS = 100
"""Rows of a chart with one line per row."""
MAX_DEVICES = 20
"""Devices with a chart of their own."""
MAX_POINTS = 2_000
_MAX_CURVES = 24
_CURVE_POINTS = 41


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The charts, as SVG whose labels are escaped; `notes` say what each kind leaves out."""

    boxes: Mapping[str, str] = field(default_factory=dict)
    """By device."""
    curves: Mapping[str, str] = field(default_factory=dict)
    """By row."""
    sizes: str | None = None
    trades: Mapping[str, str] = field(default_factory=dict)
    """By the title of the accuracy axis."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """By the name of the field."""


def drawn(measured: Measured, rows: Sequence[Row]) -> Figures:
    """Draw all charts of a run; `rows` are its rows."""
    from markupsafe import Markup

    notes: dict[str, str] = {}
    label = _labels(rows)
    shown = {
        cell.id: row
        for cell, row in zip(measured.run.record.cells, rows, strict=True)
        if row["status"] in MEASURED and row["latency_p50_ms"] is not None
    }
    by_device: dict[str, list[str]] = {}
    for cell_id, row in shown.items():
        by_device.setdefault(row["device"], []).append(cell_id)
    boxed = {
        device: _lowest(by_device[device], lambda one: _latency(shown[one]), MAX_CHART_ROWS)
        for device in list(by_device)[:MAX_DEVICES]
    }
    if sum(map(len, boxed.values())) < len(shown):
        notes["boxes"] = (
            f"up to {MAX_CHART_ROWS} rows of a device, the fastest, of up to {MAX_DEVICES} devices"
        )
    curved = list(shown)[:_MAX_CURVES]
    if len(shown) > len(curved):
        notes["curves"] = f"the first {len(curved)} of {len(shown):,} rows"
    pooled, curves = _distributions(
        measured, [one for ids in boxed.values() for one in ids], curved
    )
    boxes = {
        display.clean(device): charts.boxes(
            [_box(label(shown[one]), pooled[one], measured.medians(one)) for one in ids]
        )
        for device, found in boxed.items()
        if (ids := [one for one in found if one in pooled])
    }
    return Figures(
        boxes={device: Markup(svg) for device, svg in boxes.items()},  # noqa: S704 - escaped there
        curves={
            display.name(shown[one]): Markup(charts.ecdf(curves[one]))  # noqa: S704
            for one in curved
            if one in curves
        },
        sizes=_sizes(rows, notes),
        trades=_trades(
            [row for row in shown.values() if trust.doubt(row) is None], rows, label, notes
        ),
        notes=notes,
    )


def _latency(row: Row) -> float:
    return float(row["latency_p50_ms"])


def _lowest(found: Sequence[str], value: Callable[[str], float], limit: int) -> list[str]:
    """Return the ids with the lowest values, in their order."""
    chosen = set(heapq.nsmallest(limit, found, key=value))
    return [one for one in found if one in chosen]


def _sizes(rows: Sequence[Row], notes: dict[str, str]) -> str | None:
    from markupsafe import Markup

    bars: dict[str, charts.Bar] = {}
    for row in rows:
        if row["size_bytes"] is not None:
            label = display.clean(f"{row['model']} {row['recipe']}")
            text = display.size(row["size_bytes"])
            bars[label] = charts.Bar(label=label, value=row["size_bytes"], text=text)
    if not bars:
        return None
    chosen = _lowest(list(bars), lambda one: bars[one].value, MAX_CHART_ROWS)
    if len(chosen) < len(bars):
        notes["sizes"] = f"the smallest {len(chosen)} of {len(bars):,} files"
    return Markup(charts.bars([bars[one] for one in chosen]))  # noqa: S704


def _trades(
    shown: Sequence[Row],
    rows: Sequence[Row],
    label: Callable[[Row], str],
    notes: dict[str, str],
) -> dict[str, str]:
    from markupsafe import Markup

    devices = list(dict.fromkeys(display.clean(row["device"]) for row in rows))
    place = {device: index for index, device in enumerate(devices)}
    found: dict[str, str] = {}
    for axis, ranked in _by_accuracy(shown).items():
        chosen = heapq.nsmallest(MAX_POINTS, ranked, key=_latency)
        if len(chosen) < len(ranked):
            notes["trades"] = f"the fastest {len(chosen):,} of {len(ranked):,} rows"
        points = [
            charts.ChartPoint(
                label=label(row),
                x=row["latency_p50_ms"],
                y=row["accuracy"],
                low=row["latency_p50_low_ms"],
                high=row["latency_p50_high_ms"],
                group=place[display.clean(row["device"])],
            )
            for row in (chosen if len(chosen) < len(ranked) else ranked)
        ]
        found[axis] = Markup(charts.scatter(points, devices, "p50, ms", axis))  # noqa: S704
    return found


def _by_accuracy(shown: Sequence[Row]) -> dict[str, list[Row]]:
    """Group the rows by metric; the keys are the titles of the accuracy axis."""
    found: dict[str, list[Row]] = {}
    for row in shown:
        if row["accuracy"] is not None and row["latency_p50_ms"] > 0:
            lower = row.better("accuracy") == "lower"
            metric = display.clean(row.metric or "accuracy")
            found.setdefault(f"{metric}, lower is better" if lower else "accuracy", []).append(row)
    return found


def _labels(rows: Sequence[Row]) -> Callable[[Row], str]:
    """Return a function that labels a row; labels are unique under their device's heading."""
    has_models = len({row["model"] for row in rows}) > 1
    has_threads = len({row["threads"] for row in rows}) > 1

    def label(row: Row) -> str:
        parts = [*([row["model"]] if has_models else []), row["recipe"]]
        if has_threads:
            parts.append(f"{row['threads']}t")
        return display.clean(" ".join(parts))

    return label


def _distributions(
    measured: Measured, boxed: Sequence[str], curved: Sequence[str]
) -> tuple[dict[str, list[float]], dict[str, list[charts.Curve]]]:
    """Return pooled quantiles of the boxes, ns, and each launch's distribution up to its p99.

    Outliers would flatten the curves.
    """
    shares = [0.99 * index / (_CURVE_POINTS - 1) for index in range(_CURVE_POINTS)]
    # The ids are our own, and hexadecimal.
    where = "WHERE kind = 'timed' AND series = 'latency' AND cell IN ({})"
    of_boxes, of_curves = (
        where.format(", ".join(f"'{one}'" for one in ids) or "NULL") for ids in (boxed, curved)
    )
    boxes_sql = (
        "SELECT cell, quantile_cont(value, [0.05, 0.25, 0.5, 0.75, 0.95]) FROM samples "  # noqa: S608
        f"{of_boxes} GROUP BY cell"
    )
    curves_sql = (
        f"SELECT cell, quantile_cont(value, {shares}) FROM samples "  # noqa: S608
        f"{of_curves} GROUP BY cell, launch, block ORDER BY block"
    )
    wanted = {*boxed, *curved}
    intact = measured.intact
    some = {name: one for name, one in intact.by_id.items() if one.cell_id in wanted}
    pooled, launches = measured.run.queries([boxes_sql, curves_sql], replace(intact, by_id=some))
    curves: dict[str, list[charts.Curve]] = {}
    for cell, values in launches:
        curve = charts.Curve(values=tuple(value / NS_PER_MS for value in values))
        curves.setdefault(cell, []).append(curve)
    return dict(pooled), curves


def _box(label: str, quantiles: Sequence[float], medians: Sequence[float]) -> charts.Box:
    p5, p25, p50, p75, p95 = (value / NS_PER_MS for value in quantiles)
    inner = tuple(value / NS_PER_MS for value in medians)
    return charts.Box(label=label, p5=p5, p25=p25, p50=p50, p75=p75, p95=p95, medians=inner)
