"""A new board without a runtime: setup and doctor on another processor than this host's."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from conftest import ROOT

from harness import api
from harness.config import farm as farms
from harness.farm.setup import Installation

from .device import Hosted

MODEL = ROOT / "harness" / "demo" / "data" / "digits.tflite"
DOSE = {"launches": 1, "min_inferences": 20, "min_seconds": 0.05, "warmup_seconds": 0.1}
FIRST_ROW_SECONDS = 180.0


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))


@pytest.mark.lab
@pytest.mark.timeout(900)
def test_a_fresh_board_gets_its_runtime_and_a_row(
    fresh_arm64_board: Hosted, tmp_path: Path
) -> None:
    name = fresh_arm64_board.name
    farm = farms.with_device(farms.Farm(devices={}), fresh_arm64_board.entry)
    began = time.monotonic()
    faulty = {check.name: check for check in api.doctor([name], farm=farm)[name]}
    assert faulty["runtime"].fix_text == f"edge-harness setup {name}"
    made = api.setup(name, farm=farm)
    assert isinstance(made, Installation)
    assert made.done
    assert any("aarch64" in wheel for wheel in made.wheels)
    with api.bench([MODEL], on=[name], farm=farm, dose=DOSE, results=tmp_path / "runs") as going:
        list(going)
    seconds = time.monotonic() - began
    (row,) = going.rows()
    assert row["status"] == "ok", row["reason"]
    assert row["runtime"] == f"ai_edge_litert {made.version}"
    assert row["delegated_ops"] > 0
    assert seconds < FIRST_ROW_SECONDS
    well = {check.name: check for check in api.doctor([name], farm=farm)[name]}
    assert not [check for check in well.values() if check.status == "fail"]
    # The values of its files in /sys; qemu provides none.
    assert well["governor"].found.startswith("ondemand")
    (cleaned,) = api.clean([name], farm=farm)
    assert cleaned["freed_bytes"] > 50_000_000
