"""Commits of a real git repository: worktrees of their own, the user's checkout untouched."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness.analysis.bisect import BisectResult, GateAnswer, Untestable, search
from harness.analysis.bisect.commits import Commits
from harness.errors import ConfigError

BUILD = [sys.executable, "build.py"]
BUILDER = """
import pathlib, sys
value = pathlib.Path("value.txt").read_text().strip()
if value == "broken":
    sys.exit("cannot build this")
pathlib.Path("out").mkdir()
pathlib.Path("out/model.tflite").write_text("built from " + value)
"""


class Repository:
    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")

    def git(self, *words: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
        done = subprocess.run(
            ["git", *identity, *words], cwd=self.root, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    def commit(self, message: str, **files: str) -> str:
        for name, text in files.items():
            (self.root / name.replace("_", ".")).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def state(self) -> tuple[str, ...]:
        """Everything of the user's that a search must not change."""
        files = sorted(
            (str(file.relative_to(self.root)), file.read_text())
            for file in self.root.rglob("*")
            if file.is_file() and ".git" not in file.parts
        )
        return (
            self.git("status", "--porcelain"),
            self.git("symbolic-ref", "HEAD"),
            self.git("for-each-ref"),
            self.git("worktree", "list", "--porcelain"),
            self.git("stash", "list"),
            str(files),
        )


@pytest.fixture(name="repository")
def _repository(tmp_path: Path) -> Repository:
    if shutil.which("git") is None:
        if os.environ.get("CI") == "true":
            pytest.fail("git is missing")
        pytest.skip("git is missing: apt-get install git")
    return Repository(tmp_path / "repo with blank")


def by_text(first_bad: int) -> object:
    def oracle(baseline: Path, candidate: Path, max_pairs: int) -> GateAnswer:
        value = int(candidate.read_text().rsplit(maxsplit=1)[-1])
        return GateAnswer(word="bad" if value >= first_bad else "good", reason=f"value {value}")

    return oracle


def history(repository: Repository) -> list[str]:
    """Six commits whose model is their number; the user is in the middle of something."""
    made = [
        repository.commit(
            f"model {n}", value_txt=str(n), model_tflite=f"model {n}", build_py=BUILDER
        )
        for n in range(6)
    ]
    (repository.root / "value.txt").write_text("the user's own change")
    (repository.root / "new.txt").write_text("not tracked")
    return made


def found_in(
    repository: Repository, space: Path, path: str, good: str, **how: object
) -> BisectResult:
    space.mkdir()
    points = Commits(repository.root, good, "HEAD", path=path, space=space, **how)  # type: ignore[arg-type]
    return search(points, by_text(4), max_pairs=20)  # type: ignore[arg-type]


def test_finds_the_commit_of_a_tracked_model(repository: Repository, tmp_path: Path) -> None:
    made = history(repository)
    before = repository.state()

    found = found_in(repository, tmp_path / "space", "model.tflite", made[0])

    assert found.first_bad is not None
    assert found.first_bad.name == made[4][:12]
    assert found.first_bad.title == "model 4"
    assert repository.state() == before
    assert not list((tmp_path / "space" / "worktrees").iterdir())


def test_builds_each_commit_in_its_own_worktree(repository: Repository, tmp_path: Path) -> None:
    made = history(repository)
    before = repository.state()

    found = found_in(repository, tmp_path / "space", "out/model.tflite", "HEAD~5", build=BUILD)

    assert found.first_bad is not None
    assert found.first_bad.name == made[4][:12]
    assert repository.state() == before
    assert not (repository.root / "out").exists()


def test_a_commit_that_does_not_build_is_stepped_around(
    repository: Repository, tmp_path: Path
) -> None:
    good = repository.commit("0", value_txt="0", build_py=BUILDER)
    repository.commit("1", value_txt="1")
    repository.commit("broken", value_txt="broken")
    bad = repository.commit("4", value_txt="4")
    repository.commit("5", value_txt="5")
    before = repository.state()

    found = found_in(repository, tmp_path / "space", "out/model.tflite", good, build=BUILD)

    assert found.status == "untestable", "it may have been the broken one"
    assert bad[:12] in [point.name for point in found.remaining]
    assert any("cannot build this" in step.answer.reason for step in found.steps)
    assert repository.state() == before


def test_a_commit_without_the_file_and_a_link_out_of_it_have_no_model(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit("none", other_txt="x")
    (repository.root / "model.tflite").symlink_to("/etc/hostname")
    repository.commit("link")
    points = Commits(repository.root, "HEAD~1", "HEAD", path="model.tflite", space=tmp_path)

    with pytest.raises(Untestable, match=r"has no model\.tflite"):
        points.model(0)
    with pytest.raises(Untestable, match="leads out"):
        points.model(1)


def test_hooks_and_a_hooks_environment_do_not_lead_back(
    repository: Repository, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = history(repository)
    hook = repository.root / ".git" / "hooks" / "post-checkout"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(f"#!/bin/sh\ntouch '{tmp_path}/hooked'\n")
    hook.chmod(0o755)
    before = repository.state()
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(tmp_path / "index"))

    points = Commits(repository.root, made[0], made[5], path="model.tflite", space=tmp_path)
    text = points.model(3).read_text()

    monkeypatch.undo()
    assert text == "model 3"
    assert not (tmp_path / "hooked").exists()
    assert repository.state() == before


def test_a_build_that_hangs_is_ended_with_what_it_started(
    repository: Repository, tmp_path: Path
) -> None:
    good = repository.commit("0", value_txt="0")
    repository.commit("1", value_txt="1")
    mark = tmp_path / "alive"
    build = ["sh", "-c", f"(while :; do date > '{mark}'; sleep 0.05; done) & wait"]
    points = Commits(
        repository.root, good, "HEAD", path="m", space=tmp_path, build=build, build_seconds=0.5
    )

    with pytest.raises(Untestable, match=r"not done after 0\.5 s"):
        points.model(0)

    mark.unlink()
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            ["sh", "-c", f"until [ -e '{mark}' ]; do sleep 0.05; done"], timeout=0.5, check=False
        )
    assert len(repository.git("worktree", "list").splitlines()) == 1


def test_refuses_what_is_no_range(repository: Repository, tmp_path: Path) -> None:
    made = history(repository)

    def opened(good: str, bad: str, path: str = "model.tflite", folder: Path | None = None) -> None:
        Commits(folder or repository.root, good, bad, path=path, space=tmp_path)

    with pytest.raises(ConfigError, match="is not before"):
        opened(made[3], made[1])
    with pytest.raises(ConfigError, match="is not before"):
        opened(made[3], made[3])
    with pytest.raises(ConfigError, match="no such commit"):
        opened("nowhere", "HEAD")
    with pytest.raises(ConfigError, match="not the name of a commit"):
        opened("--all", "HEAD")
    with pytest.raises(ConfigError, match="from the top of the repository"):
        opened(made[0], "HEAD", path="../x")
    with pytest.raises(ConfigError, match="not a git repository"):
        opened(made[0], "HEAD", folder=tmp_path)
