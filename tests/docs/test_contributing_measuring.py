"""CONTRIBUTING.md's meter and engine, run as they stand there, through the real run and the real gate."""

from pathlib import Path
from typing import Any

import pytest
from test_contributing import install, site

from harness import api
from harness.config import farm
from harness.demo import DATA

__all__ = ["site"]
"""A fixture."""

PLAN = """
[model]
name = "digits"
path = "{model}"

[run]
recipes = ["as_is"]
devices = ["bench-one"]
{conditions}

[dose]
launches = 3
min_inferences = 20
min_seconds = 0.01
warmup_seconds = 0.01
memory_launches = 0

[gate]
metrics = ["latency"]
max_pairs = 6
"""

FARM = """
[device.bench-one]
profile = "linux_x86_64"
address = "local:"
workdir = "{workdir}"
{meter}
"""


def written(folder: Path, *, conditions: str = "", meter: str = "") -> tuple[Path, farm.Farm]:
    plan, farm_file = folder / "plan.toml", folder / "farm.toml"
    plan.write_text(PLAN.format(model=DATA / "digits.tflite", conditions=conditions))
    farm_file.write_text(FARM.format(workdir=folder / "device", meter=meter))
    return plan, farm.load(farm_file, folder)


@pytest.fixture
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_meter(site: Path, tmp_path: Path, own_cache: Path) -> None:
    install(site, "A meter")
    sensor = tmp_path / "power_now"
    sensor.write_text("2500000\n")
    meter = f'meter = "sensor_file"\nmeter_options = {{ path = "{sensor}" }}'
    plan, known = written(tmp_path, meter=meter)
    with api.run(plan, farm=known, results=tmp_path / "runs") as going:
        (outcome,) = going
    assert outcome.failure is None
    (row,) = going.rows()
    assert row["status"] == "ok"
    stored = api.open_run(going.id, results=tmp_path / "runs")
    found = stored.query("SELECT DISTINCT value FROM samples WHERE series = 'power_mw'")
    assert [value for (value,) in found] == [2500.0]
    result = api.gate(
        plan,
        baseline=str(DATA / "digits.tflite"),
        candidate=str(DATA / "digits.tflite"),
        farm=known,
        measure_identical=True,
        results=tmp_path / "runs",
    )
    assert [one.judged.verdict for one in result.shown if one.is_judged]


def test_an_engine(
    site: Path, tmp_path: Path, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(site, "An engine")
    monkeypatch.setenv("PYTHONPATH", str(site), prepend=":")
    plan, known = written(tmp_path)
    rows: dict[str, Any] = {}
    for engine in ("threads", "process"):
        with api.run(plan, farm=known, results=tmp_path / engine, engine=engine) as going:
            (outcome,) = going
        assert outcome.failure is None, outcome.failure
        (rows[engine],) = going.rows()
    measured, again = (
        {name for name, value in rows[engine].items() if value is not None} for engine in rows
    )
    # A slow moment may leave too few inferences for a p99.
    assert measured - {"latency_p99_ms"} == again - {"latency_p99_ms"}
    assert rows["process"]["launches"] == 3
