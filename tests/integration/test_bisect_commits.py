"""Commits of a real git repository: own worktrees, and the user's checkout stays unchanged."""

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

    def git(self, *arguments: str) -> str:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.invalid")
        done = subprocess.run(
            ["git", *identity, *arguments],
            cwd=self.root,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self, message: str, **files: str) -> str:
        for name, text in files.items():
            (self.root / name.replace("_", ".")).write_text(text)
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", message)
        return self.git("rev-parse", "HEAD")

    def state(self) -> tuple[str, ...]:
        """Return all user state that a bisection must not change."""
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
        return GateAnswer(verdict="bad" if value >= first_bad else "good", reason=f"value {value}")

    return oracle


def history(repository: Repository) -> list[str]:
    """Make six commits whose model is their number, and uncommitted changes of the user."""
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
    repository: Repository, folder: Path, path: str, good: str, **how: object
) -> BisectResult:
    folder.mkdir()
    points = Commits(repository.root, good, "HEAD", path=path, folder=folder, **how)  # type: ignore[arg-type]
    return search(points, by_text(4), max_pairs=20)  # type: ignore[arg-type]


def test_finds_the_commit_of_a_tracked_model(repository: Repository, tmp_path: Path) -> None:
    made = history(repository)
    before = repository.state()

    found = found_in(repository, tmp_path / "work", "model.tflite", made[0])

    assert found.first_bad is not None
    assert found.first_bad.name == made[4][:12]
    assert found.first_bad.title == "model 4"
    assert repository.state() == before
    assert not list((tmp_path / "work" / "worktrees").iterdir())


def test_builds_each_commit_in_its_own_worktree(repository: Repository, tmp_path: Path) -> None:
    made = history(repository)
    before = repository.state()

    found = found_in(repository, tmp_path / "work", "out/model.tflite", "HEAD~5", build=BUILD)

    assert found.first_bad is not None
    assert found.first_bad.name == made[4][:12]
    assert repository.state() == before
    assert not (repository.root / "out").exists()


def test_a_commit_that_does_not_build_is_skipped(repository: Repository, tmp_path: Path) -> None:
    good = repository.commit("0", value_txt="0", build_py=BUILDER)
    repository.commit("1", value_txt="1")
    repository.commit("broken", value_txt="broken")
    bad = repository.commit("4", value_txt="4")
    repository.commit("5", value_txt="5")
    before = repository.state()

    found = found_in(repository, tmp_path / "work", "out/model.tflite", good, build=BUILD)

    assert found.status == "untestable", "it may have been the broken one"
    assert bad[:12] in [point.name for point in found.remaining]
    assert any("cannot build this" in step.answer.reason for step in found.steps)
    assert repository.state() == before


def test_a_missing_file_or_a_link_out_of_the_worktree_is_untestable(
    repository: Repository, tmp_path: Path
) -> None:
    repository.commit("none", other_txt="x")
    (repository.root / "model.tflite").symlink_to("/etc/hostname")
    repository.commit("link")
    points = Commits(repository.root, "HEAD~1", "HEAD", path="model.tflite", folder=tmp_path)

    with pytest.raises(Untestable, match=r"has no model\.tflite"):
        points.model(0)
    with pytest.raises(Untestable, match="leads out"):
        points.model(1)


def test_hooks_do_not_run_and_a_hooks_environment_is_ignored(
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

    points = Commits(repository.root, made[0], made[5], path="model.tflite", folder=tmp_path)
    text = points.model(3).read_text()

    monkeypatch.undo()
    assert text == "model 3"
    assert not (tmp_path / "hooked").exists()
    assert repository.state() == before


def test_a_build_that_hangs_is_ended_with_its_child_processes(
    repository: Repository, tmp_path: Path
) -> None:
    good = repository.commit("0", value_txt="0")
    repository.commit("1", value_txt="1")
    mark = tmp_path / "alive"
    build = ["sh", "-c", f"(while :; do date > '{mark}'; sleep 0.05; done) & wait"]
    points = Commits(
        repository.root, good, "HEAD", path="m", folder=tmp_path, build=build, build_seconds=0.5
    )

    with pytest.raises(Untestable, match=r"not done after 0\.5 s"):
        points.model(0)

    mark.unlink()
    with pytest.raises(subprocess.TimeoutExpired):
        subprocess.run(
            ["sh", "-c", f"until [ -e '{mark}' ]; do sleep 0.05; done"], timeout=0.5, check=False
        )
    assert len(repository.git("worktree", "list").splitlines()) == 1


def test_refuses_invalid_ranges(repository: Repository, tmp_path: Path) -> None:
    made = history(repository)

    def opened(good: str, bad: str, path: str = "model.tflite", folder: Path | None = None) -> None:
        Commits(folder or repository.root, good, bad, path=path, folder=tmp_path)

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
