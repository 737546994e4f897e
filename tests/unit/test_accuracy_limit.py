"""accept.max_accuracy_drop compares decimals, and its row shows the accuracy that was judged."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_runs import cell, record, variant

from harness.analysis.search import columns as search_columns
from harness.config import searches
from harness.measure import failures
from harness.records import table
from harness.records.store import Store
from harness.types import Accept, Cell, Constraints, Outcome, Search, Variant


def judged(source: float, accuracy: float, limit: float, metric: str = "top1") -> Cell:
    better = "lower" if metric in {"mse", "mae"} else "higher"
    made = replace(
        variant(),
        accuracy=accuracy,
        accuracy_source_model=source,
        metric=metric,
        metric_direction=better,
    )
    return cell(variant=made, accept=Accept(max_accuracy_drop=limit))


@pytest.mark.parametrize(
    ("source", "accuracy", "limit"),
    [
        *((0.90, 0.88, 0.02), (0.95, 0.93, 0.02), (0.3, 0.2, 0.1), (1.0, 0.98, 0.02)),
        *((13 / 15, 127 / 150, 0.02), (2 / 3, 2 / 3 - 0.05, 0.05), (0.5, 0.5, 0.0)),
    ],
)
def test_a_drop_of_the_limit_is_accepted(source: float, accuracy: float, limit: float) -> None:
    assert failures.refused(judged(source, accuracy, limit), None) is None
    assert failures.refused(judged(accuracy, source, limit, "mse"), None) is None
    more = accuracy - 1e-6
    assert failures.refused(judged(source, more, limit), None) is not None


@given(
    st.integers(1, 5000).flatmap(
        lambda n: st.tuples(st.just(n), st.integers(0, n), st.integers(0, n))
    ),
    st.integers(0, 1000),
)
def test_shares_are_compared_exactly(counts: tuple[int, int, int], thousandths: int) -> None:
    samples, before, after = counts
    refused = failures.refused(judged(before / samples, after / samples, thousandths / 1000), None)
    exactly = Fraction(before - after, samples) > Fraction(thousandths, 1000)
    assert (refused is not None) == exactly


def test_a_small_error_keeps_its_digits() -> None:
    assert failures.refused(judged(1e-9, 3e-9, 1e-9, "mse"), None) is not None
    assert failures.refused(judged(1e-9, 2e-9, 1e-9, "mse"), None) is None


def test_a_search_compares_in_the_same_way() -> None:
    made = judged(0.90, 0.88, 0.02).variant
    assert isinstance(made, Variant)
    wanted = Search(
        space=(),
        model=None,
        objectives=("size_bytes",),
        constraints=Constraints(max_accuracy_drop=0.02),
        device="this-machine",
        trials=1,
        processes=1,
    )
    assert searches.OBJECTIVES
    assert search_columns.misses(wanted, search_columns.host_values(made)) == ()


def test_the_row_shows_the_accuracy_that_was_judged(tmp_path: Path) -> None:
    lost = judged(0.90, 0.87, 0.02)
    failure = failures.refused(lost, None)
    assert failure is not None
    assert failure.reason == (
        "on the host top1 falls by 0.0300 against the source model, from 0.9 to 0.87 "
        "(accept.max_accuracy_drop = 0.02)"
    )
    with Store(tmp_path).create(record([lost])) as writer:
        writer.outcome(Outcome(cell=lost, failure=failure))
    (row,) = table.rows(Store(tmp_path).open("latest"))
    assert (row["status"], row["accuracy"], row["accuracy_source"]) == ("inaccurate", 0.87, "host")
    assert row["latency_p50_ms"] is None


def test_a_device_s_own_fault_shows_no_accuracy(tmp_path: Path) -> None:
    """Other outputs than the host's: the accuracy on the host does not describe that device."""
    of = judged(0.90, 0.89, 0.02)
    failure = replace(failures.refused(judged(0.9, 0.1, 0.02), None), reason="other outputs")
    with Store(tmp_path).create(record([of])) as writer:
        writer.outcome(Outcome(cell=of, failure=failure))
    (row,) = table.rows(Store(tmp_path).open("latest"))
    assert (row["status"], row["accuracy"]) == ("inaccurate", None)
