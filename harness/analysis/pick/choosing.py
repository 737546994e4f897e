"""Choose the best row under constraints, with the reason in a sentence."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness import columns
from harness.analysis.pick.chance import probability_lowest
from harness.analysis.pick.constraints import Constraint, check_column, parse_constraint
from harness.errors import ConfigError
from harness.printable import counted
from harness.records.table import trust
from harness.records.table.row import better, metric_of
from harness.types import Direction

Key = tuple[str, str, str, str, int]
KEY = ("model", "recipe", "target", "device", "threads")

NOT_MEASURED = ("emulated", "simulated")
"""Flags of rows whose speed is not a device's."""

SETTLED = 0.95
MAX_SHOWN = 0.99
"""A higher probability is written as `over 0.99`: 20,000 draws are not precise enough for more."""

_EVALUATION = "`[data] evaluation` in the plan gives it, or --evaluation of `bench` and `optimize`"

_SUSPECT = "suspect"
_MAX_NAMED = 3
"""The number of rows that a sentence names with their reasons."""

_MIN_WITHOUT_DECIMALS = 1_000
_MIN_FACTOR = 2.0
"""From this ratio on, the distance to the best is written as a factor, below as a percentage."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Exceptions:
    """Rows that may be chosen although they are not plainly `ok`."""

    emulated: bool
    """Whether emulated and simulated rows may be chosen."""
    partial: frozenset[Key]
    """Keys of the partial rows that may be chosen."""
    suspect: bool = False
    """Whether rows whose verdict is SUSPECT may be chosen."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Objective:
    """The column to minimise or maximise."""

    column: str
    is_maximized: bool
    is_best: bool = False
    """Whether the lowest or highest value is the best one: the column has that direction."""

    @property
    def extreme(self) -> str:
        """What the chosen row is: `best`, or only `lowest` or `highest`."""
        if self.is_best:
            return "best"
        return "highest" if self.is_maximized else "lowest"

    @property
    def option(self) -> str:
        """The command line's option for it."""
        return f"--{'maximize' if self.is_maximized else 'minimize'}"

    @property
    def exact(self) -> bool:
        """Whether the column has no noise between launches."""
        return columns.get(self.column).exact

    def value(self, row: Mapping[str, Any]) -> float:
        """Return the row's value."""
        return float(row[self.column])

    def order(self, row: Mapping[str, Any]) -> float:
        """Return a sort key; the best row has the lowest one."""
        return -self.value(row) if self.is_maximized else self.value(row)


@dataclass(frozen=True, slots=True, kw_only=True)
class RankedRow:
    """A row, whether it qualifies, and its distance from the best."""

    row: Mapping[str, Any]
    qualifies: bool
    why: str
    """Why it does not qualify, or its rank: `best`, `24 % above the best`.

    `lowest` or `highest` instead of `best` if the column has no direction or the other one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pick:
    """The chosen row or none, the reason in a sentence, and the probability that it is the best."""

    winner: Mapping[str, Any] | None
    reason: str
    probability: float | None
    """Among the qualifying rows; null without a winner or if the column's noise is unknown."""
    rows: tuple[RankedRow, ...]
    column: str
    """The column that was minimised or maximised."""
    extreme: str = "best"
    """What the winner is: `best`; `lowest` or `highest` if the column does not have that direction."""

    def plain(self) -> dict[str, Any]:
        """Return the JSON form; each row has `qualifies` and `why` beside its columns."""
        return {
            "winner": None if self.winner is None else dict(self.winner),
            "reason": self.reason,
            "probability": self.probability,
            "rows": [{**one.row, "qualifies": one.qualifies, "why": one.why} for one in self.rows],
        }

    def shown(self) -> list[dict[str, Any]]:
        """Return the rows for a table: in or out, the key, the column's value, and why."""
        shown = (*KEY, *(() if self.column in KEY else (self.column,)))
        return [
            {
                "": self.extreme if one.row is self.winner else "in" if one.qualifies else "out",
                **{name: one.row[name] for name in shown},
                "why": one.why,
            }
            for one in self.rows
        ]


