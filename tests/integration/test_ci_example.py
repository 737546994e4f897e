"""The workflow of examples/ci, run step by step as GitHub does, with a loopback board.

`run:` steps are executed by bash with GitHub's options and files; `uses:` steps are replaced by what
they do: a clone, a folder for a cache, files that exist. The job is cancelled in the middle of the
gate, and then run again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from standins import graphs

from harness.analysis.gate.contest import CONFIRMING
from harness.demo.loopback_sshd import LoopbackSshd

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "examples" / "ci"
WORKFLOW: dict[str, Any] = yaml.safe_load((EXAMPLE / "gate.yml").read_text(encoding="utf-8"))
JOB: dict[str, Any] = WORKFLOW["jobs"]["gate"]
BASH = ("bash", "--noprofile", "--norc", "-eo", "pipefail")
INTERRUPTIBLE = (
    "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); "
    "os.execvp(sys.argv[1], sys.argv[1:])"
)
"""Runs a command that Ctrl-C ends, also if these tests run in the background."""

MODEL: str = JOB["env"]["MODEL"]
QUICK = "[dose]\nwarmup_seconds = 0.05\nmin_seconds = 0.05\n"
WAIT_SECONDS = 90.0


def git(folder: Path, *words: object) -> None:
    own = ("-c", "user.name=t", "-c", "user.email=t@example.org", "-c", "init.defaultBranch=main")
    subprocess.run(["git", *own, *map(str, words)], cwd=folder, check=True, capture_output=True)


@dataclass(kw_only=True)
class Runner:
    """A runner of one job: its folder, its caches, and the files that steps write for it."""

    root: Path
    upstream: Path
    attempt: int = 1
    caches: dict[str, Path] = field(default_factory=dict)
    artifacts: set[str] = field(default_factory=set)
    files: dict[str, Path] = field(default_factory=dict)
    """GITHUB_PATH, GITHUB_OUTPUT and GITHUB_ENV of the attempt."""
    summaries: dict[str, str] = field(default_factory=dict)
    outputs: dict[str, str] = field(default_factory=dict)

    @property
    def workspace(self) -> Path:
        return self.root / f"work-{self.attempt}"

    def job(self, cancel: int | None = None) -> dict[str, int]:
        """Run the job; `cancel` sends a signal in the middle of the gate. Return the exit codes."""
        codes: dict[str, int] = {}
        self.files = {
            name: self.root / f"{name}-{self.attempt}" for name in ("path", "output", "env")
        }
        for path in self.files.values():
            path.touch()
        for step in JOB["steps"]:
            if any(codes.values()) and step.get("if") != "always()":
                continue
            name = step["name"]
            if "uses" in step:
                self._use(step["uses"].partition("@")[0], step.get("with", {}))
                codes[name] = 0
            else:
                codes[name] = self._run(name, step["run"], cancel if name == "Gate" else None)
        self.attempt += 1
        return codes

    # --- uses: ----------------------------------------------------------------------------------

    def _use(self, action: str, given: dict[str, Any]) -> None:
        path = Path(self.expanded(str(given.get("path", "."))))
        key = self.expanded(str(given.get("key", "")))
        if action == "actions/checkout":
            assert given == {"fetch-depth": 0}
            git(self.root, "clone", "-q", self.upstream, self.workspace)
            git(self.workspace, "checkout", "-q", "origin/change")
        elif action in ("actions/cache", "actions/cache/restore"):
            keys = [key, self.expanded(given.get("restore-keys", key))]
            found = [self.caches[one] for one in self.caches if one.startswith(tuple(keys))]
            if found:
                shutil.copytree(found[-1], path, symlinks=True)
        elif action == "actions/cache/save":
            kept = self.root / f"cache-{len(self.caches)}"
            if path.exists():
                shutil.copytree(path, kept)
                self.caches[key] = kept
        else:
            assert action == "actions/upload-artifact"
            folders = [self.workspace / one for one in given["path"].split()]
            self.artifacts = {one.name for folder in folders for one in folder.rglob("*")}

    def expanded(self, text: str) -> str:
        """Replace the expressions that the workflow uses; any other one is an error."""
        known = {
            "github.workspace": str(self.workspace),
            "github.sha": "0" * 40,
            "github.run_attempt": str(self.attempt),
            "runner.os": "Linux",
            **{f"env.{name}": value for name, value in JOB["env"].items()},
        }
        while match := re.search(r"\$\{\{ *([\w.]+) *\}\}", text):
            text = text.replace(match[0], known[match[1]])
        return text

    # --- run: -----------------------------------------------------------------------------------

    def _run(self, name: str, script: str, cancel: int | None) -> int:
        file = self.root / f"step-{self.attempt}.sh"
        file.write_text(self.expanded(script), encoding="utf-8")
        summary = self.root / f"summary-{self.attempt}-{name}"
        summary.touch()
        path = [*self.files["path"].read_text().split(), os.environ["PATH"]]
        environment = {
            **os.environ,
            **{key: self.expanded(value) for key, value in JOB["env"].items()},
            "PATH": os.pathsep.join(path),
            "HOME": str(self.root),
            "XDG_CONFIG_HOME": str(self.root / "config"),
            "XDG_CACHE_HOME": str(self.root / "user-cache"),
            "GITHUB_ACTIONS": "true",
            "GITHUB_WORKSPACE": str(self.workspace),
            "GITHUB_BASE_REF": "main",
            "GITHUB_STEP_SUMMARY": str(summary),
            **{f"GITHUB_{key.upper()}": str(value) for key, value in self.files.items()},
        }
        log = self.root / f"log-{self.attempt}-{name}"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-c", INTERRUPTIBLE, *BASH, str(file)],
                cwd=self.workspace,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            try:
                if cancel is not None:
                    self._wait_for_launches(process)
                    process.send_signal(cancel)
                code = process.wait(WAIT_SECONDS)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
        self.summaries[name], self.outputs[name] = summary.read_text(), log.read_text()
        return code if code >= 0 else 128 - code  # as a shell says it

    def _wait_for_launches(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + WAIT_SECONDS
        while self.launches() < 3:
            assert process.poll() is None, self.root.joinpath("log-1-Gate").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def launches(self) -> int:
        """Count the stored launches of this attempt."""
        found = (self.workspace / "results" / "runs").glob("2*/launches.jsonl")
        return sum(len(path.read_bytes().splitlines()) for path in found)


@pytest.fixture(name="runner")
def _runner(tmp_path: Path, sshd: LoopbackSshd) -> Iterator[Runner]:
    """A runner whose tools are this environment, and a pull request that makes the model larger."""
    upstream = tmp_path / "upstream"
    shutil.copytree(EXAMPLE, upstream / "examples" / "ci")
    farm = (
        f'[device.board]\nprofile = "linux_x86_64"\naddress = "{sshd.uri}"\n'
        f'identity = "{sshd.identity}"\nknown_hosts = "{sshd.known_hosts}"\n'
        f'workdir = "{tmp_path / "board"}"\npython = "{sys.executable}"\n'
    )
    (upstream / "examples" / "ci" / "farm.toml").write_text(farm)
    plan = upstream / "examples" / "ci" / "plan.toml"
    plan.write_text(f"{plan.read_text()}max_pairs = 6\n\n{QUICK}")
    model = upstream / MODEL
    model.parent.mkdir()
    git(upstream, "init", "-q", "-b", "main")
    for branch, operators in (("main", 8), ("change", 12)):
        if branch != "main":
            git(upstream, "checkout", "-q", "-b", branch)
        graphs.chain(model, ["ADD"] * operators)
        git(upstream, "add", ".")
        git(upstream, "commit", "-q", "-m", branch)
    tools = tmp_path / "tools" / "bin"
    tools.mkdir(parents=True)
    (tools / "edge-harness").symlink_to(Path(sys.executable).parent / "edge-harness")
    made = Runner(root=tmp_path, upstream=upstream)
    made.caches["edge-harness-0.1.0-Linux"] = tools.parent
    yield made
    assert not [line for line in made.outputs.get("Set up", "").splitlines() if "pip" in line]


@pytest.mark.slow
@pytest.mark.parametrize(("cancel", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_the_job_is_cancelled_in_the_middle_and_continues(
    cancel: int, code: int, runner: Runner
) -> None:
    first = runner.job(cancel)
    gate_log = runner.outputs["Gate"]
    assert (first["Set up"], first["Doctor"]) == (0, 0), runner.outputs
    assert first["Gate"] == code, gate_log
    assert {"doctor.xml", "gate.xml", "launches.jsonl"} <= runner.artifacts, gate_log
    summary = runner.summaries["Gate"]
    # The sizes are known already; the latency is not.
    assert summary.startswith("### edge-harness gate: REGRESSION, incomplete"), gate_log
    assert "--resume" in summary
    assert "::warning file=examples/ci/plan.toml,title=incomplete" in gate_log
    stopped = {case.attrib["name"].split()[-1]: case for case in _junit(runner, 1).iter("testcase")}
    assert stopped["size"].find("failure") is not None
    assert stopped["latency"].find("skipped") is not None
    assert stopped["complete"].find("error") is not None

    second = runner.job()
    gate_log = runner.outputs["Gate"]
    assert second["Gate"] == 1, gate_log
    assert runner.summaries["Gate"].startswith("### edge-harness gate: REGRESSION"), gate_log
    assert (
        "::error file=examples/ci/plan.toml,title=REGRESSION%3A model as_is on board%2C size::"
        in (gate_log)
    )
    cases = {case.attrib["name"].split()[-1]: case for case in _junit(runner, 2).iter("testcase")}
    assert cases["size"].find("failure") is not None
    assert float(cases["latency"].attrib["time"]) > 0
    (run,) = (runner.root / "work-2" / "results" / "runs").glob("2*")
    document = json.loads((run / "gate.json").read_text())
    row = next(one for one in document["rows"] if one["metric"] == "latency")
    assert row["pairs"] == 6
    timed = [json.loads(line) for line in (run / "launches.jsonl").read_text().splitlines()]
    kept = json.loads((runner.caches[_attempt(1)] / run.name / "run.json").read_text())
    assert kept["id"] == run.name, "the second attempt continued the first one's run"
    # A noisy machine may add pairs to confirm a difference.
    first = [one for one in timed if one.get("kind") == "timed" and one["block"] < CONFIRMING]
    assert len(first) == 12


def _attempt(number: int) -> str:
    return f"gate-{'0' * 40}-{number}"


def _junit(runner: Runner, attempt: int) -> ET.Element:
    return ET.parse(runner.root / f"work-{attempt}" / "reports" / "gate.xml").getroot()


def test_the_workflow_uses_only_actions_that_the_test_replaces() -> None:
    used = [step["uses"] for step in JOB["steps"] if "uses" in step]
    assert used == [
        "actions/checkout@v4",
        "actions/cache@v4",
        "actions/cache/restore@v4",
        "actions/cache/save@v4",
        "actions/upload-artifact@v4",
    ]
    assert WORKFLOW[True] == "pull_request"  # YAML 1.1 reads the key `on` as true
    last = next(step for step in JOB["steps"] if step["name"] == "Gate")["run"]
    assert re.search(r"^exec edge-harness gate", last, re.MULTILINE)
