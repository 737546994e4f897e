"""Keras 3 models on the training side: what is right is taken, what is wrong is named."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(300)]

SCRIPT = """
import json, tempfile
from pathlib import Path
import keras, numpy as np
from harness.errors import RecipeError
from harness.optimize.training import carry, layer_conversion

keras.utils.set_random_seed(1)
layers = keras.layers
folder = Path(tempfile.mkdtemp())

def carried(name, model):
    path = folder / f"{name}.keras"
    model.save(path)
    try:
        return carry.carry(path, "keras").difference
    except RecipeError as error:
        return str(error)

def deep(gain):
    x = i = keras.Input((4, 4, 16))
    for _ in range(40):
        x = layers.Conv2D(64, 1, kernel_initializer=keras.initializers.RandomNormal(stddev=gain))(x)
        x = layers.Activation("tanh")(layers.BatchNormalization()(x))
    model = keras.Model(i, layers.Dense(3)(layers.Flatten()(x)))
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            layer.set_weights([np.random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
    return model

def nested():
    inner = keras.Sequential([keras.Input((8,)), layers.Dense(8, activation="relu"), layers.Dense(4)], name="inner")
    i = keras.Input((8,))
    return keras.Model(i, layers.Dense(2, name="last")(inner(layers.Dense(8, name="first")(i))))

facts = {"calm": carried("calm", deep(0.1)), "chaotic": carried("chaotic", deep(1.0)), "nested": carried("nested", nested())}

right = layer_conversion.ConvertedLayer.carry_weights
def wrong(made):
    right(made)
    if made.source.name in WRONG:
        made.layer.set_weights([weights * 1.01 for weights in made.layer.get_weights()])
layer_conversion.ConvertedLayer.carry_weights = wrong
for key in ("wrong last", "wrong inside"):
    model = nested()
    WRONG = {"last" if key == "wrong last" else model.get_layer("inner").layers[0].name}
    facts[key] = carried(key, model)
print(json.dumps(facts))
"""


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    environment = os.environ | {"TF_USE_LEGACY_KERAS": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    argv = [sys.executable, "-c", SCRIPT]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=280, check=False, env=environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


def test_a_copy_differs_by_rounding(facts: dict[str, Any]) -> None:
    assert facts["calm"] < 1e-5
    assert facts["nested"] < 1e-5


def test_a_model_that_amplifies_rounding_is_accepted_if_each_layer_is_right(
    facts: dict[str, Any],
) -> None:
    assert facts["chaotic"] > 1e-3


def test_a_layer_with_different_outputs_is_named(facts: dict[str, Any]) -> None:
    assert 'the layer "last" gives different outputs' in facts["wrong last"]
    assert 'the layer "inner" gives different outputs' in facts["wrong inside"]
