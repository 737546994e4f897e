"""docs/exports.md: its commands run in this order, and it names every format and measure."""

from __future__ import annotations

import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import synthetic_runs as synthetic

from harness import columns
from harness.present.report.exports import FORMATS, junit
from harness.records.store import Store

PAGE = (Path(__file__).parents[2] / "docs" / "exports.md").read_text(encoding="utf-8")
RUNS = ("20261101-080000-kws-aaaaaa", "20261102-080000-kws-bbbbbb")


def test_the_commands_on_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for run in RUNS:
        cell = synthetic.cell()
        record = replace(synthetic.record([cell]), id=run)
        with Store(tmp_path / "runs").create(record) as writer:
            synthetic.measure(writer, cell)
            writer.finish()
    monkeypatch.setenv("EDGE_HARNESS_RESULTS", str(tmp_path / "runs"))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    lines = re.findall(r"^    ((?:edge-harness|pyperf) .+)$", PAGE, re.MULTILINE)
    assert len(lines) == 7
    script = "\n".join(
        line.replace("edge-harness", f"{sys.executable} -m harness.cli").replace(
            "pyperf compare_to", f"{sys.executable} -m pyperf compare_to"
        )
        for line in lines
    )
    done = subprocess.run(
        ["bash", "-euc", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    made = {"report.xml", "benchmark.json", "before.json", "after.json", "summary.md"}
    assert made <= {path.name for path in tmp_path.iterdir()}
    assert (tmp_path / "summary.md").read_text(encoding="utf-8").startswith("### edge-harness")


def test_every_format_has_its_row_and_its_words() -> None:
    rows = re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    words = re.findall(r"^- \*\*(\w+)", PAGE, re.MULTILINE)
    assert set(rows) == set(words) == set(FORMATS)


def test_every_measure_and_every_fault_of_a_model_is_named() -> None:
    for slug, _ in columns.exported("bmf"):
        assert f"`{slug}`" in PAGE
    for kind in (*junit.MODEL_FAULTS, *junit.NO_FAULTS):
        assert f"`{kind}`" in PAGE


def test_the_python_on_the_page_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synthetic.whole_run(tmp_path / "runs")
    monkeypatch.setenv("EDGE_HARNESS_RESULTS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(code, "exports.md", "exec"), {})
    assert (tmp_path / "bmf.json").stat().st_size > 0
