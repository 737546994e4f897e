"""Help on narrow terminals, and what the shell completes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from harness.cli import COMMANDS

NAMES = [name for names in COMMANDS.values() for name in names]


def help_of(name: str) -> str:
    from harness.cli import app

    group: Any = typer.main.get_command(app)
    with group.make_context("edge-harness", [], resilient_parsing=True) as top:
        if not name:
            return str(group.get_help(top))
        command = group.get_command(top, name)
        with command.make_context(name, [], parent=top, resilient_parsing=True) as inner:
            return str(command.get_help(inner))


@pytest.mark.parametrize("name", ["", *NAMES])
def test_help_fits_the_terminal_without_broken_words(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words: dict[int, list[str]] = {}
    for width in (40, 60, 80, 200):
        monkeypatch.setenv("COLUMNS", str(width))
        text = help_of(name)
        assert max(map(len, text.splitlines())) <= min(width, 80)
        words[width] = text.replace(" | ", "|").replace(" |\n", "|\n").split()
        cut = [line for line in text.splitlines() if line.endswith("...")]
        assert all("Usage:" in line or "[" in line or "{" in line for line in cut)
    assert "".join(words[40]) == "".join(words[60]) == "".join(words[80])
    assert words[60] == words[80] == words[200]


def completed(home: Path, typed: str) -> list[str]:
    words = typed.split(" ")
    environment = {
        **os.environ,
        "XDG_CONFIG_HOME": str(home / "config"),
        "EDGE_HARNESS_RESULTS": str(home / "runs"),
        "_EDGE_HARNESS_COMPLETE": "complete_bash",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(len(words) - 1),
    }
    code = "import sys; sys.argv[0] = 'edge-harness'; from harness.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment,
        cwd=home,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    return done.stdout.split()


def test_the_shell_completes_what_the_user_has(tmp_path: Path) -> None:
    from synthetic_runs import whole_run

    run = whole_run(tmp_path / "runs")
    (tmp_path / "farm.toml").write_text(
        '[device.bench-pi]\nprofile = "raspberry_pi_5"\naddress = "ssh://pi@10.0.0.7"\n'
        'tags = ["lab-a"]\n'
    )
    (tmp_path / "model.tflite").touch()
    (tmp_path / "plan.toml").write_text(
        '[model]\nname = "kws"\npath = "model.tflite"\n'
        '[recipe.small]\nsteps = "prune > int8"\n'
        '[run]\nrecipes = ["small", "float16"]\ndevices = ["bench-pi"]\n'
    )
    assert completed(tmp_path, "edge-harness show 2") == [run]
    assert "latest" in completed(tmp_path, "edge-harness report ")
    assert completed(tmp_path, "edge-harness doctor bench") == ["bench-pi"]
    assert completed(tmp_path, "edge-harness setup ") == ["bench-pi", "this-machine"]
    assert {"bench-pi", "tag:lab-a"} <= set(completed(tmp_path, "edge-harness run p --device "))
    assert completed(tmp_path, "edge-harness run plan.toml --recipe ") == ["small", "float16"]
    assert "prune_filters" in completed(tmp_path, "edge-harness bench m.tflite --recipe pru")
    assert "raspberry_pi_5" in completed(tmp_path, "edge-harness profiles rasp")
    assert "accuracy" in completed(tmp_path, "edge-harness pick latest --maximize acc")
    (tmp_path / "farm.toml").write_text("broken")
    assert completed(tmp_path, "edge-harness doctor ") == []
