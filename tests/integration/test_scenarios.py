"""A plan's scenario on its way: to the orders, to the rows, to a gate's rules."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness import api
from harness.analysis.gate.contest import Rules
from harness.config import plans
from harness.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
DIGITS = ROOT / "harness" / "demo" / "data" / "digits.tflite"
SHORT = "launches = 2\nmin_inferences = 40\nmin_seconds = 0.05\nwarmup_seconds = 0.05\n"


def plan(folder: Path, dose: str, gate: str = "") -> Path:
    path = folder / "plan.toml"
    path.write_text(
        f'[model]\nname = "digits"\npath = "{DIGITS}"\n[run]\nrecipes = ["as_is"]\n'
        f"[dose]\n{SHORT}{dose}\n[gate]\n{gate}\n"
    )
    return path


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("dose", "column"),
    [
        ('scenario = "stream"\nperiod_ms = 5', "missed_deadlines"),
        ('scenario = "offline"', "throughput_per_s"),
        ('scenario = "sustained"\nsustained_minutes = 0.02', "sustained_ratio"),
    ],
)
def test_a_run_of_each_scenario(tmp_path: Path, dose: str, column: str) -> None:
    with api.run(plan(tmp_path, dose), results=tmp_path / "runs") as going:
        outcomes = list(going)
    assert [outcome.failure for outcome in outcomes] == [None]
    (row,) = going.rows()
    assert row["status"] == "ok"
    assert f'"{row["scenario"]}"' in dose
    told = {"missed_deadlines", "throughput_per_s", "sustained_ratio"}
    assert {name for name in told if row[name] is not None} == {column}
    assert row["latency_p50_ms"] > 0
    if column == "throughput_per_s":
        assert row[column] == pytest.approx(1000 / row["latency_p50_ms"], rel=0.5)
    for form in ("bmf", "gbench", "github", "pyperf"):
        text = api.export("latest", form, results=tmp_path / "runs")
        assert f"threads:1/{row['scenario']}" in text


def test_a_gate_has_time_for_its_sustained_launches(tmp_path: Path) -> None:
    dose = 'scenario = "sustained"\nsustained_minutes = 0.5'
    with pytest.raises(ConfigError, match="10 that confirm a regression take at least 960 s"):
        Rules.of(plans.load(plan(tmp_path, dose)))
    assert Rules.of(plans.load(plan(tmp_path, dose, "budget_seconds = 960"))).budget_seconds == 960
