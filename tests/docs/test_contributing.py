"""CONTRIBUTING.md's recipes, run as they stand there: its blocks become files, loaded by the real doors."""

import dataclasses
import hashlib
import os
import platform
import re
import secrets
import shutil
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from harness import api, plugins
from harness.config import farm, profiles, recipes
from harness.demo import DATA
from harness.devices.transports.local import LocalTransport
from harness.errors import ConfigError, ModelRejected
from harness.farm import checks, doctor
from harness.farm.device_under_test import DeviceUnderTest
from harness.measure.sessions import Session
from harness.optimize import catalog, reference
from harness.protocols import Artifact, Reply, StepData
from harness.tflite import flatbuffer
from harness.types import Device, Dose, LaunchOrder, Profile

TEXT = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text(encoding="utf-8")


def blocks(heading: str) -> dict[str, str]:
    """The fenced blocks under a heading, by language."""
    section = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    text = next(part for part in section if part.startswith(heading + "\n"))
    return dict(re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL))


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that Python takes for installed packages."""
    folder = tmp_path / "site"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, "my_plugins", raising=False)
    return folder


def install(site: Path, heading: str) -> None:
    """Install the module and the entry points of a section, as pip does."""
    found = blocks(heading)
    (site / "my_plugins.py").write_text(found["python"], encoding="utf-8")
    groups = tomllib.loads(found["toml"])["project"]["entry-points"]
    info = site / "my_plugins-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-plugins\nVersion: 1.0\n")
    lines = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in points.items())
        for group, points in groups.items()
    ]
    (info / "entry_points.txt").write_text("\n".join(lines), encoding="utf-8")


def test_a_device_profile(tmp_path: Path) -> None:
    (tmp_path / "example_board.toml").write_text(blocks("A device profile")["toml"])
    found = profiles.get("example_board", profiles.load_all(tmp_path))
    assert isinstance(found, Profile)
    assert found.cores[0].max_mhz == 1800
    assert found.detect.model == ("Example Board",)


@pytest.fixture
def fresh_catalog() -> Iterator[None]:
    """The catalog of steps is read once per process; this test has one step more."""
    catalog.known_steps.cache_clear()
    yield
    catalog.known_steps.cache_clear()


def test_a_recipe_step(site: Path, tmp_path: Path, fresh_catalog: None) -> None:
    install(site, "A recipe step")
    recipe = recipes.parse('remember(note="baseline")')
    catalog.check(recipe)
    with pytest.raises(ConfigError, match='did you mean "note"'):
        catalog.check(recipes.parse('remember(notes="baseline")'))
    with pytest.raises(ConfigError, match="it takes a text"):
        catalog.check(recipes.parse("remember(note=3)"))
    step = catalog.known_steps()["remember"]
    parameters = catalog.parameters(recipe.steps[0])
    source = tmp_path / "source.tflite"
    source.write_bytes(b"a model")
    workdir = tmp_path / "work"
    workdir.mkdir()
    artifact = step.build(Artifact(path=source, form="tflite"), parameters, StepData(), workdir)
    assert artifact.path.parent == workdir
    assert artifact.path.read_bytes() == b"a model"
    assert artifact.notes == ("baseline",)


def test_a_transport(site: Path, tmp_path: Path) -> None:
    install(site, "A transport")
    device = farm.from_uri("nice:10", "slow")
    transport = plugins.load("harness.transports", "nice")(device)
    plain = LocalTransport()
    try:
        usual = int(plain.run(["nice"], 10).stdout)
        assert int(transport.run(["nice"], 10).stdout) == min(usual + 10, 19)
        transport.put(Path(__file__), str(tmp_path / "copy"))
        assert (tmp_path / "copy").read_bytes() == Path(__file__).read_bytes()
    finally:
        transport.close()
        plain.close()


@pytest.fixture(name="vendor")
def _vendor(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The dialect of CONTRIBUTING.md and a program it can drive; the name of a device of its own."""
    install(site, "A dialect")
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "vendor-bench"
    program.write_text('#!/bin/sh\ntest -s "$1" || exit 1\necho "119000.$2"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    name = f"test-{secrets.token_hex(4)}"
    yield name
    shutil.rmtree(f"/tmp/vendor-{name}", ignore_errors=True)


def test_a_dialect(vendor: str, tmp_path: Path) -> None:
    model = tmp_path / "model.tflite"
    model.write_bytes(b"a model")
    digest = hashlib.sha256(b"a model").hexdigest()
    file = tmp_path / "farm.toml"
    file.write_text(
        f'[device.{vendor}]\nprofile = "linux_x86_64"\naddress = "local:"\ndialect = "vendor"\n'
    )
    device = farm.load(file).devices[vendor]
    order = LaunchOrder(
        cell_id="c",
        kind="timed",
        block=0,
        position=0,
        variant_digest=digest,
        target="xnnpack",
        threads=1,
        dose=Dose(),
    )
    session = Session(device)
    try:
        assert session.facts.machine == platform.machine()
        assert (session.facts.python, session.facts.cores) == (None, None)
        assert session.dialect.can.launches == {"timed"}
        with pytest.raises(ModelRejected):
            session.dialect.launch(order)
        session.bring({digest: model})
        launch = session.dialect.launch(order)
        assert list(launch.samples[0].value) == [119000.1]
        assert list(launch.samples[0].count) == [100]
        assert launch.summary == "mean"
        assert not session.dialect.can.infers
    finally:
        session.close()


def test_a_metric(site: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The metric of the page gives the accuracy column through the real command path."""
    install(site, "A metric")
    # Build workers are processes of their own.
    monkeypatch.setenv("PYTHONPATH", str(site))
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    with np.load(DATA / "digits_evaluation.npz") as stored:
        x, y = stored["x"][:40], np.eye(10, dtype=np.float32)[stored["y"][:40]]
    np.savez(tmp_path / "evaluation.npz", x=x, y=y)
    plan = tmp_path / "plan.toml"
    plan.write_text(
        f'[model]\nname = "digits"\npath = "{DATA / "digits.tflite"}"\n'
        '[data]\nevaluation = "evaluation.npz"\nmetric = "worst"\n'
        '[run]\nrecipes = ["as_is"]\n'
        "[dose]\nlaunches = 1\nwarmup_seconds = 0.0\nmin_seconds = 0.01\n"
    )
    with api.run(plan, results=tmp_path / "runs") as going:
        (outcome,) = list(going)
    (row,) = going.rows()
    taken = {tensor.name: x for tensor in flatbuffer.read(DATA / "digits.tflite").inputs}
    (outputs,) = reference.host_outputs(DATA / "digits.tflite", taken).values()
    assert row["status"] == "ok", row["reason"]
    assert row["accuracy"] == pytest.approx(np.abs(outputs.reshape(40, 10) - y).max())
    assert (row.metric, row.better("accuracy")) == ("worst", "lower")
    assert outcome.cell.variant.accuracy_samples == 40
    plan.write_text(plan.read_text().replace("worst", "wosrt"))
    with pytest.raises(ConfigError, match='data.metric: unknown metric "wosrt"; did you mean "wo'):
        api.run(plan, results=tmp_path / "runs")


def test_a_dialect_gives_a_row_and_a_verdict(vendor: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.toml"
    path.write_text(
        f'[model]\nname = "digits"\npath = "{DATA / "digits.tflite"}"\n[run]\nrecipes = ["as_is"]\n'
        f'devices = ["{vendor}"]\n[dose]\nlaunches = 3\nmin_seconds = 0.01\n'
        '[gate]\nmetrics = ["latency"]\nmax_pairs = 8\n'
    )
    (tmp_path / "farm.toml").write_text(
        f'[device.{vendor}]\nprofile = "linux_x86_64"\naddress = "local:"\ndialect = "vendor"\n'
    )
    with api.run(path, results=tmp_path / "runs") as going:
        for _ in going:
            pass
    (row,) = going.rows()
    assert (row["status"], row["reason"]) == ("ok", None)
    assert row["latency_p50_ms"] == pytest.approx(0.119, rel=0.01)
    assert (row["latency_p90_ms"], row["peak_rss_mb"]) == (None, None)
    result = api.gate(
        path,
        baseline="as_is",
        candidate="as_is",
        measure_identical=True,
        results=tmp_path / "runs",
    )
    (latency,) = (one for one in result.judged if one.metric == "latency")
    assert str(latency.verdict) == "EQUIVALENT"


def test_a_check_of_doctor(site: Path, tmp_path: Path) -> None:
    (site / "my_plugins.py").write_text(blocks("A check of doctor")["python"], encoding="utf-8")
    import my_plugins  # type: ignore[import-not-found]

    class Board(LocalTransport):
        def run(
            self, argv: Sequence[str], timeout_seconds: float, stdin: bytes | None = None
        ) -> Reply:
            reply = super().run(argv, timeout_seconds, stdin)
            full = b"2000000\t/var/log\n" if argv[0] == "du" else reply.stdout
            return dataclasses.replace(reply, stdout=full)

    def open_board(device: Device) -> LocalTransport:
        return Board()

    device = Device(name="b", profile="p", address="local:")
    dut = DeviceUnderTest(device=device, open_transport=open_board)
    found = {one.name: one for one in checks.run((*doctor.CHECKS[:5], my_plugins.journal), dut)}
    assert found["journal"].status == "warn"
    assert found["journal"].found == "2000 MB in /var/log"
    assert str(found["journal"].fix_text).endswith("journalctl --vacuum-size=100M")
    assert my_plugins.journal.finds == "The system's journal leaves room on the card."
