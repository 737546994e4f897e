from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats as scipy_stats

from harness.analysis.pick import choose, key_of, parse_constraint, probability_lowest
from harness.errors import ConfigError
from harness.records.table import COLUMNS


def row(recipe: str, **fields: Any) -> dict[str, Any]:
    known = {
        "model": "kws",
        "recipe": recipe,
        "target": "xnnpack",
        "device": "bench-pi",
        "threads": 1,
        "status": "ok",
        "flags": [],
    }
    return {**dict.fromkeys(COLUMNS), **known, **fields}


FLOAT = row("float32", latency_p50_ms=0.30, accuracy=0.92, size_bytes=90_000)
INT8 = row("int8", latency_p50_ms=0.20, accuracy=0.90, size_bytes=30_000)
INT16 = row("int16x8", latency_p50_ms=0.21, accuracy=0.91, size_bytes=33_000)
ROWS = [FLOAT, INT8, INT16]


def launches(spread: float, count: int = 5) -> dict[Any, list[float]]:
    steps = np.linspace(-1, 1, count)
    return {key_of(one): list(one["latency_p50_ms"] * 1e6 * np.exp(spread * steps)) for one in ROWS}


def test_the_lowest_row_wins_with_a_reason() -> None:
    pick = choose(ROWS, launches(0.01), minimize="latency_p50_ms", where=["accuracy>=0.85"])
    assert pick.winner is INT8
    assert pick.probability is not None
    assert pick.probability > 0.95
    assert pick.reason == (
        "int8 has the least latency_p50_ms, 0.2, of the 3 rows that meet accuracy>=0.85; "
        "next is int16x8, 5.0% above the best; the probability of being the best is over 0.99"
    )
    assert [(one.qualifies, one.why) for one in pick.rows] == [
        (True, "50.0% above the best"),
        (True, "best"),
        (True, "5.0% above the best"),
    ]


@pytest.mark.parametrize(
    ("option", "column", "word"),
    [
        ("minimize", "accuracy", "lowest"),
        ("maximize", "latency_p50_ms", "highest"),
        ("minimize", "threads", "lowest"),
    ],
)
def test_what_is_not_the_best_is_not_called_the_best(option: str, column: str, word: str) -> None:
    if column != "threads":
        with pytest.raises(ConfigError, match=r"better; use --\w+ \w+, or --anyway"):
            choose(ROWS, launches(0.01), **{option: column})
    pick = choose(ROWS, launches(0.01), **{option: column}, anyway=True)
    texts = [pick.reason, *(one.why for one in pick.rows), *(row[""] for row in pick.shown())]
    assert not any("best" in text for text in texts)
    assert any(word in text for text in texts)


def test_a_constraint_is_hard() -> None:
    pick = choose(ROWS, launches(0.01), minimize="latency_p50_ms", where=["accuracy>=0.905"])
    assert pick.winner is INT16
    assert pick.rows[1].why == "accuracy is 0.9, 0.005 (0.6%) off accuracy>=0.905"
    only = choose(ROWS, {}, minimize="latency_p50_ms", where=["accuracy > 0.91", "threads==1"])
    assert (only.winner, only.probability) == (FLOAT, 1.0)
    assert only.reason == (
        "float32 has the least latency_p50_ms, 0.3: the only row that meets "
        "accuracy>0.91 and threads==1"
    )


def test_noise_makes_the_pick_uncertain() -> None:
    pick = choose(ROWS, launches(0.08), minimize="latency_p50_ms")
    assert pick.winner is INT8
    assert pick.probability is not None
    assert 0.5 < pick.probability < 0.95
    assert "not settled" in pick.reason


def test_columns_without_noise_are_certain_and_ties_share() -> None:
    sure = choose(ROWS, {}, minimize="size_bytes")
    assert sure.probability == 1.0
    assert sure.reason.endswith("10.0% above the best; that column has no noise")
    twin = row("other", size_bytes=30_000)
    pick = choose([*ROWS, twin], {}, minimize="size_bytes")
    assert (pick.winner, pick.probability) == (INT8, 0.5)
    assert pick.rows[-1].why == "the same"


def test_a_noisy_column_without_launches_has_no_probability() -> None:
    rows = [row("a", peak_rss_mb=20.0), row("b", peak_rss_mb=21.0)]
    pick = choose(rows, {}, minimize="peak_rss_mb")
    assert (pick.winner, pick.probability) == (rows[0], None)
    assert "peak_rss_mb has no values per launch" in pick.reason


