"""Knowledge distillation: a student is trained on a teacher's outputs as well as on the labels.

    loss = (1 - alpha) * task(student, labels) + alpha * T^2 * KL(teacher / T || student / T)

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network" (2015). With features, the
student's last feature map is also trained towards the teacher's, through a linear map that is
discarded afterwards (Romero et al., "FitNets", 2015). The loop does not use Keras 3.15's distiller:
that one computes its divergence on raw scores by default, and leaves the teacher frozen.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RecipeError
from harness.optimize import convert
from harness.optimize.training import carry, fit, libraries, objectives, replay
from harness.optimize.training.libraries import Keras
from harness.optimize.training.objectives import Objective

_TINY = 1e-7
_FEATURE_RANK = 3
_HINT_WEIGHT = 0.5
"""Weight of the distance between feature maps, which is relative to the teacher's mean square."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DistillSpec:
    """How the teacher's outputs enter the loss."""

    temperature: float
    alpha: float
    """Share of the teacher in the loss; the rest is the labels'."""
    features: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Teacher:
    """A trained model that is used for its outputs and never changed."""

    path: Path
    predict: Callable[[Any], Any]
    """From inputs to scores and the values of the last feature map (None without features)."""
    from_logits: bool
    feature_shape: tuple[int | None, ...] | None


def teacher(path: Path, student: Keras, *, features: bool) -> Teacher:
    """Load the teacher with the library that wrote it.

    Raises RecipeError: not a model of layers, other inputs or outputs than the student's.
    """
    model = carry.load(path, convert.source_form(path))
    if not getattr(model, "inputs", None):
        raise RecipeError(f"{path}: {replay.subclassed(model.name)}")
    _same_ends(path, model, student)
    outputs, shape = list(model.outputs), None
    if features:
        map_of_teacher = feature_map(model)
        if map_of_teacher is None:
            raise RecipeError(
                f"distill: the teacher {path.name} has no feature maps; features=false"
            )
        outputs.append(map_of_teacher)
        shape = tuple(map_of_teacher.shape)[1:]
    extended = _model_class(model)(model.inputs, outputs)

    def predict(inputs: Any) -> Any:  # noqa: ANN401 - tensors
        tf = libraries.tensorflow()
        answers = tf.nest.flatten(extended(tf.nest.flatten(inputs), training=False))
        stopped = [tf.stop_gradient(tf.convert_to_tensor(answer)) for answer in answers]
        return stopped[0], stopped[1] if features else None

    squash = objectives.last_activation(model)
    logits = squash not in {"softmax", "sigmoid"}
    return Teacher(path=path, predict=predict, from_logits=logits, feature_shape=shape)


def distill(student: Keras, task: fit.Task, of: Teacher, spec: DistillSpec) -> tuple[str, ...]:
    """Train the student in place; return notes. Raises RecipeError as `fit`."""
    model = _distillation_model(student, task.objective, of, spec)
    return fit.fit(model, task, what=f"distilled from {of.path.name}").notes


def feature_map(model: Keras) -> Keras:
    """Return the last tensor of a model with positions (height, width or time); None without one."""
    found = None
    for layer in model.layers:
        try:
            output = layer.output
        except AttributeError:  # called more than once, or an input
            continue
        if not isinstance(output, (list, tuple, dict)) and len(output.shape) > _FEATURE_RANK - 1:
            found = output
    return found


def _same_ends(path: Path, model: Keras, student: Keras) -> None:
    for what, theirs, ours in (
        ("inputs", model.inputs, student.inputs),
        ("outputs", model.outputs, student.outputs),
    ):
        shapes = [[tuple(tensor.shape)[1:] for tensor in tensors] for tensors in (theirs, ours)]
        if shapes[0] != shapes[1]:
            raise RecipeError(
                f"distill: the teacher {path.name} has {what} of shape {_listed(shapes[0])}, the "
                f"student {_listed(shapes[1])}; both have to be for the same task"
            )


def _listed(shapes: list[tuple[int | None, ...]]) -> str:
    return ", ".join(str(shape) for shape in shapes)


def _model_class(model: Keras) -> Keras:
    keras = libraries.keras()
    if isinstance(model, keras.Model):
        return keras.Model
    import keras as keras3

    return keras3.Model


