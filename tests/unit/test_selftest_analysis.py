"""The analysis of a selftest, from pairs with a known spread."""

import dataclasses
import json
import math
import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.analysis.gate import selftests, verdicts
from harness.analysis.gate.contest import Contest, Evidence, Reading, Rules, Side
from harness.analysis.gate.findings import Comparison, Key
from harness.errors import StoreError
from harness.measure.pairs import Pair
from harness.stats import paired
from harness.types import Cell, Delegation, Launch, Variant

NOW = datetime(2026, 11, 22, 8, tzinfo=UTC)
RULES = Rules(metrics=("latency",), half_width=0.0)


def evidence(spread: float, pairs: int = 20, p50_ns: float = 2e5, digest: str = "a") -> Evidence:
    variant = Variant(
        model="m", recipe="r", target="xnnpack", path=Path("x"), digest=digest * 64, size_bytes=1
    )
    cell = Cell(model="m", recipe="r", target="xnnpack", device="d", threads=1, variant=variant)
    side = Side(cell=cell)
    chance = random.Random(spread)
    readings = []
    for block in range(pairs):
        for position, name in enumerate(("baseline", "candidate")):
            launch = Launch(
                id=f"{name}-{block}",
                cell_id=name,
                kind="timed",
                block=block,
                position=position,
                seed=0,
                runtime="fake 0",
                delegation=Delegation(delegate="fake"),
                wall_ns=1,
            )
            value = p50_ns * (1 + chance.gauss(0, spread))
            reading: Any = Reading(
                side=name,  # type: ignore[arg-type]
                launch=launch,
                inferences=1000,
                quantiles=dict.fromkeys(paired.QUANTILES, value),
            )
            readings.append(reading)
    return Evidence(
        contest=Contest(key=Key(model="m", device="d"), a=side, b=side), readings=tuple(readings)
    )


def found(spread: float, **changes: Any) -> selftests.Selftest:
    return selftests.analyse(
        evidence(spread, **changes),
        RULES,
        identity="one",
        run="r",
        created=NOW.isoformat(),
        cores=2,
    )


def test_a_quiet_device_shows_two_per_cent_without_false_alarms() -> None:
    made = found(0.005)
    assert made.fit
    assert made.smallest_effect == pytest.approx(0.0227, abs=0.0005)
    same, two, five, ten = made.arms
    assert same.red == same.told == 0
    assert two.told > 0.3
    assert five.told > 0.99
    assert ten.red > 0.99


@pytest.mark.parametrize("spread", [0.002, 0.005, 0.03])
def test_the_smallest_effect_is_judged_slower_in_95_of_100_gates(spread: float) -> None:
    made = found(spread)
    assert made.smallest_effect > RULES.min_effect
    chance = random.Random(1)

    def slower() -> bool:
        shifts = [chance.gauss(math.log1p(made.smallest_effect), made.spread) for _ in range(20)]
        pairs = tuple(Pair(block=at, a=1.0, b=math.exp(one)) for at, one in enumerate(shifts))
        row = Comparison(key=Key(model="m", device="d"), metric="latency", pairs=pairs)
        (judged,) = verdicts.judge([row])
        return judged.verdict in {"REGRESSION", "SLOWER_WITHIN_MARGIN"}

    assert sum(slower() for _ in range(600)) / 600 == pytest.approx(0.95, abs=0.03)


def test_a_noisy_device_is_too_noisy_to_gate() -> None:
    made = found(0.08)
    assert not made.fit
    assert made.half_width > 0.03
    assert made.arms[0].red <= 0.01
    assert made.plain()["fit"] is False


def test_too_few_pairs_are_an_error() -> None:
    cut = dataclasses.replace(evidence(0.01, pairs=4), cut_short="d was lost after block 3")
    with pytest.raises(StoreError, match="only 4 of at least 6 pairs.*lost after block 3"):
        selftests.analyse(cut, RULES, identity="one", run="r", created="now")


