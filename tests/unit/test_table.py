from __future__ import annotations

import json
import math
from array import array
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats
from synthetic_runs import (
    as_first_version,
    cell,
    latencies,
    launch,
    measure,
    record,
    samples,
    variant,
    whole_run,
)

from harness.errors import StoreError
from harness.records import table
from harness.records.store import Store, StoredRun, checksums
from harness.records.table import display, minutes
from harness.records.table.rows import read
from harness.types import Cell, Covariates, Delegation, Dose, Failure, Launch, Outcome, Warmup


def stored(root: Path, of: Cell, launches: list[Launch]) -> StoredRun:
    with Store(root).create(record([of])) as writer:
        for one in launches:
            writer.launch(one)
        writer.outcome(Outcome(cell=of, launches=tuple(launches)))
    return Store(root).open(writer.id)


def the_row(root: Path, of: Cell, launches: list[Launch]) -> table.Row:
    (row,) = table.rows(stored(root, of, launches))
    return row


def test_a_rows_columns_are_the_interfaces(tmp_path: Path) -> None:
    run = Store(tmp_path).open(whole_run(tmp_path))
    rows = table.rows(run)
    assert len(rows) == 4
    assert all(tuple(row) == table.COLUMNS for row in rows)
    assert len(table.COLUMNS) == 52
    frame = table.frame(run)
    assert tuple(frame.columns) == table.COLUMNS
    assert frame["latency_p50_ms"].notna().sum() == 2
    json.dumps([row.plain() for row in rows], allow_nan=False)


def test_latency_is_of_launches_and_percentiles_are_of_samples(tmp_path: Path) -> None:
    of = cell()
    blocks = [latencies(of, block, 130) for block in range(3)]
    row = the_row(tmp_path, of, [launch(of, v, block) for block, v in enumerate(blocks)])
    medians = np.array([np.median(values) for values in blocks])
    half = scipy_stats.t.ppf(0.975, 2) * scipy_stats.sem(np.log(medians))
    middle = np.log(medians).mean()
    assert row["latency_p50_ms"] == pytest.approx(np.median(medians) / 1e6)
    assert row["latency_p50_low_ms"] == pytest.approx(math.exp(middle - half) / 1e6)
    assert row["latency_p50_high_ms"] == pytest.approx(math.exp(middle + half) / 1e6)
    pooled = np.concatenate(blocks)
    assert row["latency_p90_ms"] == pytest.approx(np.quantile(pooled, 0.9) / 1e6)
    assert row["latency_p99_ms"] == pytest.approx(np.quantile(pooled, 0.99) / 1e6)
    assert (row["launches"], row["inferences"]) == (3, 390)
    assert (row["load_ms"], row["first_ms"]) == (2.0, 0.4)
    assert row["temperature_max_c"] == 43.0
    assert (row["status"], row["reason"]) == ("ok", None)
    assert (row["runtime"], row["delegate"]) == ("ai_edge_litert 2.3.0", "xnnpack")
    assert (row["accuracy"], row["accuracy_source"], row["accuracy_host"]) == (0.9, "host", 0.9)


@pytest.mark.parametrize(("n", "p90", "p99"), [(35, 0, 0), (36, 1, 0), (367, 1, 0), (368, 1, 1)])
def test_percentiles_need_their_least_counts(tmp_path: Path, n: int, p90: int, p99: int) -> None:
    row = the_row(tmp_path, cell(), [launch(cell(), latencies(cell(), 0, n))])
    assert (row["latency_p90_ms"] is not None, row["latency_p99_ms"] is not None) == (p90, p99)
    assert row["latency_p50_low_ms"] is None


def test_averaged_samples_have_a_median_but_no_percentiles(tmp_path: Path) -> None:
    one = launch(cell(), [], samples=(samples(latencies(cell(), 0, 500), count=10),))
    row = the_row(tmp_path, cell(), [one])
    assert row["latency_p50_ms"] is not None
    assert (row["latency_p90_ms"], row["latency_p99_ms"]) == (None, None)


def test_memory_is_of_its_own_launches(tmp_path: Path) -> None:
    first, second = cell("float32"), cell("int8")
    other = cell("int8", threads=2)
    with Store(tmp_path).create(record([first, second, other])) as writer:
        bare = launch(first, [50e6], kind="bare")
        writer.launch(bare)
        for one, peak in ((first, 70e6), (second, 60e6), (other, 65e6)):
            timed = launch(one, latencies(one, 0), samples=(samples([1.0]),))
            memory = launch(one, [peak], kind="memory")
            for made in (timed, memory):
                writer.launch(made)
            writer.outcome(Outcome(cell=one, launches=(timed, memory)))
    rows = table.rows(Store(tmp_path).open("latest"))
    # The bare launch is shared by the cells of its device and threads, and by no other.
    assert [row["peak_rss_mb"] for row in rows] == [70.0, 60.0, 65.0]
    assert [row["model_memory_mb"] for row in rows] == [20.0, 10.0, None]