def _distillation_model(
    student: Keras, objective: Objective, of: Teacher, spec: DistillSpec
) -> Keras:
    """Make a model around the student whose training step also uses the teacher's outputs."""
    tf = libraries.tensorflow()
    keras: Keras = libraries.keras()
    hints = _hints(student, of) if spec.features else None
    hard = objective.loss()
    softened = _Softened(from_logits=of.from_logits, temperature=spec.temperature)

    class DistillationModel(keras.Model):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.student = student
            self.hints = hints

        def call(self, inputs: Any, training: bool | None = None) -> Any:  # noqa: ANN401, FBT001 - Keras's own shape
            return self.student(inputs, training=training)

        def train_step(self, data: Any) -> dict[str, Any]:  # noqa: ANN401 - Keras's own shape
            inputs, labels = data
            answer, features = of.predict(inputs)
            with tf.GradientTape() as tape:
                own = None
                if self.hints is None:
                    scores = self.student(inputs, training=True)
                else:
                    scores, own = self.hints(inputs, training=True)
                loss = (1 - spec.alpha) * hard(labels, scores)
                loss += spec.alpha * _soft(tf, scores, answer, objective, softened)
                if own is not None:
                    loss += spec.alpha * _HINT_WEIGHT * _distance(tf, own, features)
                loss += tf.add_n(self.student.losses) if self.student.losses else 0.0
                shared = loss / tf.distribute.get_strategy().num_replicas_in_sync
            variables = self.trainable_variables
            self.optimizer.apply_gradients(
                zip(tape.gradient(shared, variables), variables, strict=True)
            )
            return {"loss": loss}

    made = DistillationModel()
    made(tuple(student.inputs) if len(student.inputs) > 1 else student.inputs[0])
    return made


@dataclass(frozen=True, slots=True, kw_only=True)
class _Softened:
    from_logits: bool
    temperature: float


def _soft(tf: Keras, scores: Keras, answer: Keras, objective: Objective, how: _Softened) -> Keras:
    """Return the distance of the student's softened output from the teacher's."""
    if objective.kind == "arrays":
        return tf.reduce_mean(tf.square(scores - answer))
    ours = _logits(tf, scores, objective, from_logits=objective.from_logits) / how.temperature
    theirs = _logits(tf, answer, objective, from_logits=how.from_logits) / how.temperature
    sure = tf.nn.log_softmax(theirs)
    apart = tf.reduce_sum(tf.exp(sure) * (sure - tf.nn.log_softmax(ours)), -1)
    return how.temperature**2 * tf.reduce_mean(apart)


def _logits(tf: Keras, scores: Keras, objective: Objective, *, from_logits: bool) -> Keras:
    """Return scores as logits of classes; softmax(log p) is p, so a logarithm inverts a softmax."""
    if objective.kind == "binary":
        if not from_logits:
            sure = tf.clip_by_value(scores, _TINY, 1 - _TINY)
            scores = tf.math.log(sure) - tf.math.log(1 - sure)
        return tf.concat([tf.zeros_like(scores), scores], -1)
    return scores if from_logits else tf.math.log(tf.clip_by_value(scores, _TINY, 1.0))


def _hints(student: Keras, of: Teacher) -> Keras:
    """Return the student with a second output: its last feature map in the teacher's shape."""
    keras = libraries.keras()
    own = feature_map(student)
    wanted = of.feature_shape
    if own is None or wanted is None or len(own.shape) != len(wanted) + 1:
        raise RecipeError(
            f"distill: the last feature maps of teacher {wanted} and student "
            f"{None if own is None else tuple(own.shape)[1:]} cannot be compared; features=false"
        )
    mapped = keras.layers.Dense(int(wanted[-1] or 1), name="hint")(own)
    sizes = tuple(own.shape)[1:-1]
    if sizes != tuple(wanted[:-1]):
        if len(sizes) != 2 or None in wanted:  # noqa: PLR2004 - height and width
            raise RecipeError(
                f"distill: feature maps of {sizes} and {tuple(wanted[:-1])} positions cannot be "
                "compared; features=false"
            )
        mapped = keras.layers.Resizing(int(wanted[0] or 1), int(wanted[1] or 1))(mapped)
    return keras.Model(student.inputs, [student.outputs[0], mapped])


def _distance(tf: Keras, own: Keras, theirs: Keras) -> Keras:
    scale = tf.reduce_mean(tf.square(theirs)) + _TINY
    return tf.reduce_mean(tf.square(own - theirs)) / scale
