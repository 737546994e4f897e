"""The README's table of techniques is what the stored rows say, and names every technique."""

from __future__ import annotations

import csv
import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from harness.optimize import catalog

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def table() -> ModuleType:
    path = ROOT / "benchmarks" / "techniques_table.py"
    spec = importlib.util.spec_from_file_location("techniques_table", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_stored_rows(table: ModuleType) -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")

    assert f"{table.BEGIN}\n{table.published()}\n{table.END}" in readme


def test_every_step_was_measured(table: ModuleType) -> None:
    with table.PUBLISHED.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    assert all(row["status"] in {"ok", "partial"} for row in rows)
    used = {word.partition("(")[0].strip() for row in rows for word in row["recipe"].split(">")}
    # Vendors' compilers are on no machine of ours, and change no technique.
    assert used == set(catalog.known_steps()) - {"edgetpu", "aot"}
