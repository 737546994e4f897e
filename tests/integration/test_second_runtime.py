"""A board with an old runtime: what answers garbage there is caught, not measured.

tflite-runtime 2.14 loads a file whose weights are quantised per channel for dynamic execution, runs
it and says nothing; its answers are wrong. The keyword model shows it: 91 % here, 9 % there.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from shared_data import shared_file

from harness import api
from harness.config import farm as farms
from harness.config import plans
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.types import Device


def keyword_plan(folder: Path) -> Path:
    kws = shared_file("kws")
    with np.load(kws / "features.npz") as stored:
        x = (stored["x_int8"].astype(np.float32) - np.float32(stored["zero_point"])) * np.float32(
            stored["scale"]
        )
        y = stored["y"].astype(np.int64)
    np.savez(folder / "calibration.npz", x=x[:100])
    np.savez(folder / "evaluation.npz", x=x[200:], y=y[200:])
    plan = folder / "plan.toml"
    plan.write_text(
        f'[model]\nname = "kws"\npath = {json.dumps(str(kws / "saved_model"))}\n'
        '[data]\ncalibration = "calibration.npz"\nevaluation = "evaluation.npz"\n'
        '[run]\nrecipes = ["float32", "dynamic", "int8"]\ndevices = ["here", "old-board"]\n'
        "[dose]\nlaunches = 1\nwarmup_seconds = 0.05\nmin_seconds = 0.02\n",
        encoding="utf-8",
    )
    return plan


@pytest.mark.tensorflow
def test_a_variant_that_answers_garbage_on_an_old_runtime_is_not_measured(
    tmp_path: Path, second_python: str
) -> None:
    plan = plans.load(keyword_plan(tmp_path))
    here = farms.this_machine()
    farm = farms.Farm(devices={})
    for name, python in (("here", AgentOptions.of(here).python), ("old-board", second_python)):
        device = Device(
            name=name,
            profile="linux_x86_64",
            address="local:",
            dialect_options={"python": python, "workdir": str(tmp_path / name)},
        )
        farm = farms.with_device(farm, device)
    with api.run(plan, farm=farm, results=tmp_path / "results") as going:
        outcomes = list(going)
    assert len(outcomes) == 6
    rows = {(row["device"], row["recipe"]): row for row in going.rows()}
    assert {rows["here", recipe]["status"] for recipe in ("float32", "dynamic", "int8")} == {"ok"}
    assert rows["old-board", "float32"]["status"] == "ok"
    assert rows["old-board", "int8"]["status"] == "ok"
    assert rows["old-board", "float32"]["runtime"].startswith("tflite_runtime 2.14")
    garbage = rows["old-board", "dynamic"]
    assert garbage["status"] == "inaccurate"
    assert "same class" in garbage["reason"]
    assert garbage["latency_p50_ms"] is None
    assert garbage["launches"] in (None, 0)
