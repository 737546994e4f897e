"""Read the contests and evidence of a stored gate, to judge them again without measuring."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from harness.analysis.gate.budget import BudgetUsed
from harness.analysis.gate.contest import (
    Contest,
    Evidence,
    Reading,
    Rules,
    Side,
    SideName,
    whole_blocks,
)
from harness.analysis.gate.document import SAME_BYTES, Result, read
from harness.analysis.gate.findings import Accuracy, Exact, Key, Row
from harness.analysis.gate.noise import DeviceNoise
from harness.config import limits as checks
from harness.config import toml_reading
from harness.errors import StoreError
from harness.records.store import StoredRun, continuing
from harness.records.store.codec import load
from harness.records.store.verify import verified
from harness.records.table.trust import INCLUDE, OPTION
from harness.stats import paired
from harness.types import Cell, Direction, GateRules, Launch

INCLUDED = "include_suspect"
"""The key of a gate's call that says that SUSPECT sides are judged too."""

_QUANTILES = (
    f"SELECT launch, count(*), quantile_cont(value, {list(paired.QUANTILES)}) FROM samples "  # noqa: S608 - our own numbers
    "WHERE kind = 'timed' AND series = 'latency' AND block >= 0 GROUP BY launch"
)
_NO_VERDICT = "the gate was killed or failed before its verdict, or is in progress"
_PEAKS = (
    "SELECT launch, max(value) FROM samples "
    "WHERE kind = 'memory' AND series = 'peak_rss' GROUP BY launch"
)


def document(run: StoredRun) -> Mapping[str, Any]:
    """Return the stored document of a gate, or of one that was killed what its launches say.

    Raises StoreError if the run is no gate.
    """
    plain = read(run)
    if plain is None and run.record.kind == "gate":
        return _unfinished(run)
    if plain is None:
        raise StoreError(
            f"run {run.id} is of kind {run.record.kind} and has no verdicts; "
            "`edge-harness runs` lists gates"
        )
    if not isinstance(plain, dict) or "contests" not in plain:
        raise StoreError(f"run {run.id} was stored by an older version and cannot be judged again")
    return plain


def _unfinished(run: StoredRun) -> Mapping[str, Any]:
    """Return the document of a gate that was killed before it wrote one.

    It has no accuracy, and no contests that were not to be measured: only the document has these.
    """
    options = continuing.results_option(run.path.parent)
    command = continuing.command(run.id, run.record.kind, run.record.call, options)
    way = f"; `{command}` finishes it" if command else ""
    outcomes = {one.cell.id: one for one in run.outcomes()}
    contests, failed, away = [], [], {}
    seconds = _used_seconds(run)
    for a, b in zip(run.record.cells[::2], run.record.cells[1::2], strict=False):
        key = {
            "model": a.model,
            "recipe": a.recipe.partition(":")[2],
            "device": a.device,
            "threads": a.threads,
        }
        ended = [outcomes[cell.id] for cell in (a, b) if cell.id in outcomes]
        failure = next((one.failure for one in ended if one.failure), None)
        if failure is not None and failure.kind == "unreachable":
            away[a.device] = failure.reason
        elif failure is not None:
            failed.append({**key, "kind": failure.kind, "reason": failure.reason})
        contests.append(
            {
                **key,
                "a": a.id,
                "b": b.id,
                "cut_short": None if len(ended) == len((a, b)) else _NO_VERDICT,
                "fresh_cut_short": _NO_VERDICT,
                "seconds": seconds.get(_key(key), 0.0),
                "pinned_mhz": None,
                "fixed_performance": False,
                "hot": False,
            }
        )
    return {
        "incomplete": f"{_NO_VERDICT}{way}",
        "baseline": run.record.call.get("baseline", "A"),
        "candidate": run.record.call.get("candidate", "B"),
        "rows": [],
        "contests": contests,
        "failed": failed,
        "away": [{"device": name, "reason": reason} for name, reason in away.items()],
    }


def rules(run: StoredRun, **limits: float | None) -> Rules:
    """Return the rules of the stored gate; given limits replace the stored ones.

    Raises ConfigError for invalid limits, as for a plan.
    """
    replaced = {name: value for name, value in limits.items() if value is not None}
    given = {**run.record.plan.get("gate", {}), **replaced}
    name = "command line" if replaced else f"run {run.id}"
    table = toml_reading.check(given, GateRules, name, ("gate",))
    return Rules.from_table(checks.gate(table, f"{name}: gate"))


