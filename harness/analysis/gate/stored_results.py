"""The result of a stored gate: judged again, or as it is if nothing is left to measure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from harness import assets
from harness.analysis.gate import judging, stored
from harness.analysis.gate.contest import Evidence, Rules, left_out, wants_more
from harness.analysis.gate.document import Result
from harness.errors import StoreError
from harness.records import store
from harness.records.store import StoredRun, contents


def judge(
    run: str,
    *,
    margin: float | None = None,
    min_effect: float | None = None,
    include_suspect: bool = False,
    results: Path | None = None,
) -> Result:
    """Judge a stored gate again by its own or other limits, without measuring.

    A comparison with a SUSPECT side fails unless `include_suspect`, or unless the gate included it.
    Raises StoreError if the run is no gate or is damaged, ConfigError for limits that contradict
    each other.
    """
    return judge_stored(
        store.Store(results or assets.results_folder()).open(run),
        margin=margin,
        min_effect=min_effect,
        include_suspect=include_suspect,
    )


def judge_stored(
    kept: StoredRun,
    *,
    margin: float | None = None,
    min_effect: float | None = None,
    include_suspect: bool = False,
) -> Result:
    """Judge a stored gate, also one that was killed before its verdict; see `judge`."""
    plain = stored.document(kept)
    rules = stored.rules(kept, margin=margin, min_effect=min_effect)
    included = include_suspect or stored.INCLUDED in kept.record.call
    rules = replace(rules, include_suspect=included)
    return _judged(kept, plain, stored.evidence(kept, plain), rules)


def finished(kept: StoredRun, rules: Rules) -> Result | None:
    """Return the result of a stored gate if a gate with these rules would measure no more of it.

    None if something is left: the run has not ended or is damaged, or a contest failed, was away or
    was cut short. A contest that its budget ended goes on with a larger one only.
    """
    try:
        known = contents.read(kept.path, kept.record.key)
        plain = stored.document(kept)
        found = stored.evidence(kept, plain)
    except StoreError:  # what is damaged is measured again
        return None
    if known is None or known.end is None:
        return None
    if plain.get("incomplete") or plain["away"] or plain["failed"]:
        return None
    if any(_goes_on(one, rules) for one in found):
        return None
    result = _judged(kept, plain, found, rules)
    notice = f"nothing is left to measure of gate {kept.id}: this is its stored verdict"
    return replace(result, notice=notice)


def _goes_on(one: Evidence, rules: Rules) -> bool:
    if one.out_of_budget is not None:
        return rules.budget_seconds > one.out_of_budget
    return bool(one.cut_short or one.fresh_cut_short) or wants_more(one, rules)


def _judged(
    kept: StoredRun, plain: Mapping[str, Any], found: Sequence[Evidence], rules: Rules
) -> Result:
    included = rules.include_suspect
    return judging.judge_again(
        [replace(one, failure=left_out(one, include_suspect=included)) for one in found],
        stored.result(kept, plain),
        rules=rules,
        accuracies=stored.accuracies(plain),
    )
