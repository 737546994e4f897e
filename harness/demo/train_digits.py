"""Train the embedded demo model on scikit-learn's handwritten digits and write its files.

    python -m harness.demo.train_digits --out harness/demo/data

Needs TensorFlow and scikit-learn; the demo itself needs neither, it uses the files written here:

- `digits.tflite`: float32, batch 1, input `image` (1, 8, 8, 1) in [0, 1], output `scores` (1, 10).
- `digits_training.npz` ("x", "y"), `digits_calibration.npz` ("x", a part of the training images),
  `digits_evaluation.npz` ("x", "y", never trained on); x is (n, 8, 8, 1) float32, y (n,) int64.
- `digits.json`: accuracy, seed, split and the versions that made them.

Seeds are fixed and TensorFlow's operators deterministic, so one machine gives one result; another
processor or TensorFlow rounds differently, and the accuracy moves by a few images (README.md).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SEED = 7
TEST_IMAGES = 540
CALIBRATION_IMAGES = 100
EPOCHS = 20
BATCH = 32
FULL_SCALE = 16.0
"""The largest value of a pixel: each counts the dark pixels of a 4 x 4 square, 0 to 16."""

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Digits:
    """The data set, split; x is (n, 8, 8, 1) float32 in [0, 1], y is (n,) int64 in 0..9."""

    train_x: Array
    train_y: Array
    test_x: Array
    test_y: Array


def load() -> Digits:
    """Load the 1,797 images and split them, stratified by class, with the fixed seed."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    data = load_digits()
    x = (data.images[..., None] / FULL_SCALE).astype(np.float32)
    y = data.target.astype(np.int64)
    train_x, test_x, train_y, test_y = train_test_split(
        x, y, test_size=TEST_IMAGES, random_state=SEED, stratify=y
    )
    return Digits(train_x=train_x, train_y=train_y, test_x=test_x, test_y=test_y)


def architecture(batch: int | None = None, width: float = 1.0) -> Any:  # noqa: ANN401 - keras carries no types
    """Make the untrained CNN: two plain convolutions, two depthwise-separable ones, one dense layer.

    `width` is the share of the channels.

    Plain, depthwise and pointwise convolutions react differently to quantisation, and the demo
    shows this. Batch normalisation is directly after each convolution, so that it can be folded and
    quantisation-aware training accepts the model.
    """
    import keras

    layers = keras.layers

    def normalised(convolution: Any, x: Any) -> Any:  # noqa: ANN401 - keras carries no types
        # Momentum 0.9: the default 0.99 does not converge in so few steps.
        x = layers.BatchNormalization(momentum=0.9)(convolution(x))
        return layers.ReLU()(x)

    few, more, most = (round(width * channels) for channels in (64, 96, 128))
    image = keras.Input((8, 8, 1), batch_size=batch, name="image")
    x = normalised(layers.Conv2D(few, 3, padding="same", use_bias=False), image)
    x = normalised(layers.Conv2D(few, 3, padding="same", use_bias=False), x)
    x = normalised(layers.DepthwiseConv2D(3, padding="same", use_bias=False), x)
    x = normalised(layers.Conv2D(more, 1, use_bias=False), x)
    x = normalised(layers.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False), x)
    x = normalised(layers.Conv2D(most, 1, use_bias=False), x)
    x = layers.GlobalAveragePooling2D()(x)
    scores = layers.Dense(10, activation="softmax", name="scores")(x)
    return keras.Model(image, scores, name="digits")


def train(digits: Digits, seed: int = SEED) -> Any:  # noqa: ANN401 - keras carries no types
    """Train the CNN from a seed; the learning rate falls along a cosine to zero."""
    import keras
    import tensorflow as tf

    keras.utils.set_random_seed(seed)
    tf.config.experimental.enable_op_determinism()
    model = architecture()
    steps = EPOCHS * -(-len(digits.train_x) // BATCH)
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss=keras.losses.SparseCategoricalCrossentropy(),
        metrics=["accuracy"],
    )
    model.fit(digits.train_x, digits.train_y, batch_size=BATCH, epochs=EPOCHS, verbose=0)
    return model


def convert(model: Any) -> bytes:  # noqa: ANN401 - keras carries no types
    """Convert the trained model to a float .tflite with a fixed batch of one and a signature."""
    import keras
    import tensorflow as tf

    single = architecture(batch=1)
    single.set_weights(model.get_weights())
    named = keras.Model(single.inputs[0], {"scores": single.outputs[0]})
    with contextlib.redirect_stdout(sys.stderr):  # the converter prints every tensor it saves
        content: bytes = tf.lite.TFLiteConverter.from_keras_model(named).convert()
    return content


def accuracy(content: bytes, x: Array, y: Array) -> float:
    """Measure the top-1 accuracy of a .tflite file on the LiteRT interpreter, in 0..1."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=content, num_threads=1)
    runner = interpreter.get_signature_runner()
    answers = [int(np.argmax(runner(image=image[None])["scores"])) for image in x]
    return float(np.mean(np.asarray(answers) == y))


def write(out: Path) -> dict[str, Any]:
    """Train, convert, check and write every file into `out`; return the contents of digits.json."""
    digits = load()
    model = train(digits)
    content = convert(model)

    out.mkdir(parents=True, exist_ok=True)
    (out / "digits.tflite").write_bytes(content)
    np.savez_compressed(out / "digits_training.npz", x=digits.train_x, y=digits.train_y)
    np.savez_compressed(out / "digits_calibration.npz", x=digits.train_x[:CALIBRATION_IMAGES])
    np.savez_compressed(out / "digits_evaluation.npz", x=digits.test_x, y=digits.test_y)
    record = {
        "model": "digits",
        "accuracy": round(accuracy(content, digits.test_x, digits.test_y), 4),
        "evaluation_images": len(digits.test_x),
        "training_images": len(digits.train_x),
        "calibration_images": CALIBRATION_IMAGES,
        "parameters": model.count_params(),
        "size_bytes": len(content),
        "seed": SEED,
        "epochs": EPOCHS,
        "versions": versions(),
    }
    (out / "digits.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    return record


def versions() -> dict[str, str]:
    """Return the versions of Python and the packages that affect the result."""
    from importlib.metadata import version

    packages = ("tensorflow", "keras", "numpy", "scikit-learn", "ai-edge-litert")
    return {"python": platform.python_version()} | {name: version(name) for name in packages}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description="Train the embedded demo model.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    options = parser.parse_args(argv)
    # Hide TensorFlow's start-up messages, which are not about the training.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    began = time.monotonic()
    record = write(options.out)
    print(json.dumps(record, indent=2))
    print(f"written into {options.out} in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