def result(run: StoredRun, plain: Mapping[str, Any]) -> Result:
    """Return the parts of the document that need no evidence: names, absent devices, failures.

    A contest that the gate refused as SUSPECT was not measured, so only the gate can include it.
    """
    return Result(
        baseline=plain["baseline"],
        candidate=plain["candidate"],
        run=run.id,
        away={one["device"]: one["reason"] for one in plain["away"]},
        failed=tuple((_key(one), one["kind"], _failure(run, one)) for one in plain["failed"]),
        kept=tuple(row for row in plain["rows"] if row["metric"] == SAME_BYTES),
        incomplete=plain.get("incomplete"),
    )


def _failure(run: StoredRun, plain: Mapping[str, Any]) -> str:
    reason = str(plain["reason"])
    if plain["kind"] != "suspect":
        return reason
    record = run.record
    options = continuing.results_option(run.path.parent)
    command = continuing.command(run.id, record.kind, record.call, options)
    way = f"`{command} {OPTION}` measures it" if command else f"measure again with gate {OPTION}"
    return f"{reason.removesuffix(f'; {INCLUDE}')}; the gate did not measure it for that: {way}"


def evidence(run: StoredRun, plain: Mapping[str, Any]) -> list[Evidence]:
    """Return the evidence of every contest that was measured.

    Raises StoreError if launches or samples are damaged.
    """
    _refuse_damaged(run)
    cells = {cell.id: cell for cell in run.record.cells}
    failed = {_key(one) for one in plain["failed"]}
    away = {one["device"] for one in plain["away"]}
    readings, launches = _readings(run), run.launches()
    half_widths = {
        _key(row): row["device_half_width"]
        for row in plain["rows"]
        if row.get("device_half_width") is not None
    }
    checked = _checked(run)
    found = []
    for one in plain["contests"]:
        key = _key(one)
        if key in failed or key.device in away:
            continue
        a, b = cells[one["a"]], cells[one["b"]]
        found.append(
            Evidence(
                contest=Contest(key=key, a=Side(cell=a), b=Side(cell=b)),
                readings=tuple(
                    reading
                    for launch in launches
                    for reading in _readings_of(launch, a, b, readings)
                ),
                cut_short=one["cut_short"],
                fresh_cut_short=one.get("fresh_cut_short"),
                ended_early=one.get("ended_early"),
                out_of_budget=one.get("out_of_budget"),
                seconds=one.get("seconds", 0.0),
                pinned_mhz=one["pinned_mhz"],
                fixed_performance=one["fixed_performance"],
                hot=one["hot"],
                noise=_noise(one, half_widths.get(key)),
                **checked,
            )
        )
    return found


def _noise(plain: Mapping[str, Any], half_width: float | None) -> DeviceNoise | None:
    """Return the selftest that the gate used; gates from before it was stored have its half-width."""
    if "selftest" in plain:
        return None if plain["selftest"] is None else load(DeviceNoise, plain["selftest"])
    return None if half_width is None else DeviceNoise(half_width=half_width)


def _refuse_damaged(run: StoredRun) -> None:
    damage = verified(run).damage
    if damage.cells:
        reasons = "; ".join(dict.fromkeys(damage.cells.values()))
        raise StoreError(
            f"run {run.id} is damaged: {reasons}; restore it from a copy, or measure the gate again"
        )


def interrupted(
    run: StoredRun, contests: Iterable[Contest], *, budget_seconds: float, hot: bool
) -> dict[Key, Evidence]:
    """Return the evidence that an interrupted gate has, by key, without blocks that lack a side.

    A contest that was ended by a budget stays so, unless `budget_seconds` is larger. `hot` is whether
    the gate soaks its devices. Raises StoreError if a side is not the file that the gate measured.
    """
    cells = {cell.id: cell for cell in run.record.cells}
    readings, launches = _readings(run), run.launches()
    checked, seconds, ended = _checked(run), _used_seconds(run), _known_contests(run)
    found = {}
    for contest in contests:
        for side in (contest.a, contest.b):
            _require_same_file(run, cells, side)
        a, b = contest.a.cell, contest.b.cell
        before = ended.get(contest.key, {})
        own = [item for one in launches for item in _readings_of(one, a, b, readings)]
        found[contest.key] = Evidence(
            contest=contest,
            readings=whole_blocks(own),
            seconds=seconds.get(contest.key, before.get("seconds", 0.0)),
            **_ended_by_budget(before, budget_seconds),
            hot=hot and bool(own),
            **checked,
        )
    return found


