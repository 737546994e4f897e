"""A device that lacks one ability, through run, gate, layers and doctor: the rest is measured.

Every fake is found as a plug-in of somebody else's is: by an entry point, from a farm.toml.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from plugin_site import install
from typer.testing import CliRunner

from harness import api
from harness.cli import app
from harness.config import farm as farms
from harness.demo import DATA

PLUGINS = '''
"""Fakes that each lack one thing."""

from dataclasses import replace

from harness.optimize import reference
from harness.protocols import Capabilities, TransportPlugin
from harness.testing import NO_FACTS, CommandsTransport, FakeDialect, FakeTransport, TalkTransport

EVERYTHING = Capabilities(
    launches=frozenset({"timed", "memory", "bare", "accuracy", "cpu"}), infers=True, places=True
)


class Computing(FakeDialect):
    """A fake whose outputs are this host's own; its times are made up."""

    def __init__(self, device, **answers):
        super().__init__(device, **answers)
        self.known = {}

    def deploy(self, files):
        self.known.update(files)
        return super().deploy(files)

    def infer(self, order, inputs):
        super().infer(order, inputs)
        return reference.host_outputs(self.known[order.variant_digest], inputs)


def opener(**answers):
    return Computing.opener(**{"can": EVERYTHING, "noise": 0.001, **answers})


whole = opener()
no_memory = opener(can=replace(EVERYTHING, launches=EVERYTHING.launches - {"memory", "bare"}))
timed_only = opener(can=replace(EVERYTHING, launches=frozenset({"timed"})))
no_outputs = opener(can=replace(EVERYTHING, infers=False))
no_samples = opener(can=replace(EVERYTHING, samples=False))
no_facts = opener(facts=NO_FACTS)

