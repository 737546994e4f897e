"""The registry of columns, and that everything reads it."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import synthetic_runs as synthetic

from harness import api, columns
from harness.analysis.gate.contest import METRICS
from harness.analysis.pick import choose, choose_of
from harness.config import searches
from harness.errors import ConfigError
from harness.present.report import html, markdown
from harness.records import table
from harness.records.store import Store
from harness.records.table import display
from harness.records.table.rows import read
from harness.records.table.sources import PER_LAUNCH, SOURCES
from harness.types import Variant

UNITS = {"_ms": "ms", "_mb": "MB", "_mj": "mJ", "_bytes": "bytes", "_per_s": "1/s", "_c": "°C"}


def test_every_column_has_its_source_and_every_source_its_column() -> None:
    assert tuple(SOURCES) == columns.names() == table.COLUMNS
    noisy = {column.name for column in columns.ALL if column.noise == "launches"}
    assert set(PER_LAUNCH) == noisy


def test_the_entries_fit_together() -> None:
    names = set(columns.names())
    assert len(names) == len(columns.ALL)
    for column in columns.ALL:
        assert column.help
        assert {column.low, column.high, column.of} - {None} <= names
        assert (column.low is None) == (column.high is None)
        unit = next((unit for end, unit in UNITS.items() if column.name.endswith(end)), "")
        assert column.unit == unit, column.name
        assert column.scale == 1 or column.base_unit
        if column.kind != "number":
            assert column.better is None
            assert column.gate is column.searched is None
        if column.gate or column.searched:
            assert column.better is not None
    assert METRICS == ("latency", "load", "first", "memory", "size", "accuracy")
    assert set(searches.HOST) <= {*Variant.__dataclass_fields__}
    titles = [column.look.title for column in columns.ALL if column.look]
    assert len(set(titles)) == len(titles)


def test_the_registry_costs_no_heavy_import() -> None:
    code = (
        "import sys, harness.columns\n"
        "print([m for m in ('numpy', 'pandas', 'pydantic', 'duckdb') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- a row -----------------------------------------------------------------------------------


def test_a_row_is_a_class(tmp_path: Path) -> None:
    synthetic.whole_run(tmp_path)
    rows = api.rows("latest", results=tmp_path)
    row = rows[0]
    assert isinstance(row, table.Row)
    assert (row.status, row.measured, row.flags, row.metric) == ("ok", True, (), "top1")
    assert row.number("size_bytes") == 54_321.0
    assert row.text("recipe") == "float32"
    assert row.number("energy_mj") is row.text("reason") is None
    assert row.better("latency_p50_ms") == "lower"
    assert row.better("recipe") is None
    assert row.plain() == dict(row) == json.loads(json.dumps(row.plain()))
    assert pickle.loads(pickle.dumps(row)) == row
    with pytest.raises(TypeError):
        row["status"] = "ok"  # type: ignore[index]
    with pytest.raises(KeyError):
        row["latency"]
    assert tuple(pd.DataFrame(rows).columns) == table.COLUMNS


# --- accuracy that is better lower -----------------------------------------------------------


@pytest.fixture
def errors(tmp_path: Path) -> Path:
    """A run of two files with errors in place of shares: 0.1 and 0.4."""
    cells = [
        synthetic.cell(recipe, variant=synthetic.variant(recipe, **facts))
        for recipe, facts in (
            ("int8", {"accuracy": 0.4, "metric": "mse", "metric_direction": "lower"}),
            ("float32", {"accuracy": 0.1, "metric": "mse", "metric_direction": "lower"}),
        )
    ]
    with Store(tmp_path).create(synthetic.record(cells)) as writer:
        for cell in cells:
            synthetic.measure(writer, cell)
    return tmp_path


def test_pick_asks_the_metric_which_accuracy_is_better(errors: Path) -> None:
    found = api.pick("latest", minimize="accuracy", results=errors)
    assert found.winner is not None
    assert found.winner["recipe"] == "float32"
    with pytest.raises(ConfigError, match="lower mse is better; use --minimize accuracy, or --any"):
        api.pick("latest", maximize="accuracy", results=errors)
    worst = api.pick("latest", maximize="accuracy", anyway=True, results=errors)
    assert worst.winner is not None
    assert worst.winner["recipe"] == "int8"


def test_an_error_is_never_exported_as_an_accuracy(errors: Path) -> None:
    (bmf,) = [
        measures
        for name, measures in json.loads(api.export("latest", "bmf", results=errors)).items()
        if "/int8/" in name
    ]
    assert bmf["mse"] == {"value": 0.4}
    assert "accuracy" not in bmf
    gbench = json.loads(api.export("latest", "gbench", results=errors))["benchmarks"]
    (aggregate, _) = [one for one in gbench if one["run_type"] == "aggregate"]
    assert (aggregate["mse"], "accuracy" in aggregate) == (0.4, False)
    charts = json.loads(api.export("latest", "github", results=errors))
    assert [one["value"] for one in charts if one["name"].endswith(" mse")] == [0.4, 0.1]


def test_a_share_is_no_chart_that_is_better_smaller(tmp_path: Path) -> None:
    synthetic.whole_run(tmp_path)
    names = [one["name"] for one in json.loads(api.export("latest", "github", results=tmp_path))]
    assert not [name for name in names if "accuracy" in name]


def test_tables_and_the_page_say_what_an_error_is(errors: Path) -> None:
    run = Store(errors).open("latest")
    rows = table.rows(run)
    shown = {column.title: column.text(rows[0]) for column in display.columns(rows)}
    assert shown["accuracy"] == "0.4 mse"
    assert "mse: an error, lower is better" in markdown.markdown(rows)
    page = html.page(run)
    assert "Error against latency" in page
    assert "Down and to the left is better" in page
    assert "mse, lower is better" in page
    assert "Accuracy against latency" not in page


# --- direction in pick -----------------------------------------------------------------------


def rows_with(column: str, *values: float) -> list[dict[str, object]]:
    names = ("a", "b", "c", "d")
    known = {"model": "kws", "target": "xnnpack", "device": "pi", "threads": 1, "status": "ok"}
    return [
        {**dict.fromkeys(table.COLUMNS), **known, "flags": [], "recipe": name, column: value}
        for name, value in zip(names, values, strict=False)
    ]


def test_the_most_of_a_column_that_is_better_higher() -> None:
    found = choose(rows_with("throughput_per_s", 100, 400, 390), {}, maximize="throughput_per_s")
    assert found.winner is not None
    assert found.winner["recipe"] == "b"
    assert found.reason.startswith(
        "b has the most throughput_per_s, 400, of the 3 rows; next is c, 2.5% below the best"
    )
    assert found.rows[0].why == "75.0% below the best"


def test_the_wrong_direction_is_refused_unless_anyway() -> None:
    rows = rows_with("accuracy", 0.9, 0.8)
    with pytest.raises(ConfigError, match="--minimize accuracy: higher accuracy is better"):
        choose(rows, {}, minimize="accuracy")
    found = choose(rows, {}, minimize="accuracy", anyway=True)
    assert found.winner is rows[1]
    with pytest.raises(ConfigError, match="--maximize size_bytes: lower size_bytes is better"):
        choose(rows, {}, maximize="size_bytes")
    # Neither more nor fewer launches are better: both may be asked for.
    launches = rows_with("launches", 3, 5)
    assert choose(launches, {}, maximize="launches").winner is launches[1]
    assert choose(launches, {}, minimize="launches").winner is launches[0]


@pytest.mark.parametrize("asked", [{}, {"minimize": "size_bytes", "maximize": "accuracy"}])
def test_one_of_the_two_is_asked(asked: dict[str, str]) -> None:
    with pytest.raises(ConfigError, match="one of --minimize COLUMN and --maximize COLUMN"):
        choose(rows_with("size_bytes", 1), {}, **asked)  # type: ignore[arg-type]


def test_noise_counts_for_the_most_as_for_the_least() -> None:
    rows = rows_with("latency_p50_ms", 1.0, 2.0)
    launches = {
        ("kws", name, "xnnpack", "pi", 1): values
        for name, values in (("a", [1.0, 1.1, 0.9]), ("b", [1.9, 2.0, 2.1]))
    }
    most = choose(rows, launches, maximize="latency_p50_ms", anyway=True)
    assert most.winner is rows[1]
    assert most.probability is not None
    assert most.probability > 0.9


def test_accuracies_of_unlike_metrics_are_not_compared(tmp_path: Path) -> None:
    cells = [
        synthetic.cell("int8", model=model, variant=synthetic.variant("int8", model, metric=metric))
        for model, metric in (("kws", "top1"), ("denoise", "mse"))
    ]
    with Store(tmp_path).create(synthetic.record(cells)) as writer:
        for cell in cells:
            synthetic.measure(writer, cell)
    measured = read(Store(tmp_path).open("latest"))
    with pytest.raises(ConfigError, match=r"different metrics \(mse, top1\).*--where model==NAME"):
        choose_of(measured, maximize="accuracy")
    found = choose_of(measured, maximize="accuracy", where=["model==kws"])
    assert found.winner is not None


# --- one column more -------------------------------------------------------------------------

ADDED = """
from harness import columns

