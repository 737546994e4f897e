"""Optuna's part: which recipe is drawn next, by NSGA-II in a study that processes share."""

from __future__ import annotations

import functools
import sqlite3
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.analysis.search import columns
from harness.analysis.search.folder import ASKING, Folder
from harness.analysis.search.records import Job, Tried
from harness.analysis.search.space import key_of
from harness.errors import HarnessError, StoreError

if TYPE_CHECKING:
    import optuna

_NAME = "search"
_LEAST_POPULATION, _MOST_POPULATION = 6, 50
_GENERATIONS = 4
"""So many generations are wanted of the trials there are."""
_MOST_MUTATION = 0.3
"""Probability that a variable is drawn anew. Of 40 trials on one range with a kink, over 8 seeds, the
worst best was 13 % off with this and 24 % off with Optuna's defaults."""
_PATIENCE = 4
"""A study asked so many times the trials gives little new: the search ends."""
_LOCK_SECONDS = 120
"""How long a process waits for another that writes the study."""
_VIOLATIONS = "violations"
_FIXED = "fixed_params"
"""Where Optuna keeps what a trial in the line is to draw."""


class Study:
    """The study of one search, open in one process."""

    def __init__(self, study: optuna.Study, job: Job) -> None:
        """Made by :func:`opened`."""
        self._study = study
        self._job = job
        self._folder = Folder(path=job.folder)

    def next(self) -> optuna.Trial | None:
        """Draw the next trial, or None where enough was tried."""
        with self._folder.locked(ASKING):
            begun = self.done() + len(self._in_state("RUNNING"))
            return None if begun >= self.wanted or self._worn_out() else self._study.ask()

    @property
    def wanted(self) -> int:
        """How many recipes are to be tried: the plan's trials, or all there are."""
        size, trials = self._job.space.size(), self._job.search.trials
        return trials if size is None else min(size, trials)

    def done(self) -> int:
        """Count the recipes that were tried, each once."""
        return len(self._folder.trials())

    def tell(self, trial: optuna.Trial, tried: Tried) -> None:
        """Write a trial's end; where all objectives are known the sampler learns of it."""
        from optuna.trial import TrialState

        search = self._job.search
        trial.set_user_attr(_VIOLATIONS, [_violation(tried, name) for name in columns.RULES])
        if tried.status == "failed":
            self._study.tell(trial, state=TrialState.FAIL)
        elif any(name not in tried.values for name in search.objectives):
            self._study.tell(trial, state=TrialState.PRUNED)
        else:
            self._study.tell(trial, [tried.values[name] for name in search.objectives])

    def begin(self) -> None:
        """Put in the line what a killed process left open, and what is tried before the sampler.

        Only while no process works on the study. What was tried or stands in the line stays.
        """
        from optuna.trial import TrialState

        space = self._job.space
        for trial in self._in_state("RUNNING"):
            self._study.tell(trial.number, state=TrialState.FAIL)
            drawn = {**trial.system_attrs.get(_FIXED, {}), **trial.params}
            if space.is_whole(drawn):
                self._study.enqueue_trial(drawn, skip_if_exists=False)
        known = {tried.key for tried in self._folder.trials()}
        known |= {key_of(space.recipe(t.system_attrs[_FIXED])) for t in self._in_state("WAITING")}
        for point in space.first(self.wanted):
            if key_of(space.recipe(point)) not in known:
                self._study.enqueue_trial(point, skip_if_exists=False)

    def _in_state(self, word: str) -> list[optuna.trial.FrozenTrial]:
        from optuna.trial import TrialState

        return self._study.get_trials(deepcopy=False, states=(TrialState[word],))

    def _worn_out(self) -> bool:
        """Say whether nothing new is to be had: all of a small space stood in the line."""
        size = self._job.space.size()
        if size is not None and size <= self._job.search.trials:
            return not self._in_state("WAITING")
        asked = len(self._study.get_trials(deepcopy=False))
        return asked >= _PATIENCE * max(self.wanted, _LEAST_POPULATION)


@contextmanager
def opened(job: Job, *, process: int = 0) -> Iterator[Study]:
    """Open the study, making it where it is not there, and let go of its file at the end.

    Raises HarnessError where Optuna is not installed, StoreError where the file cannot be used.
    """
    optuna = _library()
    path = Folder(path=job.folder).study
    try:
        storage = optuna.storages.RDBStorage(
            "sqlite:///study.db", engine_kwargs={"creator": functools.partial(_connect, path)}
        )
    except Exception as error:  # of SQLAlchemy, alembic or sqlite3
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
    """Open the file itself: in a URL some characters of a path would mean something else.

    A write-ahead log, so that a trial does not wait for the disk a dozen times. What a power cut
    takes of it is only what the sampler had learned: what was tried has files of its own.
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
        f"{path}: cannot be used: {why}; make room or rights there, or remove it: --resume then goes "
        "on from trials/, which has everything that was tried"
    )


def check_installed() -> None:
    """Raise HarnessError, with what to install, where Optuna is not there."""
    _library()


def _library() -> Any:  # noqa: ANN401 - a module
    try:
        import optuna
    except ImportError as error:
        raise HarnessError(
            f"search needs optuna, which is not installed ({error}); "
            "pip install 'edge-harness[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def _sampler(library: Any, job: Job, process: int, begun: int) -> Any:  # noqa: ANN401 - Optuna's
    """NSGA-II; processes and resumed searches draw differently, the same plan alone the same."""
    wanted = job.search.trials // _GENERATIONS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", library.exceptions.ExperimentalWarning)
        return library.samplers.NSGAIISampler(
            population_size=min(max(wanted, _LEAST_POPULATION), _MOST_POPULATION),
            # The default crossover only swaps values: a range would stay at those first drawn. And
            # with one variable it would mutate in every trial, which is drawing at random.
            crossover=library.samplers.nsgaii.BLXAlphaCrossover(),
            mutation_prob=min(_MOST_MUTATION, 1.0 / (len(job.space.variables) + 1)),
            seed=(job.seed * 1_000_003 + process * 10_007 + begun) % 2**32,
            constraints_func=_violations,
        )


def _violations(trial: optuna.trial.FrozenTrial) -> Sequence[float]:
    """Return how far each constraint is broken; Optuna asks for it when a trial ends."""
    told: Sequence[float] = trial.user_attrs.get(_VIOLATIONS, (0.0,) * len(columns.RULES))
    return told


def _violation(tried: Tried, name: str) -> float:
    return next((max(m.share, 1e-9) for m in tried.misses if m.constraint == name), 0.0)
