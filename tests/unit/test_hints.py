"""Every command in a text of ours is one that the command line takes, with options that it has."""

from __future__ import annotations

import ast
import inspect
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from synthetic_runs import cell, measure, record

from harness.cli import COMMANDS
from harness.demo import DATA
from harness.devices.dialects.python_agent.dialect import JsonLinesDialect
from harness.errors import RuntimeMissing
from harness.records.store import Store
from harness.testing import FakeTransport
from harness.types import Device

ROOT = Path(__file__).parents[2]
NAMES = {name for names in COMMANDS.values() for name in names}
COMMAND = re.compile(r"edge-harness (?=(\w+)(?!:))([^`\n]*)")
FILLED = "filled"
"""Stands for a value of an f-string."""


def texts(path: Path) -> Iterator[tuple[int, str, bool]]:
    """Yield the strings of a module: line, text, and whether it is a docstring."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and node.body
        if isinstance(node.body[0], ast.Expr)
    }
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inner |= {id(part) for part in node.values}
            parts = [
                str(part.value) if isinstance(part, ast.Constant) else FILLED
                for part in node.values
            ]
            yield node.lineno, "".join(parts), False
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner
        ):
            yield node.lineno, node.value, id(node) in docstrings


def hints() -> Iterator[tuple[str, str]]:
    """Yield every command in backquotes, as an example in help, or as a fix: its place and text."""
    for folder in ("harness", "agents"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for line, text, is_docstring in texts(path):
                for found in COMMAND.finditer(text):
                    is_example = text[: found.start()].endswith("Example: ")
                    is_name = found[0] == f"edge-harness {found[1]}"
                    if found[1] not in NAMES or (is_docstring and not is_example and is_name):
                        continue
                    yield f"{path.relative_to(ROOT)}:{line}", found[0]


SENTENCES = {
    ("agents/python_tflite/runtimes.py", "edge-harness setup"),  # the dialect adds the device
    ("harness/devices/dialects/python_agent/dialect.py", "edge-harness setup"),
    ("harness/farm/contact.py", "edge-harness add"),  # what wrote a profile
}
"""Names of commands that are no hints."""


def parse(command: str) -> None:
    """Parse a command as the command line does; raises its usage error."""
    from harness.cli import app

    # A shell's redirection ends a command.
    name, *arguments = shlex.split(command.partition(" >")[0])[1:]
    group: Any = typer.main.get_command(app)
    with group.make_context("edge-harness", [], resilient_parsing=True) as top:
        command_of = group.get_command(top, name)
        with command_of.make_context(name, arguments, parent=top):
            pass


@pytest.mark.parametrize(("place", "hint"), [pytest.param(*one, id=one[0]) for one in hints()])
def test_a_hint_is_a_command_that_parses(place: str, hint: str) -> None:
    if (place.partition(":")[0], hint) not in SENTENCES:
        parse(hint)


def test_an_option_in_an_error_is_named_with_the_commands_that_have_it() -> None:
    from harness import hints as named_options
    from harness.cli import app

    group: Any = typer.main.get_command(app)
    for option, commands in named_options.COMMANDS.items():
        having = {
            name
            for name, command in group.commands.items()
            if any(f"--{option}" in one.opts for one in command.params)
        }
        assert having == set(commands), option


@pytest.fixture(name="typed")
def _typed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[str], tuple[int, str]]:
    """Return a function that runs a command line and returns its exit code and all its output."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("EDGE_HARNESS_RESULTS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> tuple[int, str]:
        from harness.cli import main

        monkeypatch.setattr(sys, "argv", shlex.split(line))
        with pytest.raises(SystemExit) as ended:
            main()
        got = capsys.readouterr()
        return int(ended.value.code or 0), got.out + got.err

    return run


PLAN = f"""
[model]
name = "digits"
path = {json.dumps(str(DATA / "digits.tflite"))}
[run]
recipes = ["as_is"]
devices = ["pi@10.0.0.7"]
"""

