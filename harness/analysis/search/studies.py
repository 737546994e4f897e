"""The study: Optuna's NSGA-II draws the next recipe; the processes of a search share the study."""

from __future__ import annotations

import functools
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness import assets, durable
from harness.analysis.search import columns
from harness.analysis.search.folder import ASKING, Folder
from harness.analysis.search.records import Job, TrialResult
from harness.analysis.search.space import key_of
from harness.errors import HarnessError, StoreError

if TYPE_CHECKING:
    import optuna

_NAME = "search"
_MIN_POPULATION, _MAX_POPULATION = 6, 50
_GENERATIONS = 4
"""The population size is chosen so that the trials make about this many generations."""
_MAX_MUTATION = 0.3
"""Probability that a variable is drawn anew. With 40 trials on one range with a kink, over 8 seeds,
the worst of the best results was 13 % off with this and 24 % off with Optuna's defaults."""
_MAX_DRAWS_PER_TRIAL = 4
"""The search ends after this many draws per wanted trial: further ones repeat known recipes."""
_LOCK_SECONDS = 120
"""How long a process waits for another that writes the study."""
_VIOLATIONS = "violations"
_FIXED = "fixed_params"
"""Optuna's key for the values that a queued trial must draw."""


class Study:
    """The study of one search, open in one process."""

    def __init__(self, study: optuna.Study, job: Job) -> None:
        """Wrap Optuna's study; call :func:`opened` instead."""
        self._study = study
        self._job = job
        self._folder = Folder(path=job.folder)

    def next(self) -> optuna.Trial | None:
        """Draw the next trial; None if enough are done or under way."""
        with self._folder.locked(ASKING):
            begun = self.done() + len(self._in_state("RUNNING"))
            if begun >= self.wanted or self._is_exhausted():
                return None
            durable.point("ask", self._folder.study)
            trial = self._study.ask()
            durable.point("asked", self._folder.study)
            return trial

    @property
    def wanted(self) -> int:
        """Number of recipes to try: the plan's trials, or all recipes if there are fewer."""
        size, trials = self._job.space.size(), self._job.search.trials
        return trials if size is None else min(size, trials)

    def done(self) -> int:
        """Count the recipes that have a result."""
        return len(self._folder.trials())

    def record(self, trial: optuna.Trial, result: TrialResult) -> None:
        """Write the end of a trial; the sampler uses it if all objectives are known."""
        from optuna.trial import TrialState

        search = self._job.search
        durable.point("tell", self._folder.study)
        trial.set_user_attr(_VIOLATIONS, [_violation(result, name) for name in columns.RULES])
        if result.status == "failed" or (result.doubt and not self._job.include_suspect):
            self._study.tell(trial, state=TrialState.FAIL)
        elif any(name not in result.values for name in search.objectives):
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, [result.values[name] for name in search.objectives])
        durable.point("told", self._folder.study)

    def begin(self) -> None:
        """Queue the trials that a killed process left open and those that precede the sampler.

        Call it only while no process works on the study. Known and queued recipes are not queued
        again.
        """
        from optuna.trial import TrialState

        space = self._job.space
        for trial in self._in_state("RUNNING"):
            self._study.tell(trial.number, state=TrialState.FAIL)
            drawn = {**trial.system_attrs.get(_FIXED, {}), **trial.params}
            if space.is_whole(drawn):
                self._study.enqueue_trial(drawn, skip_if_exists=False)
        known = {result.key for result in self._folder.trials()}
        known |= {key_of(space.recipe(t.system_attrs[_FIXED])) for t in self._in_state("WAITING")}
        for point in space.first(self.wanted):
            if key_of(space.recipe(point)) not in known:
                self._study.enqueue_trial(point, skip_if_exists=False)

    def _in_state(self, state: str) -> list[optuna.trial.FrozenTrial]:
        from optuna.trial import TrialState

        return self._study.get_trials(deepcopy=False, states=(TrialState[state],))

    def _is_exhausted(self) -> bool:
        """Return whether further draws would give no new recipe.

        All recipes of a small space were queued at the start, so an empty queue is the end of it.
        """
        size = self._job.space.size()
        if size is not None and size <= self._job.search.trials:
            return not self._in_state("WAITING")
        drawn = len(self._study.get_trials(deepcopy=False))
        return drawn >= _MAX_DRAWS_PER_TRIAL * max(self.wanted, _MIN_POPULATION)


@contextmanager
def opened(job: Job, *, process: int = 0) -> Iterator[Study]:
    """Open the study, or create it; its file is closed at the end.

    Raises HarnessError if Optuna is not installed, StoreError if the file cannot be used.
    """
    optuna = _library()
    path = Folder(path=job.folder).study
    try:
        storage = optuna.storages.RDBStorage(
            "sqlite:///study.db", engine_kwargs={"creator": functools.partial(_connect, path)}
        )
    except Exception as error:  # SQLAlchemy, alembic and sqlite3 have no common root
        raise _unusable(path, error) from error
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=_NAME,
            directions=columns.directions(job.search),
            load_if_exists=True,
        )
        study.sampler = _sampler(optuna, job, process, len(study.get_trials(deepcopy=False)))
        yield Study(study, job)
    except optuna.exceptions.StorageInternalError as error:
        raise _unusable(path, error) from error
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _connect(path: Path) -> sqlite3.Connection:
    """Open the file by its path: some characters of a path have another meaning in a URL.

    The write-ahead log spares each trial a dozen waits for the disk. A power cut can only lose what
    the sampler has learned: the results of the trials are in files of their own.
    """
    connection = sqlite3.connect(path, timeout=_LOCK_SECONDS, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
    except BaseException:
        connection.close()
        raise
    return connection


def _unusable(path: Path, error: Exception) -> StoreError:
    why = str(error).partition("\n")[0]
    return StoreError(
        f"{path}: cannot be used: {why}; free space or set permissions there, or remove it: --resume "
        "then continues from trials/, which has the results of all trials"
    )


def check_installed() -> None:
    """Raise HarnessError, with the command that installs it, if Optuna is missing."""
    _library()


def _library() -> Any:  # noqa: ANN401 - a module
    try:
        import optuna
    except ImportError as error:
        raise HarnessError(
            f"search needs optuna, which is not installed ({error}); "
            f"{assets.install_command('search')}"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampler(library: Any, job: Job, process: int, begun: int) -> Any:  # noqa: ANN401 - Optuna's
    """Make the NSGA-II sampler.

    One process draws the same recipes from the same plan; other processes and resumed searches draw
    others.
    """
    wanted = job.search.trials // _GENERATIONS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", library.exceptions.ExperimentalWarning)
        return library.samplers.NSGAIISampler(
            population_size=min(max(wanted, _MIN_POPULATION), _MAX_POPULATION),
            # The default crossover only swaps values, so a range would keep the values first drawn.
            # The default mutation would redraw a single variable in every trial, at random.
            crossover=library.samplers.nsgaii.BLXAlphaCrossover(),
            mutation_prob=min(_MAX_MUTATION, 1.0 / (len(job.space.variables) + 1)),
            seed=(job.seed * 1_000_003 + process * 10_007 + begun) % 2**32,
            constraints_func=_violations,
        )


def _violations(trial: optuna.trial.FrozenTrial) -> Sequence[float]:
    """Return how far each constraint is broken; Optuna calls it when a trial ends."""
    shares: Sequence[float] = trial.user_attrs.get(_VIOLATIONS, (0.0,) * len(columns.RULES))
    return shares


def _violation(result: TrialResult, name: str) -> float:
    return next((max(m.share, 1e-9) for m in result.misses if m.constraint == name), 0.0)