def test_rows_that_are_not_measured_on_a_device_do_not_qualify() -> None:
    crashed = row("dynamic", status="crashed", reason="signal 11")
    partial = row("gpu", status="partial", reason="2 operators left", latency_p50_ms=0.01)
    emulated = row("qemu", flags=["emulated"], latency_p50_ms=0.01)
    unknown = row("odd", latency_p50_ms=math.nan)
    rows = [crashed, partial, emulated, unknown, INT8]
    pick = choose(rows, {}, minimize="latency_p50_ms")
    assert pick.winner is INT8
    assert [one.why for one in pick.rows[:4]] == [
        "crashed: signal 11",
        "partial: 2 operators left",
        "emulated: its speed is not a device's",
        "latency_p50_ms is not known",
    ]
    with_emulated = choose(rows, {}, minimize="latency_p50_ms", emulated=True)
    assert with_emulated.winner is emulated


def test_if_none_qualifies_the_reason_has_the_closest_row_and_its_distance() -> None:
    pick = choose(ROWS, {}, minimize="latency_p50_ms", where=["accuracy>=0.95"])
    assert (pick.winner, pick.probability) == (None, None)
    assert pick.reason == (
        "none qualifies of 3 rows; closest is float32: "
        "accuracy is 0.92, 0.03 (3.2%) off accuracy>=0.95"
    )
    two = choose(
        ROWS, {}, minimize="latency_p50_ms", where=["accuracy>=0.905", "latency_p50_ms<=0.205"]
    )
    assert "closest is int8: accuracy is 0.9, 0.005 (0.6%) off" in two.reason
    null = choose(ROWS, {}, minimize="latency_p50_ms", where=["energy_mj<=1"])
    assert "energy_mj is not known, energy_mj<=1 is required" in null.reason


def test_an_accuracy_that_is_not_known_is_given_by_evaluation_data() -> None:
    rows = [row("a", accuracy=None), row("b", accuracy=None)]
    way = (
        "accuracy is not known (`[data] evaluation` in the plan gives it, or --evaluation of "
        "`bench` and `optimize`)"
    )
    required = choose(rows, {}, minimize="latency_p50_ms", where=["accuracy>=0.9"])
    assert f"closest is a: {way}, accuracy>=0.9 is required" in required.reason
    wanted = choose(rows, {}, maximize="accuracy")
    assert [one.why for one in wanted.rows] == [way, way]


@pytest.mark.parametrize(
    ("fields", "end"),
    [
        (
            {"latency_p50_ms": 0.1, "verdict": "SUSPECT", "verdict_reason": "a mean of outputs"},
            "SUSPECT: a mean of outputs; --include-suspect includes it",
        ),
        (
            {"latency_p50_ms": 0.1, "flags": ["emulated"]},
            "emulated: its speed is not a device's; --emulated includes it",
        ),
        ({"status": "crashed", "reason": "signal 11"}, "crashed: signal 11"),
    ],
)
def test_the_only_row_that_meets_the_constraints_is_the_closest(
    fields: dict[str, Any], end: str
) -> None:
    rows = [INT8, row("as_is@g-zero", **fields), FLOAT]
    pick = choose(rows, {}, minimize="latency_p50_ms", where=["recipe==as_is@g-zero"])
    assert pick.winner is None
    assert pick.reason == f"none qualifies of 3 rows; closest is as_is@g-zero: {end}"


def test_none_qualifies_if_nothing_was_measured() -> None:
    assert choose([], {}, minimize="size_bytes").reason == "none qualifies: the run has no rows"
    rows = [row("a", status="crashed"), row("b", status="crashed"), row("c", flags=["simulated"])]
    assert choose(rows, {}, minimize="size_bytes").reason == (
        "none qualifies: no row is ok and measured on a device (2 crashed, 1 emulated)"
    )


