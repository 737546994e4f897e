"""CONTRIBUTING.md's recipes, run as they stand there: its blocks become files, loaded by the real doors."""

import dataclasses
import hashlib
import re
import sys
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from harness import plugins
from harness.config import farm, profiles, recipes
from harness.errors import ConfigError, ModelRejected, Unsupported
from harness.farm import checks, doctor
from harness.farm.patient import Patient
from harness.optimize import catalog
from harness.protocols import Artifact, Reply, StepData
from harness.measure.sessions import Session
from harness.devices.transports.local import LocalTransport
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


def test_a_dialect(site: Path, tmp_path: Path) -> None:
    install(site, "A dialect")
    folder = tmp_path / "device"
    folder.mkdir()
    vendor = folder / "vendor-bench"
    vendor.write_text('#!/bin/sh\ntest -s "$1" || exit 1\necho 120000\necho 119000.5\n')
    vendor.chmod(0o755)
    model = tmp_path / "model.tflite"
    model.write_bytes(b"a model")
    digest = hashlib.sha256(b"a model").hexdigest()
    device = Device(name="d", profile="linux_x86_64", address="local:", workdir=str(folder))
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

    def open_local(device: Device) -> LocalTransport:
        return LocalTransport()

    session = Session(
        device,
        transport=open_local,
        dialect=plugins.load("harness.dialects", "vendor"),
    )
    try:
        assert session.facts.system == "Linux"
        with pytest.raises(ModelRejected):
            session.dialect.launch(order)
        session.bring({digest: model})
        launch = session.dialect.launch(order)
        assert list(launch.samples[0].value) == [120000.0, 119000.5]
        with pytest.raises(Unsupported):
            session.dialect.infer(order, {})
    finally:
        session.close()


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

    device = Device(name="b", profile="p", address="local:", workdir=str(tmp_path / "w"))
    patient = Patient(device=device, open_transport=open_board)
    found = {one.name: one for one in checks.run((*doctor.CHECKS[:5], my_plugins.journal), patient)}
    assert found["journal"].status == "warn"
    assert found["journal"].found == "2000 MB in /var/log"
    assert str(found["journal"].mend).endswith("journalctl --vacuum-size=100M")
    assert my_plugins.journal.finds == "The system's journal leaves room on the card."
