"""Make a small CNN of about 200 us, and the same with a layer more: `python make_stack.py FOLDER`.

    FOLDER/stack.tflite        nine convolutions, float, 32 x 32 x 3
    FOLDER/stack_layer.tflite  ten

Untrained weights measure time only. Needs TensorFlow.
"""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import tensorflow as tf


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, layers in (("stack", 8), ("stack_layer", 9)):
        keras.utils.set_random_seed(1)
        x = inputs = keras.Input((32, 32, 3), batch_size=1)
        x = keras.layers.Conv2D(24, 3, strides=2, padding="same", activation="relu")(x)
        for _ in range(layers):
            x = keras.layers.Conv2D(24, 3, padding="same", activation="relu")(x)
        x = keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x))
        converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(inputs, x))
        (folder / f"{name}.tflite").write_bytes(converter.convert())
    (folder / "complete").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
