"""The training loop: the same seed gives the same result, a broken model is refused, not written."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.slow, pytest.mark.timeout(600)]

SCRIPT = """
import json, os, sys, tempfile
os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
from pathlib import Path
import numpy as np, tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import tf_keras
from harness.errors import RecipeError
from harness.optimize.training import fit, models, objectives, offers, strategy
from harness.protocols import Artifact, StepData

generator = np.random.default_rng(0)
X = generator.normal(size=(200, 6)).astype(np.float32)
Y = (X[:, 0] + X[:, 1] > 0).astype(np.int64) + (X[:, 2] > 0)
DEFAULTS = {item.name: item.default for item in offers.training(epochs=4)}
TWO = lambda: strategy.Place(
    strategy=tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]), description="2 stand-ins, mirrored"
)

def net(activation="softmax", units=3):
    x = tf_keras.Input((6,), name="x")
    h = tf_keras.layers.Dense(8, trainable=False)(x)
    h = tf_keras.layers.ReLU()(tf_keras.layers.BatchNormalization()(h))
    return tf_keras.Model(x, tf_keras.layers.Dense(units, activation=activation)(h))

tf_keras.utils.set_random_seed(3)
PATH = Path(tempfile.mkdtemp()) / "net.h5"
net().save(str(PATH))
SOURCE = Artifact(path=PATH, form="h5")

def trained(seed=1, x=X, y=Y, choose=strategy.strategy, **over):
    with fit.prepared(seed, choose) as place:
        model = models.load(SOURCE)
        data = StepData(training={"x": x, "y": y}, seed=seed)
        task = fit.task(model, data, fit.settings({**DEFAULTS, **over}), place)
        result = fit.fit(model, task)
        momenta = [l.momentum for l in model.layers if hasattr(l, "momentum")]
        return [w.tolist() for w in model.get_weights()], result, fit.evaluate(model, task)[0], momenta

def refusal(**over):
    try:
        trained(**over)
    except RecipeError as error:
        return str(error)
    return ""

def judged(activation, labels, units=3):
    made = objectives.objective(net(activation, units), labels)
    return [made.kind, made.from_logits]

first, result, loss, momenta = trained(epochs=12, patience=2, learning_rate=0.5)
with fit.prepared(1) as place:
    model = models.load(SOURCE)
    task = fit.task(model, StepData(training={"x": X, "y": Y}, seed=1), fit.settings({**DEFAULTS, "epochs": 40}), place)
    fit.fit(model, task)
    again = [[w.tolist() for w in model.get_weights()]]
    before = fit.evaluate(model, task)[0]
    broken = fit.slower(task, 5.0)
    worse = fit.fit(model, broken)
    worst = [w.tolist() for w in model.get_weights()]
frozen = tf_keras.models.load_model(str(PATH), compile=False).layers[1].get_weights()[0]
NAN = X.copy(); NAN[:, 0] = 1e38
mirrored = trained(choose=TWO, epochs=25, learning_rate=0.02, validation=0.3)
print(json.dumps({
    "same": trained()[0] == trained()[0],
    "other": trained()[0] == trained(seed=2)[0],
    "stopped": [result.epochs, result.best],
    "worse": [worse.best, worse.notes[0], worse.loss == before],
    "kept": worst == again[0],
    "restored": [result.loss, loss],
    "momenta": momenta,
    "moved": float(np.abs(np.array(first[0]) - frozen).max()),
    "mirrored": [mirrored[1].notes[0], mirrored[1].accuracy],
    "tpu": strategy.strategy(lambda: tf.distribute.OneDeviceStrategy("CPU:0")).description,
    "alone": strategy.strategy(lambda: None).description,
    "nan": refusal(x=NAN * 10, learning_rate=1.0),
    "batch": refusal(batch=500),
    "classes": refusal(y=Y + 5),
    "shape": refusal(y=np.zeros((200, 2), np.float32)),
    "labels": refusal(y=None),
    "softmax": judged("softmax", Y),
    "logits": judged("linear", Y),
    "binary": judged("sigmoid", Y.clip(0, 1), 1),
    "arrays": judged("linear", np.zeros((200, 3), np.float32)),
}))
"""


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, timeout=500, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_the_same_seed_gives_the_same_weights(facts: dict[str, Any]) -> None:
    assert facts["same"] is True
    assert facts["other"] is False


def test_it_stops_early_with_the_best_weights(facts: dict[str, Any]) -> None:
    epochs, best = facts["stopped"]

    assert best <= epochs <= 12
    assert epochs == 12 or epochs == best + 2
    assert facts["restored"][0] == pytest.approx(facts["restored"][1])


def test_weights_from_before_training_are_kept_if_no_epoch_is_better(
    facts: dict[str, Any],
) -> None:
    best, note, same_loss = facts["worse"]

    assert best == 0
    assert "none better than before training" in note
    assert same_loss
    assert facts["kept"] is True


def test_frozen_layers_learn_and_momenta_are_restored(facts: dict[str, Any]) -> None:
    assert facts["moved"] > 0
    assert facts["momenta"] == [0.99]


def test_a_strategy_is_used_and_noted(facts: dict[str, Any]) -> None:
    note, accuracy = facts["mirrored"]

    assert note.endswith("on 2 stand-ins, mirrored")
    assert accuracy > 0.6
    assert facts["tpu"] == "TPU, 1 core"
    assert facts["alone"] == "processors"


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("nan", "use a smaller learning_rate"),
        ("batch", "fewer than a batch of 500: give more data or batch=180"),
        ("classes", "has classes 5 to 7; the model has 3"),
        ("shape", "give integer classes, or arrays of the output's shape"),
        ("labels", 'no labels: give them under the key "y"'),
    ],
)
def test_a_task_that_cannot_be_learned_is_refused(
    facts: dict[str, Any], key: str, message: str
) -> None:
    assert message in facts[key]


def test_the_loss_follows_labels_and_last_activation(facts: dict[str, Any]) -> None:
    assert facts["softmax"] == ["classes", False]
    assert facts["logits"] == ["classes", True]
    assert facts["binary"] == ["binary", False]
    assert facts["arrays"] == ["arrays", True]
