"""The result of a gate as plain data: the document of `--json`, stored as gate.json in its run.

docs/gate.md has its keys. Values of A and B are in the metric's base unit, named by `unit`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from harness import columns, printable
from harness.analysis.gate import verdicts
from harness.analysis.gate.contest import Contest, Evidence, quantile, side_values, summaries
from harness.analysis.gate.findings import Accuracy, Comparison, Exact, Key, Row
from harness.analysis.gate.verdicts import Judged, Verdict
from harness.errors import StoreError
from harness.records.store import StoredRun, checksums, contents
from harness.records.store.codec import dump
from harness.records.store.journal import scope
from harness.stats import Interval

SCHEMA = 1
FILE = "gate.json"
"""Name of the document in the run's folder."""

SAME_BYTES = "bytes"
"""The metric of a row whose sides are the same bytes."""

NOT_RUN, INCONCLUSIVE, AWAY = 3, 2, 4
_WORST = (
    Verdict.REGRESSION,
    Verdict.INCONCLUSIVE,
    Verdict.SLOWER_WITHIN_MARGIN,
    Verdict.PASS,
    Verdict.EQUIVALENT,
    Verdict.IMPROVED,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class GateRow:
    """A row of the document; `is_judged` if its metric counts for the verdict."""

    row: Row
    judged: Judged
    is_judged: bool
    evidence: Evidence | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """The result of a gate."""

    baseline: str
    candidate: str
    run: str | None = None
    shown: tuple[GateRow, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    """The evidence of every contest to measure."""
    identical: tuple[Contest, ...] = ()
    """Contests that are not measured, because both sides are the same bytes."""
    kept: tuple[Mapping[str, Any], ...] = ()
    """Rows of a stored gate that are not judged again, because both sides are the same bytes."""
    away: Mapping[str, str] = field(default_factory=dict)
    """Devices that were away when the gate started, with the reason."""
    failed: tuple[tuple[Key, str, str], ...] = ()
    """Contests that could not be measured: key, kind of failure, reason."""
    incomplete: str | None = None
    """Why the gate ended before its verdict, and the command that finishes it."""
    notice: str | None = None
    """What to say beside the verdict; it is not in the document."""

    @property
    def judged(self) -> list[Judged]:
        """The rows that count for the verdict."""
        return [one.judged for one in self.shown if one.is_judged]

    @property
    def exit_code(self) -> int:
        """3 if a contest could not be measured, else the code of :func:`verdicts.exit_code`.

        An incomplete gate passes nothing: 2 instead of 0 or 4.
        """
        if self.failed:
            return NOT_RUN
        code = verdicts.exit_code(self.judged, list(self.away))
        return INCONCLUSIVE if self.incomplete and code in (0, AWAY) else code

    @property
    def verdict(self) -> str | None:
        """The worst verdict of the rows that count; None without any.

        Of an incomplete gate REGRESSION or INCONCLUSIVE.
        """
        found = {row.verdict for row in self.judged}
        if self.incomplete:
            is_worse = Verdict.REGRESSION in found
            return str(Verdict.REGRESSION if is_worse else Verdict.INCONCLUSIVE)
        if not found and (self.identical or self.kept):
            return str(Verdict.EQUIVALENT)
        return next((str(verdict) for verdict in _WORST if verdict in found), None)

    def plain(self) -> dict[str, Any]:
        """Return the document."""
        return {
            "schema": SCHEMA,
            "run": self.run,
            "exit_code": self.exit_code,
            "verdict": self.verdict,
            "incomplete": self.incomplete,
            "baseline": self.baseline,
            "candidate": self.candidate,
            "rows": [*map(_plain, self.shown), *map(_same, self.identical), *self.kept],
            "contests": [_contest(one) for one in self.evidence],
            "away": [{"device": name, "reason": why} for name, why in self.away.items()],
            "failed": [
                {**_key(key), "kind": kind, "reason": why} for key, kind, why in self.failed
            ],
        }

    def summary(self) -> str:
        """Write the verdict, its numbers and the exit code in one line."""
        return summary(self.plain())


def summary(plain: Mapping[str, Any]) -> str:
    """Write the verdict of a document, its numbers and the exit code in one line."""
    verdict = plain["verdict"] or ("FAILED" if plain["failed"] else "AWAY")
    same = [row for row in plain["rows"] if row["metric"] == SAME_BYTES]
    judged = [row for row in plain["rows"] if row["judged"] and row["metric"] != SAME_BYTES]
    worst = next((row for row in judged if row["verdict"] == verdict), None)
    figure = ""
    if worst is not None and worst["ratio"] is not None:
        known = ", ".join(filter(None, (between(worst), counted(worst))))
        figure = f": {worst['metric']} {worst['ratio']:.3f}x ({known})"
    elif worst is not None:
        figure = f": {worst['metric']}"
    more = [
        text
        for found, text in (
            (same, f"{len(same)} identical, not measured"),
            (plain["failed"], f"{len(plain['failed'])} could not be run"),
            (plain["away"], f"{printable.counted(len(plain['away']), 'device')} away"),
        )
        if found
    ]
    counts = ", ".join([f"{printable.counted(len(judged), 'row')} judged", *more])
    run = f"; run {plain['run']}" if plain["run"] else ""
    incomplete = ", incomplete" if plain.get("incomplete") else ""
    return f"gate {verdict}{incomplete}{figure}; {counts}{run}; exit {plain['exit_code']}"


def between(row: Mapping[str, Any]) -> str:
    """Write the 95 % interval of a row's ratio: `0.98-1.02`, or `-` if the row has none."""
    low, high = row["ratio_low"], row["ratio_high"]
    return "-" if low is None or high is None else f"{low:.3f}-{high:.3f}"


def counted(row: Mapping[str, Any]) -> str:
    """Write what a row counts: pairs, or inputs for accuracy; empty for an exact number."""
    noun = "pair" if row["counts"] is None else "input"
    return printable.counted(row["pairs"], noun) if row["pairs"] else ""


def stored(result: Result, key: str) -> str:
    """Return the content of FILE, with a checksum; `key` is the run's."""
    return checksums.summed(result.plain(), scope(key, FILE)) + "\n"


def read(run: StoredRun) -> Any:  # noqa: ANN401 - JSON
    """Read the document of a stored gate; None if the run has none.

    Raises StoreError if it cannot be read or does not fit its checksum.
    """
    path = run.path / FILE
    try:
        return checksums.read_document(path, scope(run.record.key, FILE), needed=run.is_checked)
    except FileNotFoundError as error:
        if FILE in contents.lost_documents(contents.read(run.path, run.record.key), run.path):
            raise StoreError(f"{path} is missing; restore it from a copy") from error
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged: {error}; restore it from a copy") from error


def _key(key: Key) -> dict[str, Any]:
    return {
        "model": key.model,
        "recipe": key.recipe,
        "device": key.device,
        "threads": key.threads,
    }


def _plain(one: GateRow) -> dict[str, Any]:
    judged, evidence = one.judged, one.evidence
    a, b = side_values(one.row)
    measured = isinstance(one.row, Comparison)
    return {
        **_key(judged.key),
        "metric": judged.metric,
        "judged": one.is_judged,
        "verdict": str(judged.verdict) if one.is_judged else None,
        "reason": judged.reason,
        "unit": columns.base_unit_of(judged.metric),
        "better": one.row.better
        if isinstance(one.row, Exact)
        else columns.better_of(judged.metric),
        "a": a,
        "b": b,
        **_interval("ratio", judged.ratio),
        **_interval("drop", judged.drop),
        "hodges_lehmann": judged.hodges_lehmann,
        "p_adjusted": judged.p_adjusted if one.is_judged else None,
        "pairs": judged.pairs,
        "discarded": judged.discarded,
        "pairs_needed": judged.pairs_needed,
        "quantile": _quantile(evidence) if judged.metric == "latency" and measured else None,
        "counts": [one.row.both, one.row.only_a, one.row.only_b, one.row.neither]
        if isinstance(one.row, Accuracy)
        else None,
        "confirmed": judged.confirmed,
        "fresh": _fresh(judged.fresh),
        "seconds": None if isinstance(one.row, Comparison) else one.row.seconds,
        "device_half_width": one.row.device_half_width if isinstance(one.row, Comparison) else None,
        "labels": list(judged.labels),
        "flags": evidence.flags() if evidence and measured else [],
    }


def _quantile(evidence: Evidence | None) -> float | None:
    """Return the quantile that represents a launch; None if the device reports averages only."""
    if evidence is None or summaries(evidence.readings) == ["mean"]:
        return None
    return quantile(evidence.readings)


def _contest(evidence: Evidence) -> dict[str, Any]:
    """Return the facts of a contest that its stored launches do not have."""
    return {
        **_key(evidence.contest.key),
        "a": evidence.contest.a.cell.id,
        "b": evidence.contest.b.cell.id,
        "cut_short": evidence.cut_short,
        "fresh_cut_short": evidence.fresh_cut_short,
        "ended_early": evidence.ended_early,
        "out_of_budget": evidence.out_of_budget,
        "seconds": round(evidence.seconds, 3),
        "pinned_mhz": evidence.pinned_mhz,
        "fixed_performance": evidence.fixed_performance,
        "hot": evidence.hot,
        "selftest": None if evidence.noise is None else dump(evidence.noise),
    }


def _fresh(fresh: Judged | None) -> dict[str, Any] | None:
    if fresh is None:
        return None
    return {
        "verdict": str(fresh.verdict),
        "reason": fresh.reason,
        "pairs": fresh.pairs,
        "discarded": fresh.discarded,
        **_interval("ratio", fresh.ratio),
    }


def _interval(name: str, interval: Interval | None) -> dict[str, float | None]:
    """Return a number and its interval; the ends are None if they bound nothing."""
    is_bounded = interval is not None and math.isfinite(interval.high)
    return {
        name: interval.estimate if interval else None,
        f"{name}_low": interval.low if interval and is_bounded else None,
        f"{name}_high": interval.high if interval and is_bounded else None,
    }


def _same(contest: Contest) -> dict[str, Any]:
    """Return the row of a contest whose sides are the same bytes."""
    judged = Judged(
        key=contest.key,
        metric=SAME_BYTES,
        verdict=Verdict.EQUIVALENT,
        reason="baseline and candidate are the same bytes (sha256 "
        f"{contest.a.variant.digest[:12]}), not measured; --measure-identical measures them",
        confirmed=False,
    )
    row = verdicts.Exact(key=contest.key, metric=SAME_BYTES, a=0.0, b=0.0)
    plain = _plain(GateRow(row=row, judged=judged, is_judged=True))
    size = contest.a.variant.size_bytes
    return {**plain, "a": size, "b": size, "unit": "B"}


def explained(result: Result) -> Sequence[str]:
    """Return a line with the reason for every row, every absent device and every failure."""
    return reasons(result.plain())


def reasons(plain: Mapping[str, Any]) -> list[str]:
    """Return the lines of :func:`explained` for a document."""
    lines = []
    for row in plain["rows"]:
        name = f"{row['model']} {row['recipe']} on {row['device']}, {row['metric']}"
        verdict = row["verdict"] or "shown, not judged"
        lines.append(f"{name}: {verdict}: {row['reason']}")
    lines += unused_selftests(plain)
    lines += [f"{one['device']}: away: {one['reason']}" for one in plain["away"]]
    lines += [
        f"{one['model']} {one['recipe']} on {one['device']}: could not be run: "
        f"{one['kind']}: {one['reason']}"
        for one in plain["failed"]
    ]
    if plain.get("incomplete"):
        lines.append(f"incomplete: {plain['incomplete']}")
    return lines


def unused_selftests(plain: Mapping[str, Any]) -> list[str]:
    """Return a line for each selftest that does not apply to its contest, with the reason."""
    found = [(one, one.get("selftest")) for one in plain["contests"]]
    return [
        f"{one['model']} {one['recipe']} on {one['device']}: the selftest of "
        f"{str(known['created'])[:10]} does not count: {known['unfit']}"
        for one, known in found
        if known and known["unfit"]
    ]