FAULTS = {
    "show nothing": "edge-harness runs",
    "show nothing --results 'other runs'": "edge-harness runs --results 'other runs'",
    "show latest --results empty": "edge-harness demo --results empty",
    "report latest -o 'no folder/page.html'": "mkdir -p 'no folder'",
    "export latest --format csv -o nodir/x.csv": "mkdir -p nodir",
    "layers latest --recipe qat": "edge-harness show ",
    "run plan.toml": "edge-harness add ssh://pi@10.0.0.7",
    "bench m.tflite --on pi@10.0.0.7": "edge-harness add ssh://pi@10.0.0.7",
    "setup pi@h": "edge-harness add ssh://pi@h",
    "run search.toml": "edge-harness search search.toml",
    "show latest": "edge-harness run 'a plan.toml' --resume ",
    "bisect plan.toml": "edge-harness bisect plan.toml --files good.tflite bad.tflite",
    "init new": "cd new",
}
"""Commands, and the hint that each of them gives."""


@pytest.mark.parametrize(("line", "hint"), FAULTS.items(), ids=FAULTS)
def test_a_printed_hint_can_be_typed(
    tmp_path: Path, typed: Callable[[str], tuple[int, str]], line: str, hint: str
) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    model = PLAN.partition("[run]")[0]
    space = 'space = ["int8", "float16"]\nobjectives = ["size_bytes"]\ndevice = "this-machine"\n'
    (tmp_path / "search.toml").write_text(f"{model}[search]\n{space}")
    (tmp_path / "m.tflite").write_bytes((DATA / "digits.tflite").read_bytes())
    (tmp_path / "empty").mkdir()
    of = cell("int8")
    called = record([of, cell("float16")], call={"plan": "a plan.toml"})
    with Store(tmp_path / "runs").create(called) as writer:
        measure(writer, of)
        writer.finish()
    _, output = typed(f"edge-harness {line}")
    found = re.findall(r"`([^`]+)`", output)
    (given,) = [one for one in found if one.startswith(hint)]
    if given.startswith("edge-harness "):
        parse(given)
    if given.startswith("mkdir "):
        subprocess.run(shlex.split(given), cwd=tmp_path, check=True)
        assert typed(f"edge-harness {line}")[0] == 0
    if given.startswith("edge-harness runs"):
        assert typed(given)[0] == 0


def test_setup_in_an_agents_message_names_the_device() -> None:
    device = Device(name="bench-pi", profile="raspberry_pi_5", address="local:")
    dialect = JsonLinesDialect(FakeTransport(device), device)
    answer = {"event": "error", "id": 1, "kind": "no_runtime", "reason": f"none; {_FIX}"}
    with pytest.raises(RuntimeMissing) as error:
        dialect._result("launch", answer)
    (hint,) = re.findall(r"`(edge-harness[^`]+)`", str(error.value))
    assert hint == "edge-harness setup bench-pi"


_FIX = "`edge-harness setup` or, on the device, `/usr/bin/python3 -m pip install ai-edge-litert`"


def test_runs_says_what_is_missing(tmp_path: Path, typed: Callable[[str], tuple[int, str]]) -> None:
    assert typed("edge-harness runs --results nowhere") == (
        0,
        "there is no folder nowhere, so no runs\n",
    )
    (tmp_path / "runs").mkdir()
    assert typed("edge-harness runs") == (0, f"no runs in {tmp_path / 'runs'}\n")
    assert json.loads(typed("edge-harness runs --json")[1]) == {"runs": []}


def test_no_default_of_the_api_is_a_path_of_this_machine() -> None:
    from harness import api

    for name in api.__all__:
        found = getattr(api, name)
        if callable(found) and not isinstance(found, type):
            for parameter in inspect.signature(found).parameters.values():
                assert not isinstance(parameter.default, Path), (name, parameter)