def test_text_columns_and_names_across_devices() -> None:
    other = row("int8", device="pixel", threads=4, model="vww", latency_p50_ms=0.1)
    pick = choose([INT8, other], {}, minimize="latency_p50_ms")
    assert pick.reason.startswith("vww int8 on pixel with 4 threads has the least")
    held = choose([INT8, other], {}, minimize="latency_p50_ms", where=["device != 'pixel'"])
    assert held.winner is INT8
    assert held.rows[1].why == "device is pixel, device!=pixel is required"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("acuracy>=0.9", "did you mean 'accuracy'"),
        ("zzz>=0.9", "columns are: run, model"),
        ("p50>=0.9", "did you mean 'latency_p50_ms'"),
        ("latency_p50_ms<=10ms", "so write latency_p50_ms<=10$"),
        ("latency_p50_ms<=0.5 s", "so write latency_p50_ms<=500$"),
        ("latency_p50_ms<=90%", "units are in the column's name$"),
        ("latency_p50_ms<=fast", "units are in the column's name$"),
        ("accuracy>=90%", "so write accuracy>=0.9$"),
        ("accuracy>=90 %", "so write accuracy>=0.9$"),
        ("accuracy>=0,85", "so write accuracy>=0.85$"),
        ("size_bytes<=100kB", "so write size_bytes<=100000$"),
        ("peak_rss_mb<=1 GB", "so write peak_rss_mb<=1000$"),
        ("size_bytes<=3 apples", "units are in the column's name$"),
        ("latency_p50_ms<=nan", "is not a number"),
        ("accuracy=0.9", "write COLUMN<=VALUE"),
        ("accuracy=>0.9", "write COLUMN<=VALUE"),
        ("accuracy<<0.9", "write COLUMN<=VALUE"),
        ("accuracy>=", "write COLUMN<=VALUE"),
        ("", "write COLUMN<=VALUE"),
        ("device<=pi", "compared with == or != only"),
        ("flags==x", "flags is a list"),
    ],
)
def test_an_invalid_constraint_is_an_error_with_the_allowed_form(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why.replace("?", ".")):
        choose(ROWS, {}, minimize="size_bytes", where=[text])


def test_a_column_that_cannot_be_minimised() -> None:
    with pytest.raises(ConfigError, match="did you mean 'latency_p50_ms'"):
        choose(ROWS, {}, minimize="latency_p50")
    with pytest.raises(ConfigError, match="is text"):
        choose(ROWS, {}, minimize="device")


def test_a_constraint_is_written_as_it_was_given() -> None:
    assert str(parse_constraint(" size_bytes < 1e6 ")) == "size_bytes<1000000"
    assert str(parse_constraint('recipe == "int8"')) == "recipe==int8"


def test_json_form() -> None:
    plain = choose(ROWS, launches(0.01), minimize="latency_p50_ms").plain()
    assert list(plain) == ["winner", "reason", "probability", "rows"]
    assert plain["winner"]["recipe"] == "int8"
    assert plain["rows"][1]["qualifies"] is True
    assert plain["rows"][1]["why"] == "best"
    assert plain["rows"][1]["size_bytes"] == 30_000


# --- the probability ------------------------------------------------------------------------------


def test_probability_of_two_rows_is_the_t_tail() -> None:
    # One row has no spread, so one t distribution remains.
    values = np.exp(np.array([0.00, 0.02, 0.04, 0.01, 0.03]))
    got = probability_lowest([list(values), [math.exp(0.04)] * 5], 0)
    logs = np.log(values)
    se = logs.std(ddof=1) / math.sqrt(5)
    assert got == pytest.approx(scipy_stats.t.cdf((0.04 - logs.mean()) / se, 4), abs=0.01)


def test_probabilities_of_all_rows_sum_to_one_and_are_reproducible() -> None:
    found = [[1.0, 1.1, 1.2], [1.05, 1.15, 1.1], [1.3, 1.0, 1.1]]
    shares = [probability_lowest(found, index) for index in range(3)]
    assert sum(share for share in shares if share is not None) == pytest.approx(1.0)
    assert shares[0] == probability_lowest(found, 0)


def test_rows_without_any_spread_share_a_tie() -> None:
    assert probability_lowest([[1.0, 1.0], [1.0, 1.0]], 0) == 0.5
    assert probability_lowest([[1.0, 1.0], [2.0, 2.0]], 0) == 1.0


def test_one_launch_borrows_the_spread_of_the_others() -> None:
    assert probability_lowest([[1.0], [2.0]], 0) is None
    got = probability_lowest([[1.0], [1.05, 1.0, 1.1]], 0)
    assert got is not None
    assert 0.6 < got < 0.95


def test_invalid_values_of_launches_are_refused() -> None:
    for bad in ([], [0.0], [math.nan]):
        with pytest.raises(ValueError, match="above 0"):
            probability_lowest([[1.0, 1.1], bad], 0)


def test_the_probability_is_calibrated() -> None:
    rng = np.random.default_rng(12)
    stated, right = [], []
    for _ in range(400):
        truth = rng.normal(0, 0.05, 3)
        found = np.exp(truth[:, None] + rng.normal(0, 0.04, (3, 5)))
        best = int(np.argmin(np.median(found, axis=1)))
        stated.append(probability_lowest(found.tolist(), best))
        right.append(best == int(np.argmin(truth)))
    assert np.mean(stated) == pytest.approx(np.mean(right), abs=0.06)
