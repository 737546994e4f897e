"""Print the document of a gate: its rows, the reasons and the verdict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO, Any

from harness.analysis.gate.document import between, reasons, summary
from harness.columns import NS_PER_MS
from harness.present.report.exports import verdicts
from harness.present.screen.printing import out, records


def gate(plain: Mapping[str, Any], *, file: IO[str] | None = None) -> None:
    """Print a gate's document (harness.analysis.gate.document) as a table, and the verdict below."""
    if plain["rows"]:
        records([_shown(row) for row in plain["rows"]], file=file)
        for line in verdicts.legend(plain):
            out(line, file=file)
    for line in reasons(plain):
        out(line, file=file)
    out(summary(plain), file=file)


def _shown(row: Mapping[str, Any]) -> dict[str, Any]:
    scale = NS_PER_MS if row["unit"] == "ns" else 1
    unit = "ms" if row["unit"] == "ns" else row["unit"] or ""
    ratio = row["ratio"]
    noise = row["device_half_width"]
    return {
        "model": row["model"],
        "recipe": row["recipe"],
        "device": row["device"],
        "thr": str(row["threads"]),
        "metric": verdicts.metric(row),
        "A": _number(row["a"], scale),
        "B": _number(row["b"], scale),
        "unit": unit,
        "ratio": "-" if ratio is None else f"{ratio:.3f}",
        "95 %": "" if ratio is None else between(row),
        "pairs": str(row["pairs"] or ""),
        "verdict": row["verdict"] or "(shown)",
        "device noise": "" if noise is None else f"+-{noise:.1%}",
        "labels": [*row["labels"], *row["flags"]],
    }


def _number(value: float | None, scale: float) -> str:
    return "-" if value is None else f"{value / scale:,.4g}" if scale > 1 else f"{value:,.10g}"
