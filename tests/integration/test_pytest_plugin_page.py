"""docs/pytest.md: its tests run, its names are the plug-in's."""

from __future__ import annotations

import inspect
import re
import shutil
from pathlib import Path

import pytest

from harness import pytest_plugin
from harness.demo import DATA

PAGE = (Path(__file__).parents[2] / "docs" / "pytest.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```\w+\n# (\S+)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL))


def test_the_tests_on_the_page_pass(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("EDGE_HARNESS_RESULTS", "EDGE_HARNESS_CACHE", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, text in BLOCKS.items():
        # The page's board is this machine here; the farm file is its own otherwise.
        local = text.replace("ssh://pi@10.0.0.7", "local:").replace(
            "raspberry_pi_5", "linux_x86_64"
        )
        (pytester.path / name).write_text(local, encoding="utf-8")
    for name in ("model.tflite", "main.tflite"):
        shutil.copy(DATA / "digits.tflite", pytester.path / name)
    (command,) = re.findall(r"^    pytest (.+)$", PAGE, re.MULTILINE)
    result = pytester.runpytest_subprocess(*command.split())
    result.assert_outcomes(passed=4)
    result.stdout.fnmatch_lines(["gate EQUIVALENT; *identical*"])


def test_the_signatures_are_on_the_page() -> None:
    assert set(BLOCKS) == {"test_speed.py", "test_once.py", "test_gate.py", "farm.toml"}
    known = inspect.signature(pytest_plugin.Edge.run).parameters
    (shown,) = re.findall(r"`edge\.run\((.+?)\)`", PAGE)
    assert [one.split("=")[0] for one in shown.split(", ")] == list(known)[1:]
    for word in (*pytest_plugin.AWAY, "CellFailed", "Regressed", "edge_latency_p50_ms"):
        assert f"`{word}`" in PAGE
