"""What a user without us writes: `python four_conversions.py SAVED_MODEL CALIBRATION.npz OUT`.

Four calls of TFLiteConverter, one process, one after the other; nothing is checked.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf


def main(saved_model: str, calibration: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    with np.load(calibration) as data:
        x = data["x"]

    def samples() -> Iterator[list[np.ndarray]]:
        for image in x:
            yield [image[None]]

    for recipe in ("float32", "float16", "dynamic", "int8"):
        converter = tf.lite.TFLiteConverter.from_saved_model(saved_model)
        if recipe != "float32":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if recipe == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if recipe == "int8":
            converter.representative_dataset = samples
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = converter.inference_output_type = tf.int8
        (out / f"{recipe}.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