def test_a_failed_row_has_nulls_and_its_reason(tmp_path: Path) -> None:
    of = cell()
    failure = Failure(kind="crashed", reason="signal 11 in launch 2")
    called = record([of, cell("float16")], call={"plan": "a plan.toml"})
    with Store(tmp_path).create(called) as writer:
        measure(writer, of)
        writer.outcome(Outcome(cell=of, failure=failure))
    failed, pending = table.rows(Store(tmp_path).open("latest"))
    assert (failed["status"], failed["reason"]) == ("crashed", "signal 11 in launch 2")
    assert pending["status"] == "pending"
    command = f"edge-harness run 'a plan.toml' --results {tmp_path} --resume {called.id}"
    assert f"`{command}` continues it" in pending["reason"]
    known = {"run", "model", "recipe", "variant", "target", "device", "threads", "status", "reason"}
    known |= {"size_bytes", "size_zstd_bytes", "accuracy_host", "flags", "scenario"}
    for row in (failed, pending):
        assert {name for name in table.COLUMNS if row[name] is not None} == known


def test_flags_of_everything_are_united(tmp_path: Path) -> None:
    of = cell(flags=("emulated",), variant=variant(flags=("random_calibration",)))
    launches = [
        launch(of, [1.0], block=0, flags=("hot_start", "uncontrolled")),
        launch(of, [1.0], block=1, drift=-0.05),
        launch(of, [1.0], block=2, warmup=Warmup(inferences=300, seconds=1, steady=False)),
        launch(of, [1.0], kind="bare", flags=("no_xnnpack",)),
    ]
    assert the_row(tmp_path, of, launches)["flags"] == [
        *("drift", "emulated", "hot_start", "random_calibration", "uncontrolled", "unsteady")
    ]


def delegated(done: int | None, total: int | None, name: str = "edgetpu") -> Delegation:
    return Delegation(
        delegate=name, delegated_ops=done, total_ops=total, left=("SOFTMAX",), evidence="graph walk"
    )


def test_partial_is_measured_and_says_what_stayed(tmp_path: Path) -> None:
    of = cell("as_is@npu", target="npu")
    row = the_row(tmp_path, of, [launch(of, [1e6], delegation=delegated(19, 20))])
    assert row["status"] == "partial"
    assert row["reason"] == (
        "1 of 20 operators stayed on the CPU: SOFTMAX (95% delegated, under min_delegated = 1)"
    )
    assert row["latency_p50_ms"] == 1.0
    assert (row["delegated_ops"], row["total_ops"], row["evidence"]) == (19, 20, "graph walk")


def test_nothing_delegated_is_never_a_number(tmp_path: Path) -> None:
    of = cell("as_is@edgetpu", target="edgetpu")
    for number, delegation in enumerate((delegated(0, 20), delegated(None, None, "none"))):
        row = the_row(tmp_path / str(number), of, [launch(of, [1e6], delegation=delegation)])
        assert row["status"] == "fell_back"
        assert row["latency_p50_ms"] is None
        assert row["launches"] is None


@pytest.mark.parametrize(
    ("cpu_ns", "word"), [(1.02e6, "SUSPECT"), (9e6, "VALID"), (5e8, "SUSPECT")]
)
def test_a_time_is_held_against_the_same_files_on_the_cpu(
    tmp_path: Path, cpu_ns: float, word: str
) -> None:
    of = cell("as_is@npu", target="npu")
    full = Delegation(delegate="npu", delegated_ops=5, total_ops=5, evidence="graph walk")
    beside = launch(of, [], kind="cpu", samples=(samples([cpu_ns]),), flags=("unsteady",))
    row = the_row(tmp_path, of, [launch(of, [1e6], delegation=full), beside])
    assert (row["status"], row["verdict"], row["latency_p50_ms"]) == ("ok", word, 1.0)
    assert row["flags"] == (["suspect"] if word == "SUSPECT" else [])
    assert row["launches"] == 1


def test_operators_xnnpack_leaves_are_no_fault(tmp_path: Path) -> None:
    of = cell()
    row = the_row(tmp_path, of, [launch(of, [1e6], delegation=delegated(3, 20, "xnnpack"))])
    assert (row["status"], row["delegated_ops"]) == ("ok", 3)