full = TransportPlugin(open=FakeTransport, dialect="fake_whole")
commands = TransportPlugin(open=CommandsTransport, dialect="fake_whole")
talk = TransportPlugin(open=TalkTransport, dialect="fake_whole")
'''

DIALECTS = ("whole", "no_memory", "timed_only", "no_outputs", "no_samples", "no_facts")
TRANSPORTS = ("full", "commands", "talk")
LACKS = {
    "nothing": ("full", None),
    "files": ("commands", None),
    "files and commands": ("talk", None),
    "memory": ("full", "no_memory"),
    "all but timed launches": ("full", "timed_only"),
    "outputs": ("full", "no_outputs"),
    "single samples": ("full", "no_samples"),
    "facts": ("full", "no_facts"),
}
"""What the fake lacks: its transport, and its dialect where that is not the transport's own."""

EACH = pytest.mark.parametrize("lack", list(LACKS), ids=lambda lack: lack.replace(" ", "-"))


@pytest.fixture(autouse=True)
def _site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    points = {
        "harness.transports": {f"fake-{name}": f"fakes_that_lack:{name}" for name in TRANSPORTS},
        "harness.dialects": {f"fake_{name}": f"fakes_that_lack:{name}" for name in DIALECTS},
    }
    with install(tmp_path / "site", "fakes_that_lack", PLUGINS, points):
        yield


def farm_of(lack: str, folder: Path) -> farms.Farm:
    scheme, dialect = LACKS[lack]
    named = f'dialect = "fake_{dialect}"\n' if dialect else ""
    path = folder / "farm.toml"
    path.write_text(f'[device.it]\nprofile = "linux_x86_64"\naddress = "fake-{scheme}:it"\n{named}')
    return farms.load(path)


def plan_of(folder: Path) -> Path:
    path = folder / "plan.toml"
    path.write_text(
        f'[model]\nname = "digits"\npath = {json.dumps(str(DATA / "digits.tflite"))}\n'
        f"[data]\nevaluation = {json.dumps(str(DATA / 'digits_evaluation.npz'))}\n"
        '[run]\nrecipes = ["as_is"]\ndevices = ["it"]\n[dose]\nlaunches = 3\nmin_seconds = 0.01\n'
        '[gate]\nmetrics = ["latency"]\nmax_pairs = 8\n'
    )
    return path


@EACH
def test_run_measures_the_rest(lack: str, tmp_path: Path) -> None:
    plan, farm = plan_of(tmp_path), farm_of(lack, tmp_path)
    with api.run(plan, farm=farm, results=tmp_path / "runs") as going:
        for _ in going:
            pass
    (row,) = going.rows()
    assert (row["status"], row["reason"]) == ("ok", None)
    assert row["latency_p50_ms"] == pytest.approx(1.0, rel=0.05)
    assert row["launches"] == 3
    no_memory = lack in {"memory", "all but timed launches"}
    assert (row["peak_rss_mb"] is None) == no_memory
    assert (row["model_memory_mb"] is None) == no_memory
    assert (row["latency_p90_ms"] is None) == (lack == "single samples")
    assert row["accuracy_source"] == "host"
    assert left_out(going.path) == {
        "memory": {"memory", "bare"},
        "all but timed launches": {"memory", "bare"},
        "outputs": {"outputs"},
    }.get(lack, set())


def left_out(run: Path) -> set[str]:
    """What the run's log says was not measured, each time with a reason."""
    lines = map(json.loads, (run / "log.jsonl").read_text(encoding="utf-8").splitlines())
    notes = [line for line in lines if line["event"] == "not_measured"]
    assert all(line["reason"] for line in notes)
    return {line["what"] for line in notes}


@EACH
def test_gate_gives_a_verdict(lack: str, tmp_path: Path) -> None:
    result = api.gate(
        plan_of(tmp_path),
        baseline="as_is",
        candidate="as_is",
        farm=farm_of(lack, tmp_path),
        measure_identical=True,
        results=tmp_path / "runs",
    )
    assert result.failed == ()
    (latency,) = (row for row in result.judged if row.metric == "latency")
    assert (str(latency.verdict), result.away) == ("EQUIVALENT", {})
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("planned", "asked", "is_hot"),
    [("soak", None, True), ("soak", "gate", False), ("none", "soak", True), ("none", None, False)],
)
def test_the_option_thermal_of_gate_replaces_that_of_the_plan(
    planned: str, asked: str | None, is_hot: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("harness.measure.thermal.MAX_SOAK_SECONDS", 0.02)
    farm_of("nothing", tmp_path)
    plan = plan_of(tmp_path)
    plan.write_text(plan.read_text().replace("[run]", f'[run]\nthermal = "{planned}"'))
    words = ["gate", str(plan), "--baseline", "as_is", "--candidate", "as_is"]
    words += ["--measure-identical", "--farm", str(tmp_path / "farm.toml"), "--json"]
    words += ["--results", str(tmp_path / "runs"), *(["--thermal", asked] if asked else [])]
    done = CliRunner().invoke(app, words)
    (latency,) = (row for row in json.loads(done.stdout)["rows"] if row["metric"] == "latency")
    assert ("hot" in latency["labels"]) == is_hot


@EACH
def test_layers_are_timed(lack: str, tmp_path: Path) -> None:
    whole = farm_of("nothing", tmp_path)
    with api.run(plan_of(tmp_path), farm=whole, results=tmp_path / "runs") as going:
        for _ in going:
            pass
    found = api.layers(
        [going.id], farm=farm_of(lack, tmp_path), results=tmp_path / "runs", at_most=3
    )
    (layers,) = found.layers
    assert layers.operators
    assert layers.estimate


@EACH
def test_doctor_skips_what_cannot_be_asked(lack: str, tmp_path: Path) -> None:
    (checks,) = api.doctor(["it"], farm=farm_of(lack, tmp_path)).values()
    # What the fakes run is no shell.
    failed = {check.name for check in checks if check.status == "fail"}
    assert failed == (set() if lack == "files and commands" else {"system"})
    statuses = {check.name: check.status for check in checks}
    assert statuses["reachable"] == "ok"
    assert statuses["agent"] == "ok"
    assert statuses["commands"] == ("skip" if lack == "files and commands" else "ok")
