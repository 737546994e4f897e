"""pick over stored runs: the launches' noise, partial rows, and the command's exit codes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs as synthetic
from typer.testing import CliRunner, Result

from harness import api
from harness.analysis.pick import launches_of
from harness.cli import app
from harness.errors import ConfigError
from harness.records.store import Store
from harness.records.table.rows import read
from harness.types import Accept, Delegation, Outcome


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a run: int8 takes half the time of float32, float16 is pending."""
    folder = tmp_path_factory.mktemp("runs")
    cells = [synthetic.cell("float32"), synthetic.cell("int8")]
    with Store(folder).create(synthetic.record([*cells, synthetic.cell("float16")])) as writer:
        for cell, scale in zip(cells, (1.0, 0.5), strict=True):
            synthetic.measure(writer, cell, scale=scale)
        writer.finish()
    return folder


def command(root: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["pick", "latest", "--results", str(root), *options])


def test_the_launches_give_the_probability(root: Path) -> None:
    found = api.pick("latest", minimize="latency_p50_ms", where=["accuracy>=0.85"], results=root)
    assert found.winner is not None
    assert found.winner["recipe"] == "int8"
    assert found.probability is not None
    assert found.probability > 0.95
    assert "of the 2 rows that meet accuracy>=0.85; next is float32" in found.reason


def test_json_has_exactly_these_keys(root: Path) -> None:
    done = command(root, "--minimize", "latency_p50_ms", "--where", "threads==1", "--json")
    assert done.exit_code == 0
    document = json.loads(done.stdout)
    assert list(document) == ["winner", "reason", "probability", "rows"]
    rows = api.rows("latest", results=root)
    assert document["winner"] == rows[1]
    assert [row["qualifies"] for row in document["rows"]] == [True, True, False]
    assert document["rows"][2]["why"].startswith("pending: ")


def test_none_qualifies_is_exit_1_with_the_closest_row(root: Path) -> None:
    done = command(root, "--minimize", "size_bytes", "--where", "accuracy>=0.95")
    assert done.exit_code == 1
    assert "none qualifies of 3 rows" in done.stdout
    assert "accuracy is 0.9, 0.05 (5.3%) off accuracy>=0.95" in done.stdout
    document = json.loads(
        command(root, "--minimize", "size_bytes", "--where", "accuracy>=0.95", "--json").stdout
    )
    assert (document["winner"], document["probability"]) == (None, None)


def test_the_table_shows_which_rows_qualify_and_why(root: Path) -> None:
    lines = command(root, "--minimize", "latency_p50_ms").stdout.splitlines()
    assert any("best" in line and "int8" in line for line in lines)
    assert any(line.startswith("in ") and "times the best" in line for line in lines)
    assert "int8 has the least latency_p50_ms" in " ".join(lines)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--minimize", "latency_p50"], "did you mean 'latency_p50_ms'"),
        (["--minimize", "device"], "that column is text"),
        (["--minimize", "load_ms", "--where", "accuracy=>1"], "is not a constraint"),
        (["--minimize", "load_ms", "--min-delegated", "2"], "--min-delegated 2 is not a share"),
    ],
)
def test_an_invalid_option_is_refused(root: Path, options: list[str], why: str) -> None:
    done = command(root, *options)
    assert isinstance(done.exception, ConfigError)  # the entry point makes it exit 3
    assert why in str(done.exception)


def test_a_refusal_is_one_line_and_exit_3(root: Path) -> None:
    arguments = ["pick", "latest", "--results", str(root), "--minimize", "latency", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stdout) == (3, "")
    assert done.stderr == (
        "edge-harness: --minimize: unknown column 'latency'; did you mean 'latency_p50_ms'?\n"
    )


@pytest.mark.parametrize(
    ("column", "count"),
    [("latency_p50_ms", 3), ("load_ms", 3), ("first_ms", 3), ("peak_rss_mb", 1)],
)
def test_the_values_of_a_column_per_launch(root: Path, column: str, count: int) -> None:
    measured = read(api.open_run("latest", results=root))
    found = launches_of(measured, column)
    assert [len(values) for values in found.values()] == [count, count]
    assert launches_of(measured, "size_bytes") == {}


def test_a_column_without_values_per_launch_has_no_probability(root: Path) -> None:
    found = api.pick("latest", minimize="peak_rss_mb", results=root)
    assert found.winner is not None
    assert found.probability is None
    assert "the probability is unknown" in found.reason


def half_delegated(folder: Path, **accept: Any) -> None:
    cell = synthetic.cell(target="gpu", accept=Accept(**accept))
    half = Delegation(
        delegate="gpu",
        delegated_ops=3,
        total_ops=6,
        partitions=2,
        left=("ADD",),
        evidence="graph walk",
    )
    launch = synthetic.launch(cell, synthetic.latencies(cell, 0), delegation=half)
    with Store(folder).create(synthetic.record([cell])) as writer:
        writer.launch(launch)
        writer.outcome(Outcome(cell=cell, launches=(launch,)))
        writer.finish()


@pytest.mark.parametrize(
    ("planned", "given", "wins"),
    [(None, None, False), (0.9, None, False), (0.5, None, True), (0.9, 0.4, True), (0.5, 1, False)],
)
def test_min_delegated_lets_a_partial_row_win(
    tmp_path: Path, planned: float | None, given: float | None, wins: bool
) -> None:
    half_delegated(tmp_path, min_delegated=planned)
    found = api.pick("latest", minimize="latency_p50_ms", min_delegated=given, results=tmp_path)
    assert (found.winner is not None) is wins


def test_an_emulated_row_wins_only_with_the_option(tmp_path: Path) -> None:
    cell = synthetic.cell(flags=("emulated",))
    with Store(tmp_path).create(synthetic.record([cell])) as writer:
        synthetic.measure(writer, cell)
        writer.finish()
    assert command(tmp_path, "--minimize", "size_bytes").exit_code == 1
    assert command(tmp_path, "--minimize", "size_bytes", "--emulated").exit_code == 0