def test_clock_that_reads_zero_breaks_no_table(tmp_path: Path) -> None:
    of = cell()
    launches = [launch(of, [0.0, 0.0], block) for block in range(3)]
    run = stored(tmp_path, of, launches)
    (row,) = table.rows(run)
    assert (row["latency_p50_ms"], row["latency_p50_low_ms"]) == (0.0, None)
    assert table.compare([run, run])[1]["ratio"] is None


def test_the_quantile_cache_is_used_and_rebuilt_when_stale(tmp_path: Path) -> None:
    of = cell()
    run = stored(tmp_path, of, [launch(of, [2e6])])
    cache = run.path / "quantiles.json"
    assert table.rows(run)[0]["latency_p50_ms"] == 2.0
    plain = json.loads(cache.read_text())
    plain["quantiles"]["launches"][f"{of.id}-timed-0-0"]["p50"] = 7e6
    del plain["sum"]
    changed = checksums.summed(plain, f"{run.record.key}/quantiles.json")
    cache.write_text(changed)
    assert table.rows(run)[0]["latency_p50_ms"] == 7.0
    for stale in (
        "{",
        json.dumps(plain),
        changed.replace("7000000.0", "7000001.0"),
        *(
            checksums.summed(plain | part, f"{run.record.key}/quantiles.json")
            for part in ({"formula": 0}, {"quantiles": 1}, {"launches_sha256": "0"})
        ),
        checksums.summed(plain, "another run/quantiles.json"),
        "[]",
    ):
        cache.write_text(stale)
        assert table.rows(run)[0]["latency_p50_ms"] == 2.0
    cache.write_text(changed)
    with Store(tmp_path).resume(run.id, "0" * 64) as writer:
        writer.launch(launch(of, [4e6], block=1))
    assert table.rows(run)[0]["latency_p50_ms"] == 2.0
    cache.unlink()
    cache.mkdir()
    assert table.rows(run)[0]["latency_p50_ms"] == 2.0


def test_damaged_samples_without_a_checksum_are_an_error_with_the_file(tmp_path: Path) -> None:
    of = cell()
    run = stored(tmp_path, of, [launch(of, [2e6])])
    as_first_version(run.path)
    next((run.path / "samples").iterdir()).write_bytes(b"not parquet at all")
    with pytest.raises(StoreError, match=r"samples in .*parquet"):
        table.rows(Store(tmp_path).open(run.id))


def test_compare_puts_the_same_question_side_by_side(tmp_path: Path) -> None:
    store = Store(tmp_path)
    first = store.open(whole_run(tmp_path))
    same = store.open(whole_run(tmp_path))
    slow = store.open(whole_run(tmp_path, recipes=("int8", "dynamic"), scale=1.6))
    rows = table.compare([first, same, slow])
    assert all(tuple(row) == table.COMPARED for row in rows)
    json.dumps([row.plain() for row in rows], allow_nan=False)
    sides: dict[str, list[table.Row]] = {}
    for row in rows:
        sides.setdefault(row["recipe"], []).append(row)
    assert [row["run"] for row in sides["int8"]] == [first.id, same.id, slow.id]
    assert [row["difference"] for row in sides["int8"]] == [None, "below noise", "slower"]
    assert sides["int8"][0]["ratio"] is None
    assert sides["int8"][2]["ratio"] == pytest.approx(1.6)
    for row in (sides["int8"][1], sides["int8"][2]):
        # The ratio is that of the numbers beside it.
        shown = row["latency_p50_ms"] / sides["int8"][0]["latency_p50_ms"]
        assert row["ratio"] == pytest.approx(shown)
        assert row["ratio_low"] <= row["ratio"] <= row["ratio_high"]
    assert sides["dynamic"][0]["status"] == "absent"
    assert sides["dynamic"][2]["ratio"] is None
    assert sides["int16x8"][0]["status"] == "not_built"
    with pytest.raises(StoreError, match="at least one"):
        table.compare([])


