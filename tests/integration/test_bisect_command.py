"""The command `bisect` with the real gate as its oracle, on this machine.

The metric is the size: it is exact, so a noisy machine cannot change the result.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.demo import DATA

CLI = [sys.executable, "-m", "harness.cli"]
PLAN = """
[model]
name = "digits"
path = "digits.tflite"
[run]
recipes = ["as_is"]
devices = ["this-machine"]
[dose]
warmup_seconds = 0.05
min_seconds = 0.05
min_inferences = 20
[gate]
metrics = ["size"]
"""


@pytest.fixture(name="home")
def _home(tmp_path: Path) -> Path:
    (tmp_path / "plan.toml").write_text(PLAN)
    shutil.copy(DATA / "digits.tflite", tmp_path)
    return tmp_path


def edge(home: Path, *arguments: object, code: int) -> Any:
    done = subprocess.run(
        [*CLI, *map(str, arguments)],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "EDGE_HARNESS_RESULTS": str(home / "results"),
            "XDG_CONFIG_HOME": str(home / "config"),
        },
        cwd=home,
        timeout=240,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout) if "--json" in arguments else done.stdout + done.stderr


def grown(home: Path, name: str, extra: int) -> Path:
    """Write the model with unused bytes at its end."""
    path = home / name
    path.write_bytes((DATA / "digits.tflite").read_bytes() + b"\0" * extra)
    return path


def test_finds_the_first_file_that_grew(home: Path) -> None:
    files = [
        grown(home, "a.tflite", 0),
        grown(home, "b.tflite", 0),
        grown(home, "c.tflite", 60_000),
        grown(home, "d.tflite", 60_000),
    ]

    found = edge(home, "bisect", "plan.toml", "--files", *files, "--json", code=0)

    assert found["first_bad"] == str(files[2])
    assert found["last_good"] == str(files[1])
    measured = [step for step in found["steps"] if step["max_pairs"]]
    assert len(measured) == 1, "the same bytes are not measured twice"
    assert (home / "results" / measured[0]["run"] / "gate.json").is_file()
    text = edge(home, "bisect", "plan.toml", *files[:2], code=1)
    assert "nothing to find" in text


def test_finds_the_commit(home: Path) -> None:
    if shutil.which("git") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("git is missing")
        pytest.skip("git is missing: apt-get install git")
    repo = home / "repo"
    repo.mkdir()

    def git(*arguments: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
        subprocess.run(["git", *identity, *arguments], cwd=repo, check=True, capture_output=True)

    git("init", "--quiet", "--initial-branch=main")
    for number, extra in enumerate((0, 0, 60_000, 60_000)):
        grown(repo, "model.tflite", extra)
        (repo / "note").write_text(str(number))
        git("add", "--all")
        git("commit", "--quiet", "--message", f"number {number}")

    options = ("--git", "HEAD~3..HEAD", "--path", "model.tflite", "--repo", repo)
    text = edge(home, "bisect", "plan.toml", *options, code=0)

    assert "the first bad one is" in text
    assert "(number 2)" in text


def test_refusals(home: Path) -> None:
    one = grown(home, "a.tflite", 0)

    assert "searches files" in edge(home, "bisect", "plan.toml", code=3)
    assert "searches files" in edge(home, "bisect", "plan.toml", one, "--path", "m", code=3)
    assert "two models or more" in edge(home, "bisect", "plan.toml", one, code=3)
    options = ("--git", "HEAD", "--path", "m")
    assert "GOOD..BAD" in edge(home, "bisect", "plan.toml", *options, code=3)
    options = ("--good", "a", "--bad", "b", "--path", "m", "--build", "make 'x")
    assert "No closing quotation" in edge(home, "bisect", "plan.toml", *options, code=3)
    other = home / "not.tflite"
    other.write_text("no model")
    text = edge(home, "bisect", "plan.toml", one, other, code=3)
    assert "bad end cannot be compared" in text