def key_of(row: Mapping[str, Any]) -> Key:
    """Return the identity of a row in its run; `launches` is keyed by it."""
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
    include_suspect: bool = False,
    anyway: bool = False,
    seed: int = 0,
) -> Pick:
    """Return the row with the lowest or highest value of a column under the constraints of `where`.

    Give one of `minimize` and `maximize`. The direction that is worse for the column (for accuracy:
    the metric's direction decides) is refused unless `anyway`. `launches` has, by :func:`key_of`,
    the value per launch of that column in any unit (for latency_p50_ms: the launches' medians);
    leave it empty for a column that has none. Rows whose status is not `ok` do not qualify, except
    those in `partial`; emulated and simulated rows do not qualify unless `emulated`, nor do rows whose
    verdict is SUSPECT unless `include_suspect`. Of rows with the same best value the first wins.

    Raises ConfigError for an unknown column, an invalid constraint, a column of text, or the wrong
    direction.
    """
    constraints = [parse_constraint(text) for text in where]
    objective = _objective(minimize, maximize)
    exceptions = _Exceptions(emulated=emulated, partial=frozenset(partial), suspect=include_suspect)
    obstacles = [_obstacle(row, constraints, objective, exceptions) for row in rows]
    qualifying = [row for row, obstacle in zip(rows, obstacles, strict=True) if obstacle is None]
    objective = _directed(objective, qualifying or rows, anyway=anyway)
    if not qualifying:
        return Pick(
            winner=None,
            reason=_none_reason(rows, obstacles, constraints, objective, exceptions),
            probability=None,
            rows=tuple(
                RankedRow(row=row, qualifies=False, why=obstacle or "")
                for row, obstacle in zip(rows, obstacles, strict=True)
            ),
            column=objective.column,
        )
    winner = min(qualifying, key=objective.order)
    probability = _probability(qualifying, winner, launches, objective, seed)
    return Pick(
        winner=winner,
        reason=_reason(winner, qualifying, objective, constraints, probability),
        probability=probability,
        rows=tuple(
            RankedRow(
                row=row, qualifies=obstacle is None, why=obstacle or _rank(row, winner, objective)
            )
            for row, obstacle in zip(rows, obstacles, strict=True)
        ),
        column=objective.column,
        extreme=objective.extreme,
    )


def _objective(minimize: str | None, maximize: str | None) -> _Objective:
    if (minimize is None) == (maximize is None):
        raise ConfigError("pick needs one of --minimize COLUMN and --maximize COLUMN")
    objective = _Objective(column=minimize or maximize or "", is_maximized=maximize is not None)
    check_column(objective.column, objective.option)
    if columns.get(objective.column).kind != "number":
        raise ConfigError(
            f"{objective.option} {objective.column}: that column is text; name a column of numbers"
        )
    return objective


def _directed(
    objective: _Objective, rows: Sequence[Mapping[str, Any]], *, anyway: bool
) -> _Objective:
    """Return the objective, and whether it asks for the best; the rows' metric may decide that.

    Raises ConfigError for values of different metrics, and unless `anyway` for the worse direction.
    """
    column = columns.get(objective.column)
    known = [row for row in rows if row.get(objective.column) is not None]
    metrics = {metric_of(row) for row in known} - {None}
    if column.by_metric and len(metrics) > 1:
        raise ConfigError(
            f"{objective.option} {objective.column}: these rows have different metrics "
            f"({', '.join(sorted(map(str, metrics)))}); choose one model with --where model==NAME"
        )
    directions: set[Direction | None] = {better(row, objective.column) for row in known} or {
        column.better
    }
    wanted: Direction = "higher" if objective.is_maximized else "lower"
    if directions - {wanted, None} and not anyway:
        name = ", ".join(map(str, metrics)) if column.by_metric and metrics else objective.column
        other = "minimize" if objective.is_maximized else "maximize"
        direction = "lower" if objective.is_maximized else "higher"
        raise ConfigError(
            f"{objective.option} {objective.column}: {direction} {name} is better; use "
            f"--{other} {objective.column}, or --anyway for the worst"
        )
    return replace(objective, is_best=directions == {wanted})


def _obstacle(
    row: Mapping[str, Any],
    constraints: Sequence[Constraint],
    objective: _Objective,
    exceptions: _Exceptions,
) -> str | None:
    """Return why a row does not qualify, or None."""
    ineligible = _why_ineligible(row, exceptions)
    if ineligible is not None:
        return ineligible
    failed = [one for one in constraints if not one.holds(_known(row, one.column))]
    if failed:
        return "; ".join(_miss(row, one) for one in failed)
    return _unknown(objective.column) if _known(row, objective.column) is None else None


