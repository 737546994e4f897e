"""Every architecture of keras.applications carried to tf-keras: the table of docs/carry.md.

    python benchmarks/carry_applications.py [NAME...]

Each in a process of its own: made with random weights, its batch-norm statistics drawn around those
of a fresh model (so that a mix-up shows and activations do not grow without bound), saved as .keras
and carried. Prints a line of Markdown each.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LIMIT_SECONDS = 900

ONE = """
import os, sys, tempfile
from pathlib import Path
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", CUDA_VISIBLE_DEVICES="-1", TF_USE_LEGACY_KERAS="1")
import numpy as np, keras
from harness.errors import HarnessError
from harness.optimize.training import carry
name = sys.argv[1]
keras.utils.set_random_seed(1)
model = getattr(keras.applications, name)(weights=None)
chance = np.random.default_rng(1)
for layer in model.layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.set_weights([
            w + chance.normal(0, 0.1, w.shape) if (abs(w) < 0.5).all() else w * chance.uniform(0.8, 1.2, w.shape)
            for w in layer.get_weights()
        ])
with tempfile.TemporaryDirectory() as folder:
    path = Path(folder, "model.keras")
    model.save(path)
    layers, parameters = len(model.layers), model.count_params()
    del model
    try:
        told = f"{carry.carry(path, 'keras').difference:.1e}"
    except HarnessError as error:
        told = "refused: " + str(error).partition(": ")[2]
print(f"| {name} | {layers} | {parameters:,} | {told} |")
"""

NAMES = [
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "MobileNetV3Large",
    "EfficientNetB0",
    "EfficientNetB1",
    "EfficientNetB2",
    "EfficientNetB3",
    "EfficientNetB4",
    "EfficientNetB5",
    "EfficientNetB6",
    "EfficientNetB7",
    "EfficientNetV2B0",
    "EfficientNetV2B1",
    "EfficientNetV2B2",
    "EfficientNetV2B3",
    "EfficientNetV2S",
    "EfficientNetV2M",
    "EfficientNetV2L",
    "DenseNet121",
    "DenseNet169",
    "DenseNet201",
    "ResNet50",
    "ResNet101",
    "ResNet152",
    "ResNet50V2",
    "ResNet101V2",
    "ResNet152V2",
    "Xception",
    "InceptionV3",
    "InceptionResNetV2",
    "NASNetMobile",
    "NASNetLarge",
    "VGG16",
    "VGG19",
    "ConvNeXtTiny",
    "ConvNeXtSmall",
    "ConvNeXtBase",
]


def main() -> int:
    for name in sys.argv[1:] or NAMES:
        argv = [sys.executable, "-c", ONE, name]
        try:
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=LIMIT_SECONDS, cwd=ROOT, check=False
            )
        except subprocess.TimeoutExpired:
            print(f"| {name} | not ended after {LIMIT_SECONDS} s |", flush=True)
            continue
        last = (done.stdout.strip() or done.stderr.strip() or "nothing").splitlines()[-1]
        print(last if done.returncode == 0 else f"| {name} | {last} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
