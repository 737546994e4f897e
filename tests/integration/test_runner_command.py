"""From a bundle to a row with the vendors' benchmark_model, played by the stand-in, on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "standins"))
from runner_bundles import make_bundle
from shared_data import real_file

from harness import api, assets
from harness.config import farm as farms
from harness.errors import (
    AgentError,
    AgentSilent,
    ConfigError,
    Crashed,
    HarnessError,
    ModelRejected,
    OutOfMemory,
    RuntimeMissing,
    TransferFailed,
    Unsupported,
)
from harness.farm import bundles
from harness.measure.sessions import Session
from harness.optimize import reference
from harness.tflite import flatbuffer
from harness.types import Device, Dose, LaunchOrder

MODEL = Path(assets.EMBEDDED_MODEL)
DIGEST = flatbuffer.read(MODEL).digest
DOSE = {"launches": 2, "min_seconds": 0.01, "warmup_seconds": 0.01, "memory_launches": 1}


def device(tmp_path: Path) -> Device:
    return Device(
        name="phone",
        profile="linux_x86_64",
        address="local:",
        dialect="benchmark_model",
        dialect_options={"workdir": str(tmp_path / "device"), "sampler_seconds": 0.05},
    )


def order(**changes: object) -> LaunchOrder:
    base = LaunchOrder(
        cell_id="c",
        kind="timed",
        block=0,
        position=0,
        variant_digest=DIGEST,
        target="xnnpack",
        threads=1,
        dose=Dose(min_seconds=0.01, warmup_seconds=0.01),
        timeout_seconds=30,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def install(tmp_path: Path, kind: str = "tflite", fault: str = "") -> None:
    folder = make_bundle(tmp_path / f"{kind}-{fault}", kind, fault)
    session = Session(device(tmp_path))
    try:
        bundles.install(session, str(folder), dry_run=False, on_progress=lambda _: None)
    finally:
        session.close()


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    install(tmp_path)
    found = Session(device(tmp_path))
    found.bring({DIGEST: MODEL})
    yield found
    found.close()


def leftovers(tmp_path: Path) -> list[str]:
    folder = tmp_path / "device" / "launches"
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


def test_a_plan_becomes_rows_with_summaries_and_placement(tmp_path: Path) -> None:
    farm = farms.Farm(devices={"phone": device(tmp_path)})
    with api.bench([MODEL], on=["phone"], farm=farm, dose=DOSE, results=tmp_path / "r") as going:
        list(going)
    (row,) = going.rows()
    assert row["status"] == "no_runtime"
    assert "edge-harness setup phone --runtime FOLDER" in row["reason"]

    made = api.setup("phone", runtime=str(make_bundle(tmp_path / "bundle", "litert")), farm=farm)
    assert made.done
    with api.bench([MODEL], on=["phone"], farm=farm, dose=DOSE, results=tmp_path / "r") as going:
        list(going)
    (row,) = going.rows()
    assert row["status"] == "ok", row["reason"]
    assert row["runtime"] == f"litert {made.version}"
    assert (row["delegate"], row["delegated_ops"], row["total_ops"]) == ("xnnpack", 9, 9)
    assert row["evidence"].startswith("model_runtime_info")
    assert row["latency_p50_ms"] > 0
    assert row["load_ms"] > 0
    assert row["first_ms"] > 0
    assert row["peak_rss_mb"] > 10
    assert (row["latency_p90_ms"], row["latency_p99_ms"]) == (None, None), "none is invented"
    assert {"simulated", "summary_median", "outputs_unchecked"} <= set(row["flags"])
    assert leftovers(tmp_path) == []

    again = api.setup("phone", runtime=str(tmp_path / "bundle"), farm=farm)
    assert (again.sent_bytes, again.digest) == (0, made.digest)
    assert api.devices(["phone"], farm=farm)[0]["status"] == "ready"
    assert api.clean(["phone"], farm=farm)[0]["freed_bytes"] > 0
    assert not (tmp_path / "device" / "bundles").exists()


def test_setup_without_a_folder_names_the_command(tmp_path: Path) -> None:
    farm = farms.Farm(devices={"phone": device(tmp_path)})
    with pytest.raises(ConfigError, match="setup phone --runtime FOLDER"):
        api.setup("phone", farm=farm)
    with pytest.raises(ConfigError, match="no such folder"):
        api.setup("phone", runtime=str(tmp_path / "absent"), farm=farm)
    dry = api.setup("phone", runtime=str(make_bundle(tmp_path / "b")), farm=farm, dry_run=True)
    assert not dry.done
    assert not (tmp_path / "device" / "bundles").exists()


def test_outputs_are_those_of_the_host(session: Session) -> None:
    assert session.dialect.can.infers
    chance = np.random.default_rng(0)
    (tensor,) = flatbuffer.read(MODEL).inputs
    shape = (3, *(abs(size) for size in tensor.shape[1:]))
    inputs = {tensor.name: chance.uniform(-1, 1, shape).astype(tensor.dtype)}
    found = session.dialect.infer(order(kind="accuracy"), inputs)
    expected = reference.host_outputs(MODEL, inputs)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5)
    with pytest.raises(AgentError, match="1 to 64 samples"):
        session.dialect.infer(order(kind="accuracy"), {tensor.name: inputs[tensor.name][:0]})


def test_cold_and_warm_caches_are_kept_apart(session: Session, tmp_path: Path) -> None:
    for cache in ("cold", "warm", "warm", "cold"):
        session.dialect.launch(order(cache=cache))
    folders = {
        path.name.partition("-")[0]: path for path in (tmp_path / "device" / "caches").iterdir()
    }
    # The stand-in writes a byte per launch: the filling one and two warm ones, and one cold one.
    assert (folders["warm"] / "xnnpack").read_bytes() == b"xxx"
    assert (folders["cold"] / "xnnpack").read_bytes() == b"x"


def test_sensors_and_the_cost_of_reading_them_are_in_the_record(session: Session) -> None:
    launch = session.dialect.launch(order(dose=Dose(min_seconds=0.3, warmup_seconds=0.01)))
    series = {one.series: one for one in launch.samples}
    assert len(series["rss"]) > 1
    assert len(series["sampler_cpu_ns"]) == 1
    assert {"reported_min", "reported_p5", "latency"} <= set(series)
    assert launch.before.load_1m is not None


def test_a_placed_launch_runs_on_the_processors_of_the_order(session: Session) -> None:
    assert session.dialect.can.places
    assert session.dialect.launch(order(processors=session.facts.processors[:1])).inferences > 0


@pytest.mark.parametrize(
    ("fault", "kind", "text"),
    [
        ("unconsumed", ModelRejected, "--allow_new=1"),
        ("unknown_format", AgentError, "count=.* mean="),
        ("killed", OutOfMemory, "signal 9"),
        ("crash", Crashed, "SIGABRT"),
        ("failed_invoke", ModelRejected, "exit code 1"),
        ("no_space", TransferFailed, "storage is full"),
        ("library", RuntimeMissing, "libx.so.* `edge-harness setup phone --runtime FOLDER`"),
    ],
)
def test_each_fault_of_the_program_is_named(
    tmp_path: Path, fault: str, kind: type[HarnessError], text: str
) -> None:
    install(tmp_path, fault=fault)
    session = Session(device(tmp_path))
    try:
        session.bring({DIGEST: MODEL})
        with pytest.raises(kind, match=text):
            session.dialect.launch(order())
    finally:
        session.close()
    assert leftovers(tmp_path) == []


def test_a_truncated_log_without_a_result_and_a_hanging_program(tmp_path: Path) -> None:
    install(tmp_path, fault="truncated")
    session = Session(device(tmp_path))
    session.bring({DIGEST: MODEL})
    with pytest.raises(AgentError, match="ends before the results"):
        session.dialect.launch(order())
    session.close()
    install(tmp_path, fault="hang")
    session = Session(device(tmp_path))
    with pytest.raises(AgentSilent, match="passed its deadline"):
        session.dialect.launch(order(timeout_seconds=2))
    session.close()
    assert leftovers(tmp_path) == []


def test_a_model_that_the_delegate_refuses_has_the_cause(session: Session) -> None:
    with pytest.raises(ModelRejected, match="Failed to apply GPU delegate"):
        session.dialect.launch(order(target="gpu"))


def test_litert_program_has_no_outputs_and_its_own_flags(tmp_path: Path) -> None:
    install(tmp_path, "litert")
    session = Session(device(tmp_path))
    try:
        session.bring({DIGEST: MODEL})
        assert not session.dialect.can.infers
        launch = session.dialect.launch(order())
        assert launch.runtime.startswith("litert standin-1+")
        with pytest.raises(Unsupported, match="json_lines"):
            session.dialect.infer(order(kind="accuracy"), {})
    finally:
        session.close()


def test_a_bundle_that_was_changed_on_the_device_is_not_used(
    session: Session, tmp_path: Path
) -> None:
    (program,) = (tmp_path / "device" / "bundles").glob("*/benchmark_model")
    program.chmod(0o700)
    program.write_bytes(program.read_bytes() + b"\n# changed\n")
    fresh = Session(device(tmp_path))
    with pytest.raises(RuntimeMissing, match="is changed on the device"):
        fresh.dialect.launch(order())
    fresh.close()


def test_a_file_that_only_has_the_right_name_is_sent_again(
    session: Session, tmp_path: Path
) -> None:
    blob = tmp_path / "device" / "blobs" / DIGEST
    blob.write_bytes(b"other")
    assert [push.digest for push in session.dialect.deploy({DIGEST: MODEL})] == [DIGEST]
    assert blob.read_bytes() == MODEL.read_bytes()


def test_the_same_machine_has_the_same_identity_for_both_dialects(session: Session) -> None:
    agent = Session(farms.this_machine())
    try:
        assert agent.facts.identity == session.facts.identity
    finally:
        agent.close()


def test_a_file_for_another_chips_npu_is_refused_before_it_runs(
    session: Session, tmp_path: Path
) -> None:
    path = real_file("npu/simple_model_qualcomm_sm8650_precompiled.tflite")
    digest = flatbuffer.read(path).digest
    session.bring({digest: path})
    survey = session.dialect._survey  # type: ignore[attr-defined]
    facts = replace(survey.facts, chip="SM8750")
    session.dialect._survey = replace(survey, facts=facts)  # type: ignore[attr-defined]
    with pytest.raises(Unsupported, match="compiled for Qualcomm SM8650, and phone has SM8750"):
        session.dialect.launch(order(variant_digest=digest, target="npu"))
    assert api.inspect(path)["compiled_for"] == ("Qualcomm SM8650",)
    assert json.dumps(api.inspect(path))
