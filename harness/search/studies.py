"""Optuna's part: which recipe is drawn next, by NSGA-II in a study that processes share."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, StoreError
from harness.search import columns
from harness.search.folder import ASKING, Folder
from harness.search.records import Job, Tried

if TYPE_CHECKING:
    import optuna

_NAME = "search"
_LEAST_POPULATION, _MOST_POPULATION = 6, 50
_GENERATIONS = 4
"""So many generations are wanted of the trials there are."""
_MOST_MUTATION = 0.3
"""Probability that a variable is drawn anew. Of 40 trials on one range with a kink, over 8 seeds, the
worst best was 12.9 % off with this and 24 % off with Optuna's defaults."""
_PATIENCE = 4
"""A study asked so many times the trials gives little new: the search ends."""
_LOCK_SECONDS = 120
"""How long a process waits for another that writes the study."""
_VIOLATIONS = "violations"


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
            begun = self.done() + len(self._under_way())
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

    def mend(self) -> int:
        """Close the trials that a killed process left open and put them first in the line.

        Only while no process works on the study. Returns how many there were.
        """
        from optuna.trial import TrialState

        left = self._under_way()
        for trial in left:
            self._study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                self._study.enqueue_trial(trial.params, skip_if_exists=False)
        return len(left)

    def begin(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Put the first trials in the line, once in the life of a study."""
        if not self._study.get_trials(deepcopy=False):
            for point in points:
                self._study.enqueue_trial(dict(point))

    def _under_way(self) -> list[optuna.trial.FrozenTrial]:
        from optuna.trial import TrialState

        return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))

    def _worn_out(self) -> bool:
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
            f"sqlite:///{path}", engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}}
        )
    except Exception as error:  # of SQLAlchemy, alembic or sqlite3
        raise StoreError(f"{path}: cannot be opened: {error}") from error
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=_NAME,
            directions=columns.directions(job.search),
            load_if_exists=True,
        )
        study.sampler = _sampler(optuna, job, process, len(study.get_trials(deepcopy=False)))
        yield Study(study, job)
    finally:
        storage.remove_session()
        storage.engine.dispose()


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
