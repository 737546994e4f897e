"""One plan on this machine, on an ARM board over SSH, and on an aarch64 phone behind a real adbd."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import missing
from shared_data import shared_file
from standins.phones import Server
from standins.runner_bundles import make_bundle

from harness import api
from harness.analysis.layers.subjects import RowFilter
from harness.config import farm as farms

from . import arm, arm_phone
from .arm_phone import ArmPhone
from .device import Hosted

PLAN = """
[model]
name = "kws"
path = "{model}"
[run]
recipes = ["as_is"]
devices = ["this-machine", "{board}", "{phone}"]
[dose]
launches = 3
min_inferences = 10
min_seconds = 0.05
warmup_seconds = 0.0
[gate]
metrics = ["latency"]
max_pairs = 6
"""


@pytest.fixture(name="phone")
def _phone(tmp_path: Path, adb_server: Server) -> Iterator[ArmPhone]:
    if why := arm_phone.missing():
        missing(why)
    with arm_phone.arm_phone(tmp_path / "arm phone", adb_server) as made:
        yield made


@pytest.mark.lab
@pytest.mark.timeout(900)
def test_one_table_has_this_machine_a_board_and_a_phone(
    arm64_board: Hosted, phone: ArmPhone, tmp_path: Path
) -> None:
    farm = farms.with_device(farms.Farm(devices={}), farms.this_machine())
    farm = farms.with_device(farm, arm64_board.entry)
    farm = farms.with_device(farm, phone.device)
    bundle = make_bundle(tmp_path / "runner", "litert", python=arm.PYTHON, machine="aarch64")
    made = api.setup(phone.device.name, runtime=bundle, farm=farm)
    assert made.done
    plan = tmp_path / "plan.toml"
    model = shared_file("kws/kws_ref_model.tflite")
    plan.write_text(PLAN.format(model=model, board=arm64_board.name, phone=phone.device.name))
    results = tmp_path / "results"
    with api.run(plan, farm=farm, results=results) as going:
        list(going)
    rows = {row["device"]: row for row in going.rows()}
    assert {name: row["status"] for name, row in rows.items()} == dict.fromkeys(rows, "ok")
    here, board, there = (
        rows[name] for name in ("this-machine", arm64_board.name, phone.device.name)
    )
    assert set(here.plain()) == set(board.plain()) == set(there.plain())
    assert all(row["latency_p50_ms"] > 0 for row in rows.values())
    assert there["runtime"] == f"litert {made.version}"
    assert {"simulated"} <= set(there["flags"])
    assert api.devices([phone.device.name], farm=farm)[0]["status"] == "ready"

    found = api.gate(
        plan,
        baseline=str(model),
        candidate=str(model),
        farm=farm,
        devices=[phone.device.name],
        measure_identical=True,
        results=results,
    )
    assert not found.plain()["failed"]
    assert found.exit_code in {0, 2}
    layers = api.layers(
        going.id,
        only=RowFilter(devices=(phone.device.name,)),
        farm=farm,
        launches=2,
        at_most=2,
        results=results,
    )
    assert [one.plain()["device"] for one in layers.layers] == [phone.device.name]
