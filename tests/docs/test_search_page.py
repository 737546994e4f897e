"""docs/search.md: its plan loads and is held against the steps, its block runs, its tables are whole."""

import dataclasses
import re
import shutil
from pathlib import Path

import pytest

from harness import api
from harness.analysis.search import Space
from harness.analysis.search.columns import RULES
from harness.config import plans, searches, toml_reading
from harness.demo import DATA
from harness.types import Plan

PAGE = (Path(__file__).parents[2] / "docs" / "search.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    (text,) = re.findall(rf"^```{kind}\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    return str(text)


def table(head: str) -> list[list[str]]:
    rows = PAGE.partition(f"| {head} |")[2].partition("\n\n")[0].splitlines()[2:]
    return [[cell.strip(" `") for cell in row.strip("|").split("|")] for row in rows]


def example() -> Plan:
    return plans.from_mapping(toml_reading.parse(block("toml"), "plan.toml"), DATA, "plan.toml")


def test_the_plan_on_the_page_can_be_searched() -> None:
    search = searches.of(example())
    assert Space.of(search).size() is None
    shown = set(re.findall(r"^(\w+) = ", block("toml").partition("[search]")[2], re.MULTILINE))
    assert shown == {field.name for field in dataclasses.fields(searches.Table)} - {"model"}


def test_the_tables_name_every_objective_and_constraint() -> None:
    words = {"minimize": "smaller", "maximize": "larger"}
    assert table("Objective") == [
        [name, words[better], "on the host" if name in searches.HOST else "on the device"]
        for name, better in searches.OBJECTIVES.items()
    ]
    fields = [field.name for field in dataclasses.fields(searches.Constraints)]
    assert [row[0] for row in table("Constraint")] == fields == list(RULES)


def test_the_numbers_of_the_example_are_those_of_its_limits() -> None:
    shown = block("text")
    limits = searches.of(example()).constraints
    assert limits.max_size_kb is not None
    for line in re.findall(r"^\[\d/8\] .*", shown, re.MULTILINE):
        (size,) = re.findall(r"size_bytes (\d+)", line)
        assert (": pruned: " in line) == (int(size) > limits.max_size_kb * 1e3)


def test_the_block_on_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in DATA.glob("digits*.*"):
        shutil.copy(file, tmp_path)
    # Without a device's columns and with few trials: the builds alone.
    text = block("toml").replace('"latency_p50_ms", ', "").replace(", max_latency_ms = 5.0", "")
    (tmp_path / "plan.toml").write_text(text.replace("trials = 8", "trials = 2"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGE_HARNESS_RESULTS", str(tmp_path / "results"))
    exec(compile(block("python"), "docs/search.md", "exec"), {})
    out = capsys.readouterr().out
    assert "int8 ok" in out
    assert "float16 pruned" in out
    assert "int8 80000 01-int8.toml" in out
    assert "1 on the front of 2 recipes; 1 pruned: too far off on the host already 0" in out
    assert api.runs(results=tmp_path / "results") == []
