"""Read the contests and evidence of a stored gate, to judge them again without measuring."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from harness.analysis.gate.contest import Contest, Evidence, Reading, Rules, Side, SideName
from harness.analysis.gate.document import SAME_BYTES, Result, read
from harness.analysis.gate.findings import Accuracy, Exact, Key, Row
from harness.config import limits as checks
from harness.config import toml_reading
from harness.errors import StoreError
from harness.records.store import StoredRun, continuing
from harness.records.store.verify import verified
from harness.stats import paired
from harness.types import Cell, Direction, GateRules, Launch

_QUANTILES = (
    f"SELECT launch, count(*), quantile_cont(value, {list(paired.QUANTILES)}) FROM samples "  # noqa: S608 - our own numbers
    "WHERE kind = 'timed' AND series = 'latency' AND block >= 0 GROUP BY launch"
)
_PEAKS = (
    "SELECT launch, max(value) FROM samples "
    "WHERE kind = 'memory' AND series = 'peak_rss' GROUP BY launch"
)


def document(run: StoredRun) -> Mapping[str, Any]:
    """Return the stored document of a gate; raises StoreError if the run is no gate."""
    plain = read(run)
    if plain is None:
        command = continuing.command(run.id, run.record.kind, run.record.call)
        if run.record.kind == "gate" and command:
            raise StoreError(
                f"gate {run.id} was interrupted before its verdict; `{command}` finishes it"
            )
        raise StoreError(
            f"run {run.id} is of kind {run.record.kind} and has no verdicts; "
            "`edge-harness runs` lists gates"
        )
    if not isinstance(plain, dict) or "contests" not in plain:
        raise StoreError(f"run {run.id} was stored by an older version and cannot be judged again")
    return plain


def rules(run: StoredRun, **limits: float | None) -> Rules:
    """Return the rules of the stored gate; given limits replace the stored ones.

    Raises ConfigError for invalid limits, as for a plan.
    """
    given = dict(run.record.plan.get("gate", {}))
    given |= {name: value for name, value in limits.items() if value is not None}
    name = f"run {run.id}"
    table = toml_reading.check(given, GateRules, name, ("gate",))
    return Rules.from_table(checks.gate(table, f"{name}: gate"))


def result(run: StoredRun, plain: Mapping[str, Any]) -> Result:
    """Return the parts of the document that need no evidence: names, absent devices, failures."""
    return Result(
        baseline=plain["baseline"],
        candidate=plain["candidate"],
        run=run.id,
        away={one["device"]: one["reason"] for one in plain["away"]},
        failed=tuple((_key(one), one["kind"], one["reason"]) for one in plain["failed"]),
        kept=tuple(row for row in plain["rows"] if row["metric"] == SAME_BYTES),
    )


def evidence(run: StoredRun, plain: Mapping[str, Any]) -> list[Evidence]:
    """Return the evidence of every contest that was measured.

    Raises StoreError if launches or samples are damaged.
    """
    _refuse_damaged(run)
    cells = {cell.id: cell for cell in run.record.cells}
    failed = {_key(one) for one in plain["failed"]}
    away = {one["device"] for one in plain["away"]}
    readings, launches = _readings(run), run.launches()
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
                pinned_mhz=one["pinned_mhz"],
                fixed_performance=one["fixed_performance"],
                hot=one["hot"],
                **checked,
            )
        )
    return found


def _refuse_damaged(run: StoredRun) -> None:
    damage = verified(run).damage
    if damage.cells:
        reasons = "; ".join(dict.fromkeys(damage.cells.values()))
        raise StoreError(
            f"run {run.id} is damaged: {reasons}; restore it from a copy, or measure the gate again"
        )


def interrupted(run: StoredRun, contests: Iterable[Contest], *, hot: bool) -> dict[Key, Evidence]:
    """Return the evidence that an interrupted gate has, by key, without blocks that lack a side.

    `hot` is whether the gate soaks its devices. Raises StoreError if a side is not the file that the
    gate measured.
    """
    cells = {cell.id: cell for cell in run.record.cells}
    readings, launches = _readings(run), run.launches()
    checked = _checked(run)
    found = {}
    for contest in contests:
        for side in (contest.a, contest.b):
            _require_same_file(run, cells, side)
        a, b = contest.a.cell, contest.b.cell
        own = [item for one in launches for item in _readings_of(one, a, b, readings)]
        found[contest.key] = Evidence(
            contest=contest,
            readings=tuple(_in_whole_blocks(own)),
            hot=hot and bool(own),
            **checked,
        )
    return found


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


def _in_whole_blocks(found: Sequence[Reading]) -> Iterator[Reading]:
    """Yield the readings of blocks that have both sides; the others are measured again."""
    sides: dict[tuple[str, int], set[SideName]] = defaultdict(set)
    for one in found:
        sides[one.launch.kind, one.launch.block].add(one.side)
    for one in found:
        if len(sides[one.launch.kind, one.launch.block]) > 1:
            yield one


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
            found[key] = Exact(key=key, metric="accuracy", a=row["a"], b=row["b"], better=better)
        else:
            both, only_a, only_b, neither = row["counts"]
            found[key] = Accuracy(key=key, both=both, only_a=only_a, only_b=only_b, neither=neither)
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
