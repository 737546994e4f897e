"""The choice itself: rows in, a winner and its reason out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness import columns
from harness.analysis.pick.chance import probability_least
from harness.analysis.pick.constraints import Constraint, check_column, parse_constraint
from harness.errors import ConfigError
from harness.records.table.row import better, metric_of
from harness.types import Direction

Key = tuple[str, str, str, str, int]
KEY = ("model", "recipe", "target", "device", "threads")

NOT_MEASURED = ("emulated", "simulated")
"""Flags of rows whose speed is not a device's."""

SETTLED = 0.95
MOST_SHOWN = 0.99

_IN_FULL = 1_000
_TIMES = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Door:
    """Which rows that are not plainly `ok` may be chosen all the same."""

    emulated: bool
    partial: frozenset[Key]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Aim:
    """What is looked for: the least or the most of a column."""

    column: str
    most: bool

    @property
    def option(self) -> str:
        """The option that asks for it."""
        return f"--{'maximize' if self.most else 'minimize'}"

    @property
    def exact(self) -> bool:
        """Whether the column has no noise: the least is the least."""
        return columns.get(self.column).exact

    def value(self, row: Mapping[str, Any]) -> float:
        """Return the row's value."""
        return float(row[self.column])

    def order(self, row: Mapping[str, Any]) -> float:
        """Return a number that is least for the best row."""
        return -self.value(row) if self.most else self.value(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedRow:
    """A row and whether it was in the choice."""

    row: Mapping[str, Any]
    qualifies: bool
    why: str
    """Why it is out, or its place: `best`, `24 % above the best`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The answer: a row or none, the reason in a sentence, how probable it is to be the best."""

    winner: Mapping[str, Any] | None
    reason: str
    probability: float | None
    """Among the rows that qualify; null without a winner or where the column's noise is unknown."""
    rows: tuple[RankedRow, ...]
    column: str
    """The least or most of which was looked for."""

    def plain(self) -> dict[str, Any]:
        """Return the JSON form; each row carries `qualifies` and `why` beside its columns."""
        return {
            "winner": None if self.winner is None else dict(self.winner),
            "reason": self.reason,
            "probability": self.probability,
            "rows": [{**one.row, "qualifies": one.qualifies, "why": one.why} for one in self.rows],
        }

    def shown(self) -> list[dict[str, Any]]:
        """Return the rows as a person needs them: which, the column's value, in or out and why."""
        shown = (*KEY, *(() if self.column in KEY else (self.column,)))
        return [
            {
                "": "best" if one.row is self.winner else "in" if one.qualifies else "out",
                **{name: one.row[name] for name in shown},
                "why": one.why,
            }
            for one in self.rows
        ]


def key_of(row: Mapping[str, Any]) -> Key:
    """Return what tells a row of a run from the others, the key of `launches`."""
    return (row["model"], row["recipe"], row["target"], row["device"], row["threads"])


def choose(
    rows: Sequence[Mapping[str, Any]],
    launches: Mapping[Key, Sequence[float]],
    *,
    minimize: str | None = None,
    maximize: str | None = None,
    where: Sequence[str] = (),
    emulated: bool = False,
    partial: Collection[Key] = (),
    anyway: bool = False,
    seed: int = 0,
) -> Pick:
    """Return the row with the least or the most of a column that meets every constraint of `where`.

    Give one of `minimize` and `maximize`: the column's direction (of accuracy the metric's) refuses
    the other one unless `anyway`. `launches` holds, by :func:`key_of`, what each launch says of that
    column, in any unit (for latency_p50_ms: the launches' medians); leave it empty for a column
    that has none. Rows whose status is not `ok` are out, but for those in `partial`, and so are
    emulated and simulated ones unless `emulated`. Rows with the same value share the place; the
    first of them is named.

    Raises ConfigError for an unknown column, a constraint that cannot be read, a column of text, or
    the wrong direction.
    """
    constraints = [parse_constraint(text) for text in where]
    aim = _aim(minimize, maximize)
    door = _Door(emulated=emulated, partial=frozenset(partial))
    outs = [_out(row, constraints, aim, door) for row in rows]
    inside = [row for row, out in zip(rows, outs, strict=True) if out is None]
    _check_direction(aim, inside or rows, anyway=anyway)
    if not inside:
        return Pick(
            winner=None,
            reason=_none_reason(rows, outs, constraints, door),
            probability=None,
            rows=tuple(
                RankedRow(row=row, qualifies=False, why=out or "")
                for row, out in zip(rows, outs, strict=True)
            ),
            column=aim.column,
        )
    winner = min(inside, key=aim.order)
    probability = _probability(inside, winner, launches, aim, seed)
    return Pick(
        winner=winner,
        reason=_reason(winner, inside, aim, constraints, probability),
        probability=probability,
        rows=tuple(
            RankedRow(row=row, qualifies=out is None, why=out or _place(row, winner, aim))
            for row, out in zip(rows, outs, strict=True)
        ),
        column=aim.column,
    )


def _aim(minimize: str | None, maximize: str | None) -> _Aim:
    if (minimize is None) == (maximize is None):
        raise ConfigError("pick needs one of --minimize COLUMN and --maximize COLUMN")
    aim = _Aim(column=minimize or maximize or "", most=maximize is not None)
    check_column(aim.column, aim.option)
    if columns.get(aim.column).kind != "number":
        raise ConfigError(
            f"{aim.option} {aim.column}: that column is text; name a column of numbers"
        )
    return aim


def _check_direction(aim: _Aim, rows: Sequence[Mapping[str, Any]], *, anyway: bool) -> None:
    """Refuse the worst of a column, and values of unlike metrics; raises ConfigError."""
    column = columns.get(aim.column)
    known = [row for row in rows if row.get(aim.column) is not None]
    metrics = {metric_of(row) for row in known} - {None}
    if column.by_metric and len(metrics) > 1:
        raise ConfigError(
            f"{aim.option} {aim.column}: these rows are by unlike metrics "
            f"({', '.join(sorted(map(str, metrics)))}); choose one model with --where model==NAME"
        )
    directions: set[Direction | None] = {better(row, aim.column) for row in known} or {
        column.better
    }
    if ("lower" if aim.most else "higher") in directions and not anyway:
        name = ", ".join(map(str, metrics)) if column.by_metric and metrics else aim.column
        other = "minimize" if aim.most else "maximize"
        raise ConfigError(
            f"{aim.option} {aim.column}: {'lower' if aim.most else 'higher'} {name} is better; use "
            f"--{other} {aim.column}, or --anyway for the worst"
        )


def _out(
    row: Mapping[str, Any], constraints: Sequence[Constraint], aim: _Aim, door: _Door
) -> str | None:
    """Say why a row is out of the choice, or None."""
    barred = _barred(row, door)
    if barred is not None:
        return barred
    failed = [one for one in constraints if not one.holds(_known(row, one.column))]
    if failed:
        return "; ".join(_miss(row, one) for one in failed)
    return f"{aim.column} is not known" if _known(row, aim.column) is None else None


def _known(row: Mapping[str, Any], column: str) -> float | str | None:
    """Return a row's value; null where it has none, also by a frame's way of saying so (NaN)."""
    value: float | str | None = row.get(column)
    return None if isinstance(value, float) and math.isnan(value) else value


def _barred(row: Mapping[str, Any], door: _Door) -> str | None:
    """Say why no constraint can bring a row in, or None."""
    if row["status"] != "ok" and key_of(row) not in door.partial:
        return f"{row['status']}: {row.get('reason') or 'no reason given'}"
    unreal = [flag for flag in row.get("flags") or () if flag in NOT_MEASURED]
    if unreal and not door.emulated:
        return f"{unreal[0]}: its speed is not a device's"
    return None


def _miss(row: Mapping[str, Any], constraint: Constraint) -> str:
    found = _known(row, constraint.column)
    if found is None:
        return f"{constraint.column} is not known, {constraint} was asked"
    if isinstance(found, str) or isinstance(constraint.value, str):
        return f"{constraint.column} is {found}, {constraint} was asked"
    by = abs(found - constraint.value)
    share = f" ({constraint.shortfall(found):.1%})" if constraint.value and by else ""
    return f"{constraint.column} is {_number(found)}, {_number(by)}{share} off {constraint}"


def _number(value: float) -> str:
    """Write a value of any column: bytes in full, times with their digits."""
    return f"{value:,.0f}" if abs(value) >= _IN_FULL else f"{value:.6g}"


# --- how sure, and why, in a sentence ------------------------------------------------------------


def _probability(
    inside: Sequence[Mapping[str, Any]],
    winner: Mapping[str, Any],
    launches: Mapping[Key, Sequence[float]],
    aim: _Aim,
    seed: int,
) -> float | None:
    if len(inside) == 1:
        return 1.0
    if aim.exact:
        # Equal values cannot be told apart: they share the place.
        best = [row for row in inside if row[aim.column] == winner[aim.column]]
        return 1.0 / len(best)
    place = next(index for index, row in enumerate(inside) if row is winner)
    found = [launches.get(key_of(row), ()) for row in inside]
    if not all(found):
        return None
    # The most is the least of the inverses: their logarithms differ in sign only.
    ordered = [[1 / value for value in values] if aim.most else values for values in found]
    return probability_least(ordered, place, seed)


def _name(row: Mapping[str, Any], among: Sequence[Mapping[str, Any]]) -> str:
    """Name a row by its recipe and by what else differs among the rows."""
    words = [str(row["recipe"])]
    if len({one["model"] for one in among}) > 1:
        words.insert(0, str(row["model"]))
    if len({one["device"] for one in among}) > 1:
        words.append(f"on {row['device']}")
    if len({one["threads"] for one in among}) > 1:
        words.append(f"with {row['threads']} thread{'s' if row['threads'] > 1 else ''}")
    return " ".join(words)


def _reason(
    winner: Mapping[str, Any],
    inside: Sequence[Mapping[str, Any]],
    aim: _Aim,
    constraints: Sequence[Constraint],
    probability: float | None,
) -> str:
    meeting = f" that meet {' and '.join(map(str, constraints))}" if constraints else ""
    extreme = "most" if aim.most else "least"
    found = f"{_name(winner, inside)} has the {extreme} {aim.column}, {_number(winner[aim.column])}"
    if len(inside) == 1:
        return f"{found}: the only row{meeting.replace('meet', 'meets')}"
    second = min((row for row in inside if row is not winner), key=aim.order)
    found += (
        f", of the {len(inside)} rows{meeting}; next is {_name(second, inside)}, "
        f"{_place(second, winner, aim)}"
    )
    if aim.exact:
        return f"{found}; that column has no noise"
    if probability is None:
        return (
            f"{found}; how sure that is cannot be said: {aim.column} has no launches to tell from"
        )
    # Some thousand draws cannot tell 0.999 from 1.
    share = f"{probability:.2f}" if probability < MOST_SHOWN else f"over {MOST_SHOWN}"
    unsettled = "" if probability >= SETTLED else "not settled: "
    return f"{found}; {unsettled}the probability of being the best is {share}"


def _place(row: Mapping[str, Any], winner: Mapping[str, Any], aim: _Aim) -> str:
    best, value = aim.value(winner), aim.value(row)
    if row is winner:
        return "best"
    if value == best:
        return "the same"
    if aim.most:
        return (
            f"{1 - value / best:.1%} below the best"
            if best > 0
            else f"{_number(best - value)} below the best"
        )
    if best > 0 and value / best < _TIMES:
        return f"{value / best - 1:.1%} above the best"
    if best > 0:
        return f"{value / best:,.1f} times the best"
    return f"{_number(value - best)} above the best"


def _none_reason(
    rows: Sequence[Mapping[str, Any]],
    outs: Sequence[str | None],
    constraints: Sequence[Constraint],
    door: _Door,
) -> str:
    """Say which constraint failed and by how much for the row that came closest."""
    if not rows:
        return "none qualifies: the run has no rows"
    able = [
        (row, out)
        for row, out in zip(rows, outs, strict=True)
        if out is not None and _barred(row, door) is None
    ]
    if not able:
        words = Counter(
            str(row["status"]) if row["status"] != "ok" else NOT_MEASURED[0] for row in rows
        )
        counts = ", ".join(f"{count} {word}" for word, count in words.most_common())
        return f"none qualifies: no row is ok and measured on a device ({counts})"

    def distance(entry: tuple[Mapping[str, Any], str]) -> tuple[int, float]:
        misses = [one.shortfall(_known(entry[0], one.column)) for one in constraints]
        return sum(miss > 0 for miss in misses), max(misses, default=0.0)

    row, out = min(able, key=distance)
    return f"none qualifies of {len(rows)} rows; closest is {_name(row, rows)}: {out}"
