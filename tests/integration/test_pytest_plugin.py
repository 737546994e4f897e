"""The pytest plug-in as a user's suite meets it: real measurements on this machine, by pytester.

Each suite runs in a process of its own: pytester's other way imports the runtime's C++ twice, which
aborts the process.
"""

from __future__ import annotations

import json
import shutil
import socket
import sys
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from harness.demo import DATA
from harness.pytest_plugin import MeasuredRow

HEAVY = (
    "numpy",
    "pandas",
    "duckdb",
    "pydantic",
    "typer",
    "paramiko",
    "ai_edge_litert",
    "harness.api",
)


@pytest.fixture(name="suite")
def _suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> pytest.Pytester:
    """A user's suite with a model beside its tests; nothing of the user's own home."""
    for name in ("EDGE_HARNESS_RESULTS", "EDGE_HARNESS_CACHE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    folder = pytester.mkdir("checks")
    shutil.copy(DATA / "digits.tflite", folder / "model.tflite")
    return pytester


def write(suite: pytest.Pytester, text: str) -> None:
    (suite.path / "checks" / "test_model.py").write_text(text, encoding="utf-8")


def test_a_budget_holds_or_fails_and_both_are_told(suite: pytest.Pytester) -> None:
    write(
        suite,
        """
import pytest

@pytest.fixture(scope="module")
def row(edge):
    return edge.run("model.tflite", launches=2)

def test_fast_enough(row):
    assert row.latency_p50_ms < 1000
    assert row.size_bytes > 0
    assert row.energy_mj is None

def test_too_slow(row):
    assert row.latency_p50_ms < 1e-6
""",
    )
    result = suite.runpytest_subprocess("--edge-results", "kept", "--junitxml=report.xml", "-rs")
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        [
            "*assert * < 1e-06",
            "*where * = <model as_is on this-machine: p50 * ms*>.latency_p50_ms*",
            "*= edge-harness =*",
            "model as_is on this-machine: p50 * ms*(run *-model-*)",
        ]
    )
    (run,) = (suite.path / "kept").iterdir()
    cases = {
        case.attrib["name"]: case for case in ET.parse(suite.path / "report.xml").iter("testcase")
    }
    assert [child.tag for child in cases["test_too_slow"]] == ["failure"]
    properties = {
        one.attrib["name"]: one.attrib["value"]
        for one in cases["test_fast_enough"].iter("property")
    }
    assert properties["edge_row"].startswith("model as_is on this-machine: p50 ")
    assert properties["edge_run"] == run.name
    assert 0 < float(properties["edge_latency_p50_ms"]) < 1000


def test_a_device_that_is_away_skips_with_the_reason(suite: pytest.Pytester) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        suite.makefile(
            ".toml",
            away=f'[device.pi]\nprofile = "raspberry_pi_5"\naddress = "ssh://nobody@127.0.0.1:{port}"\n',
        )
        write(
            suite,
            """
def test_fast_enough(edge):
    assert edge.run("model.tflite", device="pi").latency_p50_ms < 20
""",
        )
        result = suite.runpytest_subprocess(
            "--edge-farm", "away.toml", "-rs", "--junitxml=report.xml"
        )
    result.assert_outcomes(skipped=1)
    result.stdout.fnmatch_lines(["SKIPPED*model as_is on pi: unreachable: *127.0.0.1*"])
    skipped = ET.parse(suite.path / "report.xml").find(".//skipped")
    assert skipped is not None
    assert "unreachable" in skipped.attrib["message"]


def test_a_cell_that_failed_is_an_assertion_with_the_reason(suite: pytest.Pytester) -> None:
    (suite.path / "broken.tflite").write_bytes(b"\x1c\x00\x00\x00TFL3" + b"no model" * 30)
    write(
        suite,
        """
import pytest

def test_broken(edge):
    edge.run("broken.tflite")

def test_it_is_an_assertion(edge):
    with pytest.raises(AssertionError, match="broken as_is on this-machine: not_built: "):
        edge.run("broken.tflite")
""",
    )
    result = suite.runpytest_subprocess()
    result.assert_outcomes(passed=1, failed=1)
    result.stdout.fnmatch_lines(
        ['>*edge.run("broken.tflite")', "E*CellFailed: broken as_is*(run *)"]
    )
    result.stdout.no_fnmatch_line("*pytest_plugin.py:*")


