"""The one training loop that every training step uses.

    with fit.prepared(data.seed) as place:
        model = models.load(source)
        task = fit.task(model, data, fit.settings(parameters), place)
        ...                                     # wrap it, cut it: same inputs, same output
        result = fit.fit(changed, task)         # result.notes is for the artifact

The same seed gives the same result: Python, numpy and TensorFlow are seeded, operators run
deterministically, and the seed draws the batches. The learning rate falls along a half cosine to
zero over the epochs.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from harness.errors import RecipeError
from harness.optimize import library_errors
from harness.optimize.training import libraries, objectives
from harness.optimize.training import strategy as places
from harness.optimize.training.libraries import Keras
from harness.optimize.training.objectives import Array, Objective
from harness.protocols import StepData

LABELS = "y"
_SETTLED = 10.0
"""A moving average of momentum m no longer depends on its start after 10 / (1 - m) steps."""
_SHORT_MOMENTUM = 0.9
_TRIED_BATCHES = 30
"""After these, an average of momentum 0.9 keeps 4 % of its start."""
_MUCH_WORSE = 1.25


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingSettings:
    """The settings of the training; each is a parameter of every training step."""

    epochs: int
    batch: int
    learning_rate: float
    optimizer: str
    validation: float
    """Share of the training data that is held out to judge each epoch."""
    patience: int
    """Training stops after this many epochs without a better loss; 0 trains every epoch."""


def settings(given: Mapping[str, Any]) -> TrainingSettings:
    """Return the training settings from a step's parameters."""
    return TrainingSettings(**{name: given[name] for name in TrainingSettings.__dataclass_fields__})


@contextlib.contextmanager
def prepared(
    seed: int, choose: Callable[[], places.Place] = places.strategy
) -> Iterator[places.Place]:
    """Seed everything and enter the scope in which models are made.

    The state of earlier jobs in the process is cleared, so that a result depends only on its inputs
    and the seed.
    """
    tf, keras = libraries.tensorflow(), libraries.keras()
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    place = choose()
    with place.strategy.scope():
        yield place


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A training task: checked and split data, the loss, and the score before any change."""

    settings: TrainingSettings
    objective: Objective
    inputs: tuple[str, ...]
    train: tuple[tuple[Array, ...], Array]
    """The inputs in the model's order, and the labels."""
    held: tuple[tuple[Array, ...], Array] | None
    """The validation part; None if the training part is used to judge."""
    before: tuple[float, float | None]
    """Loss and accuracy of the step's source model on the judged part."""
    own_statistics: bool
    """Whether the model's batch-norm statistics differ from those of the training data."""
    place: places.Place
    seed: int

    @property
    def judged(self) -> tuple[tuple[Array, ...], Array]:
        """The part on which the losses in notes are computed."""
        return self.held or self.train

    @property
    def steps(self) -> int:
        """Batches per epoch; an incomplete last batch is left out until the next shuffle."""
        return len(self.train[1]) // self.settings.batch


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingResult:
    """The result of a training."""

    epochs: int
    """Number of epochs that ran."""
    best: int
    """The epoch whose weights were kept, counted from 1; 0 for the weights before training."""
    loss: float
    accuracy: float | None
    notes: tuple[str, ...]


def task(
    model: Keras,
    data: StepData,
    chosen: TrainingSettings,
    place: places.Place,
    *,
    score: bool = True,
) -> Task:
    """Check the training data against the model and split it.

    Args:
        model: The plain model, before it is wrapped or cut; its last layer determines the loss.
        data: With `training`: inputs by name (n, ...) and labels under "y".
        chosen: From `settings`.
        place: From `prepared`.
        score: Whether to score the model before training; False for an untrained one.

    Raises RecipeError: no labels, labels that do not fit the output, fewer samples than a batch.
    """
    columns, labels = _columns(model, data)
    objective = objectives.objective(model, labels)
    labels = objective.shaped(labels)
    order = np.random.default_rng(data.seed).permutation(len(labels))
    kept = round(len(labels) * chosen.validation)
    held, train = order[:kept], order[kept:]
    if len(train) < chosen.batch:
        raise RecipeError(
            f"the training data has {len(train)} samples to train on (of {len(labels)}, "
            f"{kept} held out), fewer than a batch of {chosen.batch}: give more data or "
            f"batch={max(1, len(train))}"
        )
    part = Task(
        settings=chosen,
        objective=objective,
        inputs=tuple(model.input_names),
        train=(tuple(column[train] for column in columns), labels[train]),
        held=(tuple(column[held] for column in columns), labels[held]) if kept else None,
        before=(math.nan, None),
        own_statistics=False,
        place=place,
        seed=data.seed,
    )
    if not score:
        return part
    before = evaluate(model, part)
    own = _own_statistics(model, part, before[0])
    return replace(part, before=before, own_statistics=own)