def test_the_scenario_columns_are_of_their_scenario(tmp_path: Path) -> None:
    stream = Dose(scenario="stream", period_ms=5.0)
    of = {
        "stream": cell("a", dose=stream),
        "offline": cell("b", dose=Dose(scenario="offline")),
        "sustained": cell("c", dose=Dose(scenario="sustained", sustained_minutes=3)),
        "single": cell("d"),
    }
    values = [1.0e6] * 60 + [1.5e6] * 60 + [2.0e6] * 60
    second = replace(samples(values), at_ns=array("q", range(0, 180 * 10**9, 10**9)))
    launches = {
        "stream": [launch(of["stream"], [1e6], b, missed_deadlines=b + 3) for b in range(2)],
        "offline": [launch(of["offline"], [], samples=(samples([2e6, 2e6, 4e6], count=5),))],
        "sustained": [launch(of["sustained"], [], samples=(second,))],
        "single": [launch(of["single"], [1e6])],
    }
    with Store(tmp_path).create(record(list(of.values()))) as writer:
        for name, one in of.items():
            for made in launches[name]:
                writer.launch(made)
            writer.outcome(Outcome(cell=one, launches=tuple(launches[name])))
    run = Store(tmp_path).open("latest")
    told = ("throughput_per_s", "missed_deadlines", "sustained_ratio")
    for _ in ("computed", "from the cache"):
        rows = {row["scenario"]: [row[name] for name in told] for row in table.rows(run)}
        assert rows == {
            "stream": [None, 7, None],
            "offline": [pytest.approx(1e9 / (8e6 / 3)), None, None],
            "sustained": [None, None, pytest.approx(2.0)],
            "single": [None, None, None],
        }
    assert minutes.lines(read(run)) == [
        "kws c on pi: p50 of each minute, ms: 1.00 1.50 2.00",
    ]
    shown = [column.title for column in display.columns(table.rows(run))]
    assert {"scenario", "inf/s", "missed", "last/first"} <= set(shown)
    single = [row for row in table.rows(run) if row["scenario"] == "single"]
    assert not {"scenario", "inf/s", "missed", "last/first"} & {
        column.title for column in display.columns(single)
    }
    legend = display.legend(table.rows(run))
    assert all(f"\n{name}: " in legend for name in ("stream", "offline", "sustained"))


def test_a_short_sustained_launch_is_compared_by_its_halves(tmp_path: Path) -> None:
    of = cell(dose=Dose(scenario="sustained", sustained_minutes=0.5))
    made = samples([1e6] * 15 + [1.2e6] * 15)
    made = replace(made, at_ns=array("q", range(0, 30 * 10**9, 10**9)))
    row = the_row(tmp_path, of, [launch(of, [], samples=(made,))])
    assert row["sustained_ratio"] == pytest.approx(1.2)


def test_an_offline_clock_that_reads_zero_has_no_throughput(tmp_path: Path) -> None:
    of = cell(dose=Dose(scenario="offline"))
    assert the_row(tmp_path, of, [launch(of, [0.0, 0.0])])["throughput_per_s"] is None


def test_a_run_from_before_there_were_scenarios_is_single(tmp_path: Path) -> None:
    of = cell()
    run = stored(tmp_path, of, [launch(of, [1e6])])
    as_first_version(run.path)
    path = run.path / "run.json"
    plain = json.loads(path.read_text())
    for key in ("scenario", "period_ms", "sustained_minutes"):
        del plain["cells"][0]["dose"][key]
    path.write_text(json.dumps(plain))
    journal = run.path / "launches.jsonl"
    line = json.loads(journal.read_text())
    del line["missed_deadlines"]
    journal.write_text(json.dumps(line) + "\n")
    (row,) = table.rows(Store(tmp_path).open(run.id))
    assert (row["scenario"], row["latency_p50_ms"], row["missed_deadlines"]) == ("single", 1, None)


def test_unlike_scenarios_are_not_compared(tmp_path: Path) -> None:
    runs = [
        stored(tmp_path, of, [launch(of, latencies(of, block), block) for block in range(3)])
        for of in (cell(), cell(dose=Dose(scenario="stream", period_ms=1.0)))
    ]
    row = table.compare(runs)[1]
    assert (row["difference"], row["ratio"]) == ("unlike", None)


def test_covariates_without_sensors_are_null(tmp_path: Path) -> None:
    of = cell()
    none = Covariates()
    one = replace(launch(of, [1.0]), before=none, after=none, load_ns=None, first_ns=None)
    row = the_row(tmp_path, of, [one])
    assert (row["temperature_max_c"], row["load_ms"], row["first_ms"]) == (None, None, None)


def test_an_interval_wider_than_a_factor_of_a_hundred_is_left_out() -> None:
    row = {"latency_p50_ms": 1.0, "latency_p50_low_ms": 0.02, "latency_p50_high_ms": 50.0}
    assert display.half_width(row) == "±4900.0%"
    assert display.half_width({**row, "latency_p50_high_ms": 101.0}) == ""