def _unknown(column: str) -> str:
    """Return that a value is not known, and what gives it, if it was not asked for."""
    way = f" ({_EVALUATION})" if columns.get(column).by_metric else ""
    return f"{column} is not known{way}"


def _known(row: Mapping[str, Any], column: str) -> float | str | None:
    """Return a row's value; None if it has none. A data frame writes NaN for that."""
    value: float | str | None = row.get(column)
    return None if isinstance(value, float) and math.isnan(value) else value


def _why_ineligible(row: Mapping[str, Any], exceptions: _Exceptions) -> str | None:
    """Return why a row cannot qualify under any constraints, or None."""
    if row["status"] != "ok" and key_of(row) not in exceptions.partial:
        return f"{row['status']}: {row.get('reason') or 'no reason given'}"
    verdict = row.get("verdict")
    if key_of(row) in exceptions.partial and verdict == "INVALID":
        verdict = "VALID"  # judged by the plan's min_delegated, and this call allows the share
    doubt = trust.why_left_out(
        verdict, row.get("verdict_reason"), include_suspect=exceptions.suspect
    )
    if doubt is not None:
        return doubt
    unreal = [flag for flag in row.get("flags") or () if flag in NOT_MEASURED]
    if unreal and not exceptions.emulated:
        return f"{unreal[0]}: its speed is not a device's"
    return None


def _miss(row: Mapping[str, Any], constraint: Constraint) -> str:
    found = _known(row, constraint.column)
    if found is None:
        return f"{_unknown(constraint.column)}, {constraint} is required"
    if isinstance(found, str) or isinstance(constraint.value, str):
        return f"{constraint.column} is {found}, {constraint} is required"
    by = abs(found - constraint.value)
    share = f" ({constraint.shortfall(found):.1%})" if constraint.value and by else ""
    return f"{constraint.column} is {_number(found)}, {_number(by)}{share} off {constraint}"


def _number(value: float) -> str:
    """Write a value of any column: large ones without decimals, others with six digits."""
    return f"{value:,.0f}" if abs(value) >= _MIN_WITHOUT_DECIMALS else f"{value:.6g}"


# --- the probability, and the reason in a sentence -----------------------------------------------


def _probability(
    qualifying: Sequence[Mapping[str, Any]],
    winner: Mapping[str, Any],
    launches: Mapping[Key, Sequence[float]],
    objective: _Objective,
    seed: int,
) -> float | None:
    if len(qualifying) == 1:
        return 1.0
    if objective.exact:
        # Rows with equal values share the probability.
        best = [row for row in qualifying if row[objective.column] == winner[objective.column]]
        return 1.0 / len(best)
    place = next(index for index, row in enumerate(qualifying) if row is winner)
    found = [launches.get(key_of(row), ()) for row in qualifying]
    if not all(found):
        return None
    # The highest value has the lowest inverse: their logarithms differ only in sign.
    ordered = [
        [1 / value for value in values] if objective.is_maximized else values for values in found
    ]
    return probability_lowest(ordered, place, seed)


def _name(row: Mapping[str, Any], among: Sequence[Mapping[str, Any]]) -> str:
    """Name a row by its recipe and by what else differs among the rows."""
    parts = [str(row["recipe"])]
    if len({one["model"] for one in among}) > 1:
        parts.insert(0, str(row["model"]))
    if len({one["device"] for one in among}) > 1:
        parts.append(f"on {row['device']}")
    if len({one["threads"] for one in among}) > 1:
        parts.append(f"with {counted(row['threads'], 'thread')}")
    return " ".join(parts)


def _reason(
    winner: Mapping[str, Any],
    qualifying: Sequence[Mapping[str, Any]],
    objective: _Objective,
    constraints: Sequence[Constraint],
    probability: float | None,
) -> str:
    meeting = f" that meet {' and '.join(map(str, constraints))}" if constraints else ""
    extreme = "most" if objective.is_maximized else "least"
    found = f"{_name(winner, qualifying)} has the {extreme} {objective.column}, {_number(winner[objective.column])}"
    if len(qualifying) == 1:
        return f"{found}: the only row{meeting.replace('meet', 'meets')}"
    second = min((row for row in qualifying if row is not winner), key=objective.order)
    found += (
        f", of the {len(qualifying)} rows{meeting}; next is {_name(second, qualifying)}, "
        f"{_rank(second, winner, objective)}"
    )
    if objective.exact:
        return f"{found}; that column has no noise"
    if probability is None:
        return f"{found}; the probability is unknown: {objective.column} has no values per launch"

    share = f"{probability:.2f}" if probability < MAX_SHOWN else f"over {MAX_SHOWN}"
    unsettled = "" if probability >= SETTLED else "not settled: "
    return f"{found}; {unsettled}the probability of being the {objective.extreme} is {share}"