def slower(of: Task, learning_rate: float) -> Task:
    """Return the task with another learning rate, for a later stage of the same step."""
    return replace(of, settings=replace(of.settings, learning_rate=learning_rate))


def evaluate(model: Keras, of: Task) -> tuple[float, float | None]:
    """Return loss and accuracy (None if the labels are not classes) on the judged part."""
    columns, labels = of.judged
    answers = model.predict(list(columns), batch_size=max(of.settings.batch, 64), verbose=0)
    return of.objective.score(labels, answers)


@dataclass(slots=True)
class _State:
    """The state of the loop's callback."""

    best_loss: float = math.inf
    best_epoch: int = 0
    weights: list[Array] = field(default_factory=list)
    epochs: int = 0
    broken: str | None = None


def fit(
    model: Keras,
    of: Task,
    *,
    callbacks: Sequence[Keras] = (),
    first_best: int = 0,
    loss: Keras | None = None,
    what: str = "trained",
) -> TrainingResult:
    """Train the model in place; it ends with its best weights: those of an epoch, or its own.

    Args:
        model: A model with the inputs and the output of the task's model.
        of: From `task`.
        callbacks: Further Keras callbacks (pruning needs one).
        first_best: First epoch, counted from 1, that may be the best; 0 also allows the weights
            before training. A model that is being pruned must not return to a less sparse epoch.
        loss: Replaces the task's loss; not needed for a model with its own train_step.
        what: Beginning of the note.

    Raises RecipeError with the epoch and the batch if the loss is not finite.
    """
    keras = libraries.keras()
    chosen = of.settings
    total = of.steps * chosen.epochs
    with _settling(model, math.inf if of.own_statistics else total):
        model.compile(
            optimizer=_optimizer(chosen, total),
            loss=of.objective.loss() if loss is None else loss,
        )
        state = _State()
        if first_best == 0:
            _consider(model, of, state)
        watch = _watch(keras, model, of, state, first_best)
        try:
            model.fit(
                _batches(of),
                epochs=chosen.epochs,
                verbose=0,
                callbacks=[*callbacks, watch],
            )
        except libraries.tensorflow().errors.ResourceExhaustedError as error:
            raise RecipeError(
                f"training ran out of memory with batch={chosen.batch}: use a smaller batch "
                f"({library_errors.brief(error)})"
            ) from error
    if state.broken:
        raise RecipeError(state.broken)
    model.set_weights(state.weights)
    return _result(model, of, state, what)


def _result(model: Keras, of: Task, state: _State, what: str) -> TrainingResult:
    loss, accuracy = evaluate(model, of)
    early = f", stopped early of {of.settings.epochs}" if state.epochs < of.settings.epochs else ""
    part = "validation" if of.held else "training"
    best = f"best {state.best_epoch}" if state.best_epoch else "none better than before training"
    note = (
        f"{what}: {state.epochs} epochs{early}, {best}; {part} loss {_change(of.before[0], loss)}"
    )
    if accuracy is not None:
        note += f", accuracy {_change(of.before[1], accuracy)}"
    note += f"; {len(of.train[1])} samples, seed {of.seed}, on {of.place.description}"
    return TrainingResult(
        epochs=state.epochs,
        best=state.best_epoch,
        loss=loss,
        accuracy=accuracy,
        notes=(note,),
    )


def _change(before: float | None, after: float) -> str:
    if before is None or math.isnan(before):
        return f"{after:.4g}"
    return f"{before:.4g} -> {after:.4g}"