# What the entry in harness/columns.py would be.
columns.ALL += (
    columns.Column(
        name="warmup_inferences",
        help="inferences before the first that counts",
        unit="",
        better="lower",
        exports={"gbench": "warmup_inferences"},
        look=columns.Look(title="warm-up", form="decimals", rank=1),
    ),
)
from harness.records.table import sources

# What the function in sources.py would be.
sources.SOURCES["warmup_inferences"] = lambda reading: max(
    (launch.warmup.inferences for launch in reading.timed if launch.warmup), default=None
)
from harness.cli import main

main()
"""


def test_a_column_is_one_entry_and_its_source(tmp_path: Path) -> None:
    synthetic.whole_run(tmp_path / "runs")
    script = tmp_path / "added.py"
    script.write_text(ADDED, encoding="utf-8")

    def harness(*words: str) -> str:
        done = subprocess.run(
            [sys.executable, str(script), *words, "--results", str(tmp_path / "runs")],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert "warm-up" in harness("show", "latest").splitlines()[0]
    assert "warm-up" in harness("show", "latest", "--format", "markdown").splitlines()[0]
    heading, first, *_ = harness("show", "latest", "--format", "csv").splitlines()
    assert heading.split(",")[-1] == "warmup_inferences"
    assert first.split(",")[-1] == "60"
    rows = json.loads(harness("show", "latest", "--format", "json"))["rows"]
    assert [row["warmup_inferences"] for row in rows] == [60, 60, None, None]
    found = json.loads(harness("pick", "latest", "--minimize", "warmup_inferences", "--json"))
    assert found["reason"].startswith("float32 has the least warmup_inferences, 60")
    held = harness("pick", "latest", "--minimize", "size_bytes", "--where", "warmup_inferences<=60")
    assert "warmup_inferences<=60" in held
    assert '"warmup_inferences": 60' in harness("export", "latest", "--format", "gbench")
    harness("report", "latest", "-o", str(tmp_path / "page.html"))
    assert '<th class="n">warm-up</th>' in (tmp_path / "page.html").read_text()