def _rank(row: Mapping[str, Any], winner: Mapping[str, Any], objective: _Objective) -> str:
    best, value = objective.value(winner), objective.value(row)
    of = f"the {objective.extreme}"
    if row is winner:
        return objective.extreme
    if value == best:
        return "the same"
    if objective.is_maximized:
        return (
            f"{1 - value / best:.1%} below {of}"
            if best > 0
            else f"{_number(best - value)} below {of}"
        )
    if best > 0 and value / best < _MIN_FACTOR:
        return f"{value / best - 1:.1%} above {of}"
    if best > 0:
        return f"{value / best:,.1f} times {of}"
    return f"{_number(value - best)} above {of}"


def _kind(row: Mapping[str, Any]) -> str:
    """Return why a row cannot qualify, in a word."""
    if row["status"] != "ok":
        return str(row["status"])
    return _SUSPECT if trust.doubt(row) is not None else NOT_MEASURED[0]


def _none_reason(
    rows: Sequence[Mapping[str, Any]],
    obstacles: Sequence[str | None],
    constraints: Sequence[Constraint],
    objective: _Objective,
    exceptions: _Exceptions,
) -> str:
    """Name the closest row and why it does not qualify: the constraint it breaks, and by how much.

    A row that meets every constraint but cannot qualify is closer than one that breaks any.
    """
    if not rows:
        return "none qualifies: the run has no rows"
    pairs = [
        (row, obstacle)
        for row, obstacle in zip(rows, obstacles, strict=True)
        if obstacle is not None
    ]
    able = [pair for pair in pairs if _why_ineligible(pair[0], exceptions) is None]
    if not able:
        return _none_able(rows)
    head = f"none qualifies of {counted(len(rows), 'row')}; closest is"
    for option, wider in (
        (trust.INCLUDE, replace(exceptions, suspect=True)),
        ("--emulated includes it", replace(exceptions, emulated=True)),
    ):
        allowed = [
            pair for pair in pairs if _obstacle(pair[0], constraints, objective, wider) is None
        ]
        if allowed:
            allowed.sort(key=lambda pair: objective.order(pair[0]))
            return f"{head} {_named(allowed, rows)}; {option}"
    meeting = [
        pair for pair in pairs if all(one.holds(_known(pair[0], one.column)) for one in constraints)
    ]
    if constraints and meeting:
        return f"{head} {_named(meeting, rows)}"

    def distance(entry: tuple[Mapping[str, Any], str]) -> tuple[int, float]:
        misses = [one.shortfall(_known(entry[0], one.column)) for one in constraints]
        return sum(miss > 0 for miss in misses), max(misses, default=0.0)

    return f"{head} {_named([min(able, key=distance)], rows)}"


def _none_able(rows: Sequence[Mapping[str, Any]]) -> str:
    """Count the rows by what keeps them from qualifying; name those that are not VALID."""
    kinds = Counter(_kind(row) for row in rows)
    counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    suspects = [(row, str(trust.doubt(row))) for row in rows if _kind(row) == _SUSPECT]
    if not suspects:
        return f"none qualifies: no row is ok and measured on a device ({counts})"
    found = f"none qualifies: no row is ok, VALID and measured on a device ({counts})"
    return f"{found}; {_named(suspects, rows)}; {trust.INCLUDE}"


def _named(
    pairs: Sequence[tuple[Mapping[str, Any], str]], rows: Sequence[Mapping[str, Any]]
) -> str:
    """Name the first rows, each with its obstacle, and count the others."""
    named = [f"{_name(row, rows)}: {obstacle}" for row, obstacle in pairs[:_MAX_NAMED]]
    left = len(pairs) - _MAX_NAMED
    return "; ".join([*named, *([f"{left} more"] if left > 0 else [])])
