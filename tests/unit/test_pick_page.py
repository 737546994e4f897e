"""docs/pick.md: its commands run, and pick gives its sentences."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import synthetic_runs as synthetic
from typer.testing import CliRunner

from harness.analysis import pick
from harness.cli import app
from harness.records.table import COLUMNS

PAGE = (Path(__file__).parents[2] / "docs" / "pick.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    edge-harness (.+)$", PAGE, re.MULTILINE)


def rows() -> list[dict[str, Any]]:
    """Return the rows of the page's table."""
    found = []
    for line in PAGE.splitlines():
        if re.match(r"(in|best) +digits", line):
            _, model, recipe, target, device, threads, latency, *_ = line.split()
            row = dict.fromkeys(COLUMNS) | {"model": model, "recipe": recipe, "target": target}
            row |= {"device": device, "threads": int(threads), "status": "ok", "flags": []}
            found.append(row | {"latency_p50_ms": float(latency), "accuracy": 0.9944})
    return found


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_the_page_runs(command: str, tmp_path: Path) -> None:
    synthetic.whole_run(tmp_path)
    done = CliRunner().invoke(app, [*shlex.split(command), "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 4


def test_pick_gives_the_sentence_on_the_page() -> None:
    launches = {
        pick.key_of(row): [row["latency_p50_ms"] * (1 + 0.01 * step) for step in range(5)]
        for row in rows()
    }
    # The table rounds a value that the sentence has in full.
    full = [
        row | ({"latency_p50_ms": 0.022394} if row["recipe"] == "int8" else {}) for row in rows()
    ]
    found = pick.choose(full, launches, minimize="latency_p50_ms", where=["accuracy>=0.95"])
    assert f"{found.reason}\n" in PAGE
    for one in found.rows:
        assert re.search(rf"{one.row['recipe']} .* {re.escape(one.why)}\n", PAGE)


def test_pick_gives_the_refusal_on_the_page() -> None:
    sizes = {"float32": 242_544, "int8": 80_000, "int16x8": 82_088}
    sized = [row | {"size_bytes": sizes[row["recipe"]]} for row in rows()]
    found = pick.choose(
        sized, {}, minimize="latency_p50_ms", where=["accuracy>=0.95", "size_bytes<=50000"]
    )
    assert f"    {found.reason}\n" in PAGE


def test_the_python_on_the_page_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("EDGE_HARNESS_RESULTS", str(tmp_path))
    synthetic.whole_run(tmp_path)
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    exec(compile(code, "pick.md", "exec"), {})
    assert "has the least latency_p50_ms" in capsys.readouterr().out
