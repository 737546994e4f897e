"""Make the untrained MobileNetV2 224 once: `python make_mobilenet.py FOLDER` (needs TensorFlow).

    FOLDER/saved_model/        float, batch open
    FOLDER/int8.tflite         int8 in and out, by TFLiteConverter
    FOLDER/calibration.npz     "x": (20, 224, 224, 3) float32, random: weights are random too

Untrained weights measure time, memory and size only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    keras.utils.set_random_seed(0)
    keras.applications.MobileNetV2(weights=None).export(folder / "saved_model", verbose=False)
    x = np.random.default_rng(0).uniform(-1, 1, (20, 224, 224, 3)).astype(np.float32)
    np.savez(folder / "calibration.npz", x=x)

    def samples() -> Iterator[list[np.ndarray]]:
        for image in x:
            yield [image[None]]

    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder / "saved_model"))
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = samples
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = converter.inference_output_type = tf.int8
    (folder / "int8.tflite").write_bytes(converter.convert())
    (folder / "complete").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