def test_a_selftest_is_stored_by_device_and_replaced_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert selftests.read("one") == ()
    first, second, other = found(0.01), found(0.02), found(0.01, digest="b")
    for made in (first, other, second):
        selftests.keep(made)
    assert selftests.read("one") == (other, second)
    path = selftests.path_of("one")
    text = path.read_text()
    half_width = f'"half_width":{second.half_width!r}'
    assert half_width in text
    for damaged in ("{", text.replace(half_width, '"half_width":0.0')):
        path.write_text(damaged)
        with pytest.raises(StoreError, match="is damaged .*run selftest again"):
            selftests.read("one")
    # As stored before there were checksums.
    plain = json.loads(text)
    del plain["sum"]
    path.write_text(json.dumps(plain))
    assert selftests.read("one") == (other, second)


def applied(known: list[selftests.Selftest], of: Evidence, days: float = 1) -> Any:
    made = selftests.applied(known, of, NOW + timedelta(days=days))
    return None if made is None else (made.half_width, made.unfit)


def test_the_selftest_that_applies_to_a_contest() -> None:
    slow, quick = found(0.05, p50_ns=6e5, digest="c"), found(0.01, p50_ns=1e5, digest="d")
    known = [slow, quick]
    assert applied(known, evidence(0.01, p50_ns=1e5, digest="d")) == (quick.half_width, None)
    # Noise with a slower file is noise with this one; noise with a quicker one says nothing.
    assert applied(known, evidence(0.01, digest="e")) == (slow.half_width, None)
    assert applied([], evidence(0.01)) is None


@pytest.mark.parametrize(
    ("changes", "of", "days", "reason"),
    [
        ({}, {}, 31, "31 days old, 30 days are the most"),
        ({}, {}, -3, "2026-11-22, is in the future"),
        ({"created": "now"}, {}, 1, "its time is not known"),
        ({"runtime": "other 1"}, {}, 1, "it used other 1, not fake 0"),
        ({"threads": 4}, {}, 1, "it used 4 threads, not 1"),
        ({"load": 2.4}, {}, 1, "load of 2.4 on 2 cores"),
        ({"digest": "e" * 64, "p50_ns": 1e5}, {}, 1, "its file takes 0.1 ms"),
        ({"digest": "e" * 64, "p50_ns": 9e5}, {}, 1, "its file takes 0.9 ms"),
    ],
)
def test_a_selftest_that_no_longer_fits_says_why(
    changes: dict[str, Any], of: dict[str, Any], days: float, reason: str
) -> None:
    known = dataclasses.replace(found(0.05), **changes)
    half_width, unfit = applied([known], evidence(0.01, **of), days)
    assert half_width == known.half_width
    assert reason in unfit


def test_a_selftest_under_its_own_load_only_fits() -> None:
    known = dataclasses.replace(found(0.05), load=1.6)
    assert applied([known], evidence(0.01)) == (known.half_width, None)


def test_a_selftest_in_a_busy_hour_says_itself_that_no_gate_counts_it() -> None:
    quiet = found(0.005)
    assert (quiet.plain()["fit"], quiet.plain()["unfit"]) == (True, None)
    busy = dataclasses.replace(quiet, load=4.1)
    assert busy.plain()["fit"] is False
    assert busy.plain()["unfit"] == (
        "the device had a load of 4.1 on 2 cores during it, 2.0 is the most"
    )
    assert applied([busy], evidence(0.01)) == (busy.half_width, busy.unfit)


def test_a_selftest_in_a_busy_hour_does_not_replace_one_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    quiet, busy = found(0.005), dataclasses.replace(found(0.05), load=4.1)
    for made in (quiet, busy, busy):
        selftests.keep(made)
    assert applied(list(selftests.read("one")), evidence(0.01)) == (quiet.half_width, None)
    selftests.keep(quiet)
    assert selftests.read("one") == (quiet,)