def test_a_question_that_cannot_be_asked_says_so(suite: pytest.Pytester) -> None:
    calls = {
        'edge.run("nowhere.tflite")': "edge.run: *there is no file or folder*nowhere.tflite*",
        'edge.run("model.tflite", device="pj")': 'edge.run: *"pj"*',
        'edge.run("model.tflite", recipe="int9")': "edge.run: *int9*",
        'edge.run("*.tflite")': "edge.run measures one row, not 2: a on this-machine, b *",
    }
    for name in "ab":
        shutil.copy(DATA / "digits.tflite", suite.path / f"{name}.tflite")
    tests = [f"def test_{i}(edge):\n    {call}\n" for i, call in enumerate(calls)]
    write(suite, "\n".join(tests))
    result = suite.runpytest_subprocess()
    result.assert_outcomes(failed=len(calls))
    result.stdout.fnmatch_lines([f"E*UsageError: {said}" for said in calls.values()])
    result.stdout.no_fnmatch_line("*Traceback*")


@pytest.mark.slow
def test_a_gate_against_a_baseline_file(suite: pytest.Pytester) -> None:
    model = suite.path / "checks" / "model.tflite"
    (suite.path / "larger.tflite").write_bytes(model.read_bytes() + bytes(50_000))
    shutil.copy(model, suite.path / "main.tflite")
    write(
        suite,
        """
def test_the_same(edge_gate):
    assert edge_gate("model.tflite", baseline="main.tflite").verdict == "EQUIVALENT"

def test_larger(edge_gate):
    edge_gate("larger.tflite", baseline="main.tflite", metrics=["size"], max_pairs=6)

def test_away(edge_gate):
    edge_gate("larger.tflite", baseline="main.tflite", device="pi")

def test_rules(edge_gate):
    edge_gate("larger.tflite", baseline="main.tflite", margn=0.1)
""",
    )
    # Nobody listens on the discard port.
    suite.makefile(
        ".toml",
        farm='[device.pi]\nprofile = "raspberry_pi_5"\naddress = "ssh://nobody@127.0.0.1:9"\n',
    )
    result = suite.runpytest_subprocess("-rs", "--junitxml=report.xml")
    result.assert_outcomes(passed=1, failed=2, skipped=1)
    result.stdout.fnmatch_lines(
        [
            "E*Regressed: gate REGRESSION: size *",
            "E*larger as_is on this-machine, size: REGRESSION: larger: 242,640 to 292,640*",
            'E*UsageError: edge_gate: *"margn"*did you mean "margin"*',
            "gate EQUIVALENT; 0 rows judged, 1 identical, not measured; exit 0",
            "SKIPPED*gate AWAY*1 device away*",
        ]
    )
    cases = {
        case.attrib["name"]: case for case in ET.parse(suite.path / "report.xml").iter("testcase")
    }
    assert cases["test_away"].find("skipped") is not None
    told = cases["test_larger"].find(".//property[@name='edge_gate']")
    assert told is not None
    assert told.attrib["value"].startswith("gate REGRESSION")


def test_a_missing_farm_file_is_told(suite: pytest.Pytester) -> None:
    write(suite, 'def test_it(edge):\n    edge.run("model.tflite")\n')
    result = suite.runpytest_subprocess("--edge-farm", "nowhere.toml")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["E*UsageError: edge.run: *nowhere.toml*"])


def test_pytest_starts_light(suite: pytest.Pytester) -> None:
    write(suite, "def test_it():\n    pass\n")
    suite.makepyfile(
        start=f"""
import json, sys
import pytest
assert pytest.main(["-q", "checks"]) == 0
loaded = [name for name in {HEAVY!r} if name in sys.modules]
print("LOADED", json.dumps(["harness.pytest_plugin" in sys.modules, loaded]))
"""
    )
    result = suite.run(sys.executable, "start.py")
    line = next(line for line in result.outlines if line.startswith("LOADED "))
    assert json.loads(line.removeprefix("LOADED ")) == [True, []]


def test_a_row_names_the_nearest_column() -> None:
    row = MeasuredRow({"latency_p50_ms": 1.0})
    assert row.latency_p50_ms == 1.0
    assert row.plain() == {"latency_p50_ms": 1.0}
    with pytest.raises(AttributeError, match="did you mean 'latency_p50_ms'"):
        _ = row.latency_p50


def test_the_plug_in_is_installed_by_its_entry_point(pytestconfig: pytest.Config) -> None:
    plugin = pytestconfig.pluginmanager.get_plugin("edge_harness")
    assert plugin is not None
    assert Path(plugin.__file__).name == "pytest_plugin.py"