def _used_seconds(run: StoredRun) -> dict[Key, float]:
    """Return what each contest has used of its budget; gates from before it was stored have none."""
    lines = (line for line in run.log() if line.get("event") == BudgetUsed.name)
    return {_key(line): line["seconds"] for line in lines}


def _known_contests(run: StoredRun) -> dict[Key, Mapping[str, Any]]:
    """Return the contests in the document of a gate; none if it has none, or a damaged one."""
    try:
        return {_key(one): one for one in document(run)["contests"]}
    except StoreError:  # the gate that is continued writes it again
        return {}


def _ended_by_budget(plain: Mapping[str, Any], budget_seconds: float) -> dict[str, Any]:
    """Return how its budget ended a contest, as fields of an Evidence; empty if there is more now."""
    budget = plain.get("out_of_budget")
    if budget is None or budget_seconds > budget:
        return {}
    names = ("cut_short", "fresh_cut_short", "ended_early", "out_of_budget")
    return {name: plain.get(name) for name in names}


def _checked(run: StoredRun) -> dict[str, Any]:
    """Return the checks of outputs of all cells, as fields of an Evidence."""
    outcomes = run.outcomes()
    return {
        "agreements": {one.cell.id: one.agreement for one in outcomes if one.agreement},
        "selfchecks": {one.cell.id: one.selfcheck for one in outcomes if one.selfcheck},
    }


def _require_same_file(run: StoredRun, cells: Mapping[str, Cell], side: Side) -> None:
    before = cells.get(side.cell.id)
    known = getattr(before.variant, "digest", None) if before else None
    if known != side.variant.digest:
        had = f"it measured {known[:12]}" if known else "it did not measure that"
        raise StoreError(
            f"gate {run.id}: {side.cell.recipe} of {side.cell.model} is now the file "
            f"{side.variant.digest[:12]}, and {had}; put the file back as it was, or start a new gate"
        )


def accuracies(plain: Mapping[str, Any]) -> dict[Key, Row]:
    """Return the rows of the accuracy on the host."""
    found: dict[Key, Row] = {}
    for row in plain["rows"]:
        if row["metric"] != "accuracy":
            continue
        key = _key(row)
        if row["counts"] is None:
            # In older documents the metric of such a row is an error, which is better lower.
            better: Direction = "higher" if row.get("better") == "higher" else "lower"
            found[key] = Exact(
                key=key,
                metric="accuracy",
                a=row["a"],
                b=row["b"],
                better=better,
                seconds=row.get("seconds"),
            )
        else:
            both, only_a, only_b, neither = row["counts"]
            found[key] = Accuracy(
                key=key,
                both=both,
                only_a=only_a,
                only_b=only_b,
                neither=neither,
                seconds=row.get("seconds"),
            )
    return found


def _key(plain: Mapping[str, Any]) -> Key:
    return Key(
        model=plain["model"],
        device=plain["device"],
        threads=plain["threads"],
        recipe=plain["recipe"],
    )


def _readings(run: StoredRun) -> dict[str, Mapping[str, Any]]:
    """Return the values of each launch by its id; the store computes them from the samples."""
    found: dict[str, Mapping[str, Any]] = {
        launch: {
            "inferences": count,
            "quantiles": dict(zip(paired.QUANTILES, values, strict=True)),
        }
        for launch, count, values in run.query(_QUANTILES)
    }
    return found | {launch: {"peak_rss": peak} for launch, peak in run.query(_PEAKS)}


def _readings_of(
    launch: Launch, a: Cell, b: Cell, known: Mapping[str, Mapping[str, Any]]
) -> list[Reading]:
    """Return the reading of a side's launch; none for another cell or a block before 0."""
    if launch.block < 0 or launch.cell_id not in {a.id, b.id} or launch.id not in known:
        return []
    side: SideName = "baseline" if launch.cell_id == a.id else "candidate"
    return [Reading(side=side, launch=launch, **known[launch.id])]
