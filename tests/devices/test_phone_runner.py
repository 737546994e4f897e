"""From a cable to rows, a verdict and layers on a phone behind a real adbd; its runner is a stand-in."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from standins.phones import WORKDIR, Phone
from standins.runner_bundles import make_bundle

from harness import assets
from harness.config import farm as farms
from harness.devices.by_shell import android
from harness.devices.by_shell.lease import ShellLease
from harness.devices.transports.adb.transport import open_adb
from harness.errors import LeaseError
from harness.measure.sessions import Session
from harness.tflite import flatbuffer
from harness.types import Dose, LaunchOrder

sys.path.insert(0, str(ROOT / "tests" / "integration"))
from edge_command import edge

MODEL = Path(assets.EMBEDDED_MODEL)
DIGEST = flatbuffer.read(MODEL).digest
ORDER = LaunchOrder(
    cell_id="c",
    kind="timed",
    block=0,
    position=0,
    variant_digest=DIGEST,
    target="xnnpack",
    threads=1,
    dose=Dose(min_seconds=0.01, warmup_seconds=0.0),
)
PLAN = f"""
[model]
name = "digits"
path = "{ROOT / "harness/demo/data/digits.tflite"}"
[run]
recipes = ["as_is", "float16"]
devices = ["this-machine", "pixel"]
[dose]
launches = 2
min_inferences = 20
min_seconds = 0.05
warmup_seconds = 0.0
[gate]
metrics = ["latency"]
max_pairs = 6
"""


@pytest.fixture(name="bench")
def _bench(pixel: Phone, tmp_path: Path) -> Iterator[Path]:
    """A folder with a plan and a farm; the phone has a bundle when the test begins."""
    (tmp_path / "farm.toml").write_text(
        f'[device.pixel]\nprofile = "pixel_6"\naddress = "{pixel.address}"\n'
        f'adb_server = "127.0.0.1:{pixel.server.port}"\n'
    )
    (tmp_path / "plan.toml").write_text(PLAN)
    bundle = make_bundle(tmp_path / "bundle", "litert")
    edge(tmp_path, "setup", "pixel", "--runtime", str(bundle), "--json", cwd=tmp_path)
    yield tmp_path
    shell(pixel, f"rm -rf {WORKDIR}")


def shell(phone: Phone, script: str) -> str:
    transport = open_adb(phone.device)
    try:
        return transport.run(["sh", "-c", script], 20).stdout.decode()
    finally:
        transport.close()


def test_one_plan_gives_rows_of_this_machine_and_of_a_phone(pixel: Phone, bench: Path) -> None:
    found = edge(bench, "run", "plan.toml", "--json", cwd=bench)
    rows = [row for row in found["rows"] if row["recipe"] == "as_is"]
    here, there = sorted(rows, key=lambda row: row["device"] == "pixel")
    assert (here["status"], there["status"]) == ("ok", "ok"), there["reason"]
    assert set(here) == set(there)
    assert there["latency_p50_ms"] > 0
    assert there["peak_rss_mb"] > 1
    assert there["delegate"] == "xnnpack"
    assert there["evidence"].startswith("model_runtime_info")
    assert "simulated" in there["flags"]
    # Nothing of a launch stays, and the lease is free for others.
    left = f"cd {WORKDIR}; ls launches incoming; cat leases/*/entry"
    launches, _, rest = shell(pixel, left).partition("\n\n")
    assert (launches, rest.split()[:2]) == ("incoming:", ["launches:", "1"])
    assert lease_of(pixel, "other").holder() is None


def test_a_gate_and_layers_work_on_a_phone(bench: Path) -> None:
    sides = ("--baseline", "as_is", "--candidate", "float16")
    found = edge(bench, "gate", "plan.toml", "--device", "pixel", *sides, "--json", code=None)
    (latency,) = (row for row in found["rows"] if row["metric"] == "latency")
    assert latency["verdict"] in {"EQUIVALENT", "IMPROVED", "REGRESSION", "INCONCLUSIVE"}
    assert latency["pairs"] >= 2
    assert found["failed"] == found["away"] == []
    one = ("--recipe", "as_is")
    edge(bench, "run", "plan.toml", "--device", "pixel", *one)
    timed = edge(bench, "layers", "latest", *one, "--launches", 2, "--at-most", 2, "--json")
    (layers,) = timed["layers"]
    assert (layers["device"], layers["source"]) == ("pixel", "truncated graphs")
    assert [part["operators"] for part in layers["operators"]] == ["0-3", "4-8"]


def test_layers_take_the_times_of_the_vendors_program(pixel: Phone, bench: Path) -> None:
    bundle = make_bundle(bench / "classic", "tflite")
    edge(bench, "setup", "pixel", "--runtime", str(bundle))
    edge(bench, "run", "plan.toml", "--device", "pixel", "--recipe", "as_is")
    (layers,) = edge(bench, "layers", "latest", "--launches", 2, "--json")["layers"]
    assert (layers["source"], layers["estimate"]) == ("benchmark_model", False)
    assert len(layers["operators"]) == 9
    assert shell(pixel, f"ls {WORKDIR}/launches") == ""
    # Each sample's watchdog has ended with it.
    assert "sleep" not in shell(pixel, "ps -A -o ARGS | grep '^sleep 1'")


def test_two_hosts_do_not_measure_on_one_phone(pixel: Phone, bench: Path) -> None:
    other = lease_of(pixel, "other")
    other.hold()
    try:
        refused = edge(bench, "run", "plan.toml", "--device", "pixel", "--no-wait", code=None)
        assert "other@host (process 1) has this device" in refused
    finally:
        other.release()
    assert edge(bench, "run", "plan.toml", "--device", "pixel", "--json")["rows"]


def test_a_phone_is_one_device_for_add_and_for_runs(pixel: Phone, bench: Path) -> None:
    found = edge(bench, "run", "plan.toml", "--device", "pixel", "--recipe", "as_is", "--json")
    (record,) = (bench / "results").glob(f"{found['run']}/run.json")
    stored = json.loads(record.read_text())["devices"]["pixel"]["facts"]
    transport = open_adb(pixel.device)
    try:
        asked = android.survey(transport, "pixel", WORKDIR).facts()
    finally:
        transport.close()
    assert stored["identity"] == asked.identity
    assert (stored["board"], stored["chip"]) == (asked.board, asked.chip)


def test_a_launch_is_not_started_once_the_lease_is_lost(pixel: Phone, bench: Path) -> None:
    farm = farms.load(bench / "farm.toml")
    session = Session(farm.devices["pixel"])
    try:
        session.bring({DIGEST: MODEL})
        shell(pixel, f"rm -rf {WORKDIR}/leases")
        lease_of(pixel, "other").hold()
        with pytest.raises(LeaseError, match="other@host .* took it meanwhile"):
            session.dialect.launch(ORDER)
    finally:
        session.close()


def lease_of(phone: Phone, name: str) -> ShellLease:
    transport = open_adb(phone.device)
    return ShellLease(
        transport, "pixel", f"{WORKDIR}/leases", token=name * 4, name=f"{name}@host (process 1)"
    )
