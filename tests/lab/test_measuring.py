"""Measure on devices of the lab with the real edge-harness, from one plan."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from shared_data import shared_file

from harness import api
from harness.config import farm as farms
from harness.records.table import Row
from harness.types import Outcome

from .device import Hosted, LabDevice
from .machine import Machine

DIGITS = ROOT / "harness" / "demo" / "data"
DOSE = (
    "[dose]\nlaunches = 1\nmin_inferences = 20\nmin_seconds = 0.05\n"
    "warmup_seconds = 0.1\nwarmup_max_seconds = 5\n"
)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))


def farm_of(devices: Sequence[LabDevice]) -> farms.Farm:
    farm = farms.Farm(devices={})
    for device in devices:
        farm = farms.with_device(farm, device.entry)
    return farm


def digits_plan(folder: Path, devices: Sequence[LabDevice]) -> Path:
    plan = folder / "plan.toml"
    data = "".join(
        f"{kind} = {json.dumps(str(DIGITS / f'digits_{kind}.npz'))}\n"
        for kind in ("calibration", "evaluation")
    )
    plan.write_text(
        f'[model]\nname = "digits"\npath = {json.dumps(str(DIGITS / "digits.tflite"))}\n'
        f"[data]\n{data}[run]\nrecipes = ['int8']\n"
        f"devices = {json.dumps([device.name for device in devices])}\n{DOSE}"
    )
    return plan


def keyword_plan(folder: Path, devices: Sequence[LabDevice]) -> Path:
    kws = shared_file("kws")
    with np.load(kws / "features.npz") as stored:
        scale, zero = np.float32(stored["scale"]), np.float32(stored["zero_point"])
        x = (stored["x_int8"][:100].astype(np.float32) - zero) * scale
        np.savez(folder / "evaluation.npz", x=x, y=stored["y"][:100].astype(np.int64))
    plan = folder / "plan.toml"
    plan.write_text(
        f'[model]\nname = "kws"\npath = {json.dumps(str(kws / "kws_ref_model.tflite"))}\n'
        "[data]\nevaluation = 'evaluation.npz'\n[run]\nrecipes = ['as_is']\n"
        f"devices = {json.dumps([device.name for device in devices])}\n{DOSE}"
    )
    return plan


def measured(plan: Path, devices: Sequence[LabDevice]) -> tuple[dict[str, Outcome], dict[str, Row]]:
    """Run a plan of one recipe; outcomes and rows by device."""
    with api.run(plan, farm=farm_of(devices), results=plan.parent / "runs") as going:
        outcomes = {outcome.cell.device: outcome for outcome in going}
    rows = {str(row["device"]): row for row in going.rows()}
    assert list(rows) == [device.name for device in devices]
    return outcomes, rows


def agrees(outcome: Outcome) -> bool:
    """Whether the device computed the same outputs as this host."""
    agreement = outcome.agreement
    return agreement is not None and agreement.samples == 48 and (agreement.top1 or 0) > 0.95


@pytest.mark.slow
def test_one_plan_measures_hosts_and_an_arm_board(
    tmp_path: Path, x86_hosts: list[Hosted], arm64_board: Hosted
) -> None:
    outcomes, rows = measured(
        digits_plan(tmp_path, [*x86_hosts, arm64_board]), [*x86_hosts, arm64_board]
    )
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(rows, "ok")
    assert all(agrees(outcome) for outcome in outcomes.values())
    board = rows[arm64_board.name]
    # Only an emulated board's times are invalid, and only there XNNPACK could be silently absent.
    assert {name for name, row in rows.items() if "emulated" in row["flags"]} == {arm64_board.name}
    assert (board["delegate"], board["delegated_ops"], board["total_ops"]) == ("xnnpack", 8, 9)
    assert "XNNPACK" in board["evidence"]
    assert "no_xnnpack" not in board["flags"]
    assert board["temperature_max_c"] == 48.312


@pytest.mark.lab
@pytest.mark.timeout(900)
def test_the_keyword_model_runs_on_every_kind_of_device_from_one_plan(
    tmp_path: Path,
    x86_hosts: list[Hosted],
    arm64_board: Hosted,
    armv7_board: Hosted,
    vm: Machine,
) -> None:
    devices = [x86_hosts[0], arm64_board, armv7_board, vm]
    outcomes, rows = measured(keyword_plan(tmp_path, devices), devices)
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(rows, "ok")
    assert all(agrees(outcome) for outcome in outcomes.values())
    emulated = {name for name, row in rows.items() if "emulated" in row["flags"]}
    assert emulated == {"pi4", "pi3", "vm"}
    assert {rows[name]["delegated_ops"] for name in ("x86-1", "pi4", "vm")} == {11}
    # The armv7l wheel of tflite-runtime 2.14 is built without XNNPACK, and the row shows it.
    assert rows["pi3"]["runtime"] == "tflite_runtime 2.14.0"
    assert rows["pi3"]["delegated_ops"] == 0
    assert "no_xnnpack" in rows["pi3"]["flags"]
