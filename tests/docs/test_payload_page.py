"""docs/payload.md: its commands and blocks run, its numbers of the demo's model are true."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from harness.cli import app
from harness.demo import DATA
from harness.tflite import payload
from harness.types import Push

PAGE = (Path(__file__).parents[2] / "docs" / "payload.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    edge-harness (.+)$", PAGE, re.MULTILINE)
BLOCKS = re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
TABLE = re.findall(r"^```text\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)[0]


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page's files: the demo's model, and the same with a byte changed."""
    shutil.copy(DATA / "digits.tflite", tmp_path)
    before = bytearray((DATA / "digits.tflite").read_bytes())
    before[len(before) // 2] ^= 1
    (tmp_path / "before.tflite").write_bytes(before)
    monkeypatch.chdir(tmp_path)


def test_there_is_something_to_test() -> None:
    assert (len(COMMANDS), len(BLOCKS)) == (2, 2)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_on_the_page_runs(command: str) -> None:
    done = CliRunner().invoke(app, shlex.split(command))
    assert done.exit_code == 0, done.output
    if "--json" in command:
        assert set(json.loads(done.stdout)["payload"]) >= {"packed", "huffman", "delta"}
        return
    # Ours to the byte; the libraries' own versions may pack a little differently.
    ours = TABLE[TABLE.index("huffman:") :]
    assert done.stdout.endswith(ours)
    wanted, found = (
        {name: int(size) for name, size in re.findall(r"^(\w+) +(\d+) +0\.", text, re.MULTILINE)}
        for text in (TABLE, done.stdout)
    )
    assert tuple(wanted) == payload.names()
    assert found == pytest.approx(wanted, rel=0.01)


@pytest.mark.parametrize("block", BLOCKS)
def test_a_block_on_the_page_runs(block: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(block, "docs/payload.md", "exec"), {})
    assert int(capsys.readouterr().out.split()[-1]) < 300


def test_every_codec_has_its_row() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE) == list(payload.names())


def test_the_line_of_the_log_has_the_keys_of_one() -> None:
    (line,) = re.findall(r"^```json\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)
    fields = {field.name for field in dataclasses.fields(Push)}
    assert set(json.loads(line)) == {"at", "event", "device"} | fields


def test_the_table_counts_the_demo_model() -> None:
    found = payload.payload_report(Path("digits.tflite"), only=()).huffman
    row = next(line for line in PAGE.splitlines() if line.startswith("| float32 |"))
    raw, coded, bound = (int(word.replace(",", "")) for word in re.findall(r"[\d,]{6,}", row)[-3:])
    # Trained again from its seed: the same file but for the library versions.
    assert raw == found.weights_bytes
    assert coded == pytest.approx(found.coded_bytes, rel=0.001)
    assert bound == pytest.approx(found.entropy_bytes, rel=0.001)
