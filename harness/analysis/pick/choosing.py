"""The choice itself: rows in, a winner and its reason out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.pick.chance import probability_least
from harness.analysis.pick.constraints import WORDS, Constraint, check_column, parse_constraint
from harness.errors import ConfigError

Key = tuple[str, str, str, str, int]
KEY = ("model", "recipe", "target", "device", "threads")

CERTAIN = (
    *("size_bytes", "size_zstd_bytes", "delegated_ops", "total_ops", "partitions", "ticks"),
    *("arena_bytes", "flash_bytes", "ram_bytes", "accuracy", "accuracy_host"),
)
"""Columns without noise between launches: the smallest is the smallest."""

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

    def plain(self) -> dict[str, Any]:
        """Return the JSON form; each row carries `qualifies` and `why` beside its columns."""
        return {
            "winner": None if self.winner is None else dict(self.winner),
            "reason": self.reason,
            "probability": self.probability,
            "rows": [{**one.row, "qualifies": one.qualifies, "why": one.why} for one in self.rows],
        }

    def shown(self, minimize: str) -> list[dict[str, Any]]:
        """Return the rows as a person needs them: which, the minimised value, in or out and why."""
        shown = (*KEY, *(() if minimize in KEY else (minimize,)))
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
    minimize: str,
    where: Sequence[str] = (),
    emulated: bool = False,
    partial: Collection[Key] = (),
    seed: int = 0,
) -> Pick:
    """Return the row with the least `minimize` among those that meet every constraint of `where`.

    `launches` holds, by :func:`key_of`, what each launch says of the minimised column, in any unit
    (for latency_p50_ms: the launches' medians); leave it empty for a column that has none. Rows
    whose status is not `ok` are out, but for those in `partial`, and so are emulated and simulated
    ones unless `emulated`. Rows with the same value share the place; the first of them is named.

    Raises ConfigError for an unknown column, a constraint that cannot be read, or a minimised
    column that holds text.
    """
    constraints = [parse_constraint(text) for text in where]
    check_column(minimize, "--minimize")
    if minimize in WORDS or minimize == "flags":
        raise ConfigError(f"--minimize {minimize}: that column is text; name a column of numbers")
    door = _Door(emulated=emulated, partial=frozenset(partial))
    outs = [_out(row, constraints, minimize, door) for row in rows]
    inside = [row for row, out in zip(rows, outs, strict=True) if out is None]
    if not inside:
        return Pick(
            winner=None,
            reason=_none_reason(rows, outs, constraints, door),
            probability=None,
            rows=tuple(
                RankedRow(row=row, qualifies=False, why=out or "")
                for row, out in zip(rows, outs, strict=True)
            ),
        )
    winner = min(inside, key=lambda row: float(row[minimize]))
    probability = _probability(inside, winner, launches, minimize, seed)
    return Pick(
        winner=winner,
        reason=_reason(winner, inside, minimize, constraints, probability),
        probability=probability,
        rows=tuple(
            RankedRow(row=row, qualifies=out is None, why=out or _place(row, winner, minimize))
            for row, out in zip(rows, outs, strict=True)
        ),
    )


def _out(
    row: Mapping[str, Any], constraints: Sequence[Constraint], minimize: str, door: _Door
) -> str | None:
    """Say why a row is out of the choice, or None."""
    barred = _barred(row, door)
    if barred is not None:
        return barred
    failed = [one for one in constraints if not one.holds(_known(row, one.column))]
    if failed:
        return "; ".join(_miss(row, one) for one in failed)
    return f"{minimize} is not known" if _known(row, minimize) is None else None


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
    minimize: str,
    seed: int,
) -> float | None:
    if len(inside) == 1:
        return 1.0
    if minimize in CERTAIN:
        # Equal values cannot be told apart: they share the place.
        best = [row for row in inside if row[minimize] == winner[minimize]]
        return 1.0 / len(best)
    place = next(index for index, row in enumerate(inside) if row is winner)
    found = [launches.get(key_of(row), ()) for row in inside]
    return probability_least(found, place, seed) if all(found) else None


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
    minimize: str,
    constraints: Sequence[Constraint],
    probability: float | None,
) -> str:
    meeting = f" that meet {' and '.join(map(str, constraints))}" if constraints else ""
    told = f"{_name(winner, inside)} has the least {minimize}, {_number(winner[minimize])}"
    if len(inside) == 1:
        return f"{told}: the only row{meeting.replace('meet', 'meets')}"
    second = min((row for row in inside if row is not winner), key=lambda row: float(row[minimize]))
    told += (
        f", of the {len(inside)} rows{meeting}; next is {_name(second, inside)}, "
        f"{_place(second, winner, minimize)}"
    )
    if minimize in CERTAIN:
        return f"{told}; that column has no noise"
    if probability is None:
        return f"{told}; how sure that is cannot be said: {minimize} has no launches to tell from"
    # Some thousand draws cannot tell 0.999 from 1.
    share = f"{probability:.2f}" if probability < MOST_SHOWN else f"over {MOST_SHOWN}"
    unsettled = "" if probability >= SETTLED else "not settled: "
    return f"{told}; {unsettled}the probability of being the best is {share}"


def _place(row: Mapping[str, Any], winner: Mapping[str, Any], minimize: str) -> str:
    best, value = float(winner[minimize]), float(row[minimize])
    if row is winner:
        return "best"
    if value == best:
        return "the same"
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