def _watch(keras: Keras, model: Keras, of: Task, state: _State, first_best: int) -> Keras:
    """Make the callback that stops on NaN, keeps the best epoch's weights and stops early."""

    class BestWeights(keras.callbacks.Callback):  # type: ignore[misc]
        def on_train_batch_end(self, batch: int, logs: Mapping[str, float] | None = None) -> None:
            loss = (logs or {}).get("loss", 0.0)
            if not math.isfinite(loss):
                state.broken = (
                    f"the training loss became {loss} in epoch {state.epochs + 1}, batch "
                    f"{batch + 1}: use a smaller learning_rate (it was "
                    f"{of.settings.learning_rate:g}), or look for NaN in the data"
                )
                self.model.stop_training = True

        def on_epoch_end(self, epoch: int, logs: Mapping[str, float] | None = None) -> None:
            del logs
            state.epochs = epoch + 1
            if state.broken or state.epochs < min(first_best, of.settings.epochs):
                return
            _consider(model, of, state)
            waited = state.epochs - state.best_epoch
            if of.settings.patience and waited >= of.settings.patience:
                self.model.stop_training = True

    return BestWeights()


def _consider(model: Keras, of: Task, state: _State) -> None:
    """Keep the model's weights if they are the best so far on the judged part."""
    judged = evaluate(model, of)[0]
    if judged < state.best_loss or not state.weights:
        state.best_loss, state.best_epoch = judged, state.epochs
        state.weights = model.get_weights()


def _batches(of: Task) -> Keras:
    """Return full batches in an order drawn by the seed, a new one in each epoch."""
    tf = libraries.tensorflow()
    columns, labels = of.train
    inputs = columns[0] if len(columns) == 1 else tuple(columns)
    data = tf.data.Dataset.from_tensor_slices((inputs, labels))
    shuffled = data.shuffle(len(labels), seed=of.seed, reshuffle_each_iteration=True)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
    return shuffled.batch(of.settings.batch, drop_remainder=True).with_options(options)


def _optimizer(chosen: TrainingSettings, total: int) -> Keras:
    optimizers = libraries.keras().optimizers
    rate = optimizers.schedules.CosineDecay(chosen.learning_rate, max(1, total))
    made: dict[str, Callable[[], Keras]] = {
        "adam": lambda: optimizers.Adam(rate),
        "sgd": lambda: optimizers.SGD(rate, momentum=0.9),
        "rmsprop": lambda: optimizers.RMSprop(rate),
    }
    return made[chosen.optimizer]()


@contextlib.contextmanager
def _settling(model: Keras, steps: float) -> Iterator[None]:
    """Lower the momentum of batch normalisations if there are too few steps for their own.

    With a momentum of 0.99 and 350 steps, a CNN scored 0.13 although its weights were good for 0.99:
    the moving averages lagged. Each layer's own momentum is restored afterwards.
    """
    short = [layer for layer in _normalisations(model) if steps * (1 - layer.momentum) < _SETTLED]
    kept = [layer.momentum for layer in short]
    for layer in short:
        layer.momentum = _SHORT_MOMENTUM
    try:
        yield
    finally:
        for layer, momentum in zip(short, kept, strict=True):
            layer.momentum = momentum


def _normalisations(model: Keras) -> list[Keras]:
    """Return the batch normalisations with a high momentum, wrapped or not."""
    kind = libraries.keras().layers.BatchNormalization
    return [
        layer
        for layer in model.submodules
        if isinstance(layer, kind) and layer.momentum > _SHORT_MOMENTUM
    ]


def _own_statistics(model: Keras, of: Task, before: float) -> bool:
    """Return whether a plain model does much worse with the training data's statistics than its own.

    Little training data, or data that was prepared differently, gives other statistics: the keyword
    model's loss doubles with those of 360 recordings. Such a model must not replace its own quickly.
    """
    if not _normalisations(model):
        return False
    kept = model.get_weights()
    with _settling(model, 0):
        for batch in _batches(of).take(_TRIED_BATCHES):
            model(batch[0], training=True)
    worse = evaluate(model, of)[0] > before * _MUCH_WORSE
    model.set_weights(kept)
    return worse


def _columns(model: Keras, data: StepData) -> tuple[tuple[Array, ...], Array]:
    """Return the inputs in the model's order, and the labels. Raises RecipeError."""
    given = dict(data.training or {})
    labels = given.pop(LABELS, None)
    if labels is None:
        raise RecipeError('the training data has no labels: give them under the key "y"')
    names = list(model.input_names)
    if set(names) == set(given):
        return tuple(given[name] for name in names), labels
    if len(names) != len(given):
        raise RecipeError(
            f"the training data has arrays for {', '.join(given)}; the model takes "
            f"{', '.join(names)}"
        )
    return tuple(given.values()), labels
