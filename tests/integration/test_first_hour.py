"""A newcomer's first hour: the commands of the README in their order, as they are printed there.

Only what the reader has to replace is replaced: the board's address, the model and its data. The
board is a real OpenSSH server on loopback; its key is in a real ssh-agent. The notebook's hour is
docs/api.md (tests/docs/test_api_page.py).
"""

from __future__ import annotations

import getpass
import os
import re
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import missing
from edge_command import edge

from harness.demo import DATA
from harness.demo.loopback_sshd import LoopbackSshd

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BOARD = "ssh://pi@10.0.0.7"


@pytest.fixture
def work_folder() -> Iterator[None]:
    """Remove the account's work folder again, if the test made it."""
    folder = Path("/var/tmp", f"edge-harness-{getpass.getuser()}")
    is_new = not folder.exists()
    yield
    if is_new:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def agent(own_sshd: LoopbackSshd, tmp_path: Path) -> Iterator[dict[str, str]]:
    """An ssh-agent with the board's key; yields its environment."""
    tool = shutil.which("ssh-agent")
    if tool is None:
        missing("no ssh-agent here (Debian: openssh-client)")
    socket = tmp_path / "agent.sock"
    process = subprocess.Popen([tool, "-D", "-a", str(socket)], stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not socket.exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        environment = {"SSH_AUTH_SOCK": str(socket)}
        add = ["ssh-add", "-q", str(own_sshd.identity)]
        subprocess.run(add, check=True, env={**os.environ, **environment})
        yield environment
    finally:
        process.terminate()
        process.wait(timeout=10)


def commands() -> list[str]:
    """The commands of the README's blocks, in order, without those that train."""
    found = re.findall(r"^(?:    |)(edge-harness [^#\n]+?)(?:  +#.*)?$", README, re.MULTILINE)
    return [one for one in found if " ... " not in one and "|" not in one]


def toml(name: str) -> str:
    """The README's TOML file of this name."""
    (text,) = re.findall(
        rf"^```toml\n# {re.escape(name)}\n(.*?)^```", README, re.MULTILINE | re.DOTALL
    )
    return str(text)


@pytest.mark.usefixtures("work_folder")
def test_the_readme_word_by_word(
    tmp_path: Path, own_sshd: LoopbackSshd, agent: dict[str, str]
) -> None:
    home, project = tmp_path / "home", tmp_path / "project"
    project.mkdir()
    home.mkdir()
    for name in ("model", "main", "branch"):
        shutil.copy(DATA / "digits.tflite", project / f"{name}.tflite")
    for name in ("calibration", "evaluation"):
        shutil.copy(DATA / f"digits_{name}.npz", project / f"{name}.npz")
    key = ["ssh-keygen", "-lf", str(own_sshd.folder / "host_key.pub")]
    listed = subprocess.run(key, capture_output=True, text=True, check=True)
    fingerprint = listed.stdout.split()[1]

    def typed(command: str, code: int | None = 0) -> str:
        words = shlex.split(command.replace(BOARD, own_sshd.uri))[1:]
        if words[0] in {"bench", "add"}:
            # The reader types yes to the question that shows the key.
            words += ["--yes-key", fingerprint]
        said: str = edge(home, *words, cwd=project, code=code, **agent)
        return said

    order = commands()
    assert [shlex.split(one)[1] for one in order] == [
        *("bench", "add", "run", "show", "report", "gate"),
    ]
    bench, add, run, show, report, gate = order
    # A new board has no runtime: the command that is printed installs it, as it is typed.
    said = typed(bench, code=None)
    if "no_runtime" in said:
        (hint,) = set(re.findall(r"`(edge-harness setup [^`]+)`", said))
        assert "installed ai_edge_litert" in typed(hint)
        said = typed(bench)
    assert re.search(r"as_is +\S+ +ok ", said)
    # doctor may find something to fix on this machine; the device is added all the same.
    assert "wrote [device.bench-pi] to" in typed(add, code=None)
    for command in re.findall(r"`(edge-harness (?:setup|doctor) bench-pi)`", README):
        typed(command, code=0 if "setup" in command else None)

    typed("edge-harness init")
    assert {"plan.toml", "farm.toml"} <= {path.name for path in project.iterdir()}
    plan = toml("plan.toml").replace("saved_model", "model.tflite")
    (project / "plan.toml").write_text(f"{plan}\n[dose]\nlaunches = 3\n", encoding="utf-8")
    measured = typed(run)
    (run_id,) = re.findall(r"^run (\S+) in", measured, re.MULTILINE)
    assert measured.count("bench-pi") >= 5
    table = typed(show)
    for recipe in ("float32", "float16", "dynamic", "int8", "int16x8"):
        for device in ("this-machine", "bench-pi"):
            assert re.search(rf"\| kws \| {recipe} \| {device} \| ok \|", table)
    typed(report)
    assert "<table" in (project / "page.html").read_text(encoding="utf-8")
    # Both sides are the same bytes, so nothing has to be measured.
    assert "identical" in typed(gate)
    chosen = typed(f"edge-harness pick {run_id} --minimize latency_p50_ms --where 'accuracy>=0.9'")
    assert "best" in chosen
