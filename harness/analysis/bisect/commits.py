"""Commits of a git repository as points, each checked out and built in its own worktree.

The user's checkout, index and branches are never touched: a point is a detached worktree in a
temporary folder, without the repository's hooks, removed as soon as its model is copied out.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from harness.analysis.bisect.points import BisectPoint, Untestable
from harness.errors import ConfigError

BUILD_SECONDS = 3600.0
_GIT_SECONDS = 600.0
_SHOWN = 600
"""Characters of a program's last output in a message."""


class Commits:
    """Commits from a good one to a bad one along first parents; a model is built on first use."""

    def __init__(
        self,
        repository: Path,
        good: str,
        bad: str,
        *,
        path: str,
        folder: Path,
        build: Sequence[str] = (),
        build_seconds: float = BUILD_SECONDS,
    ) -> None:
        """Resolve the range; `path` is the model's path in the repository, `folder` an empty folder.

        Raises ConfigError if there is no repository, a commit is unknown, or the good one is not an
        ancestor of the bad one.
        """
        self._root = Path(_git(repository, "rev-parse", "--show-toplevel").strip())
        self._path = _path_in_repository(path)
        self._folder = folder
        self._build = tuple(build)
        self._build_seconds = build_seconds
        first, last = self._commit(good, "--good"), self._commit(bad, "--bad")
        if first == last or self._git_code("merge-base", "--is-ancestor", first, last) != 0:
            raise ConfigError(f"{good} is not before {bad} in the history of {self._root}")
        listed = _git(self._root, "rev-list", "--reverse", "--first-parent", f"{first}..{last}")
        self._commits = [first, *listed.split()]
        self._models: dict[int, Path] = {}
        self._points = [BisectPoint(name=one[:12], title=self._title(one)) for one in self._commits]

    @property
    def all(self) -> Sequence[BisectPoint]:
        """The commits, the good one first."""
        return self._points

    def model(self, at: int) -> Path:
        """Check the commit out, build it, copy the model out; raises Untestable if that fails."""
        if at not in self._models:
            self._models[at] = self._build_model(self._commits[at])
        return self._models[at]

    def _build_model(self, commit: str) -> Path:
        tree = self._folder / "worktrees" / commit[:12]
        tree.parent.mkdir(parents=True, exist_ok=True)
        _git(self._root, *_NO_HOOKS, "worktree", "add", "--quiet", "--detach", str(tree), commit)
        try:
            self._run_build(tree, commit)
            source = tree / self._path
            if not source.exists():
                raise Untestable(f"{commit[:12]} has no {self._path}")
            if not source.resolve().is_relative_to(tree.resolve()):
                raise Untestable(f"{commit[:12]}: {self._path} leads out of the worktree")
            kept = self._folder / "models" / commit[:12] / source.name
            kept.parent.mkdir(parents=True)
            if source.is_dir():
                shutil.copytree(source, kept)
            else:
                shutil.copyfile(source, kept)
            return kept
        finally:
            _git(self._root, "worktree", "remove", "--force", str(tree))

    def _run_build(self, tree: Path, commit: str) -> None:
        """Run the user's build in the worktree; end all its processes if it does not finish."""
        if not self._build:
            return
        try:
            process = subprocess.Popen(
                self._build,
                cwd=tree,
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(f"--build: {self._build[0]}: {error.strerror or error}") from error
        try:
            output, _ = process.communicate(timeout=self._build_seconds)
        except subprocess.TimeoutExpired as error:
            raise Untestable(
                f"{commit[:12]}: the build was not done after {self._build_seconds:g} s"
            ) from error
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
        if process.returncode != 0:
            last = output.decode("utf-8", "replace").strip()[-_SHOWN:]
            raise Untestable(f"{commit[:12]}: the build ended with {process.returncode}: {last}")

    def _commit(self, name: str, key: str) -> str:
        if not name or name.startswith("-"):
            raise ConfigError(f'{key} "{name}": not the name of a commit')
        try:
            return _git(
                self._root, "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"
            ).strip()
        except ConfigError as error:
            raise ConfigError(f'{key} "{name}": no such commit in {self._root}') from error

    def _git_code(self, *arguments: str) -> int:
        return _run_git(self._root, arguments).returncode

    def _title(self, commit: str) -> str:
        return _git(self._root, "show", "--no-patch", "--format=%s", commit).strip()


_NO_HOOKS = ("-c", f"core.hooksPath={os.devnull}")
"""The user did not make these checkouts, so the post-checkout hook must not run."""


_REPOSITORY_VARIABLES = {
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_CONFIG", "GIT_CONFIG_PARAMETERS", "GIT_DIR"),
    *("GIT_CONFIG_COUNT", "GIT_OBJECT_DIRECTORY", "GIT_WORK_TREE", "GIT_IMPLICIT_WORK_TREE"),
    *("GIT_GRAFT_FILE", "GIT_INDEX_FILE", "GIT_NO_REPLACE_OBJECTS", "GIT_REPLACE_REF_BASE"),
    *("GIT_PREFIX", "GIT_SHALLOW_FILE", "GIT_COMMON_DIR"),
}
"""Environment variables that point to one repository; `git rev-parse --local-env-vars` lists them."""


def _path_in_repository(path: str) -> PurePosixPath:
    plain = PurePosixPath(path)
    if plain.is_absolute() or ".." in plain.parts or not plain.parts:
        raise ConfigError(f"--path {path}: give the model's path from the top of the repository")
    return plain


def _environment() -> dict[str, str]:
    """Return the environment without a git hook's variables: they point to the user's checkout."""
    return {name: value for name, value in os.environ.items() if name not in _REPOSITORY_VARIABLES}


def _run_git(folder: Path, arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            env=_environment(),
            stdin=subprocess.DEVNULL,
            timeout=_GIT_SECONDS,
            check=False,
        )
    except FileNotFoundError as error:
        raise ConfigError("bisect over commits needs git in the PATH; install git") from error
    except subprocess.TimeoutExpired as error:
        raise ConfigError(
            f"git {' '.join(arguments)} in {folder} was not done after {_GIT_SECONDS:g} s"
        ) from error


def _git(folder: Path, *arguments: str) -> str:
    done = _run_git(folder, arguments)
    if done.returncode != 0:
        output = (done.stderr or done.stdout).strip()[-_SHOWN:]
        raise ConfigError(f"git {' '.join(arguments)} in {folder}: {output or 'failed'}")
    return done.stdout
