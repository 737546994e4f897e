"""Print the tables of docs/payload.md: `python benchmarks/payload_tables.py FOLDER`.

Trains the demo's CNN again from its seed, changes its weights in the ways that the tables name,
builds int8 files of them and packs everything. Needs TensorFlow; takes a few minutes.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from harness import api
from harness.demo import train_digits
from harness.tflite.payload import payload_report

CALIBRATION = 200
KINDS = {"plain": "", "pruned": ", 80 % of each kernel zero", "clustered": ", 16 values a kernel"}
CHANGES = {
    "last": "one more epoch of the last layer",
    "all": "one more epoch of all layers, rate 1e-4",
}


def models(digits: train_digits.Digits) -> Iterator[tuple[str, Any]]:
    """The trained model, then the same model with other weights, by name."""
    model = train_digits.train(digits)
    weights = [array.copy() for array in model.get_weights()]
    yield "plain", model
    for name, trained in (("last", lambda layer: layer.name == "scores"), ("all", bool)):
        model.set_weights(weights)
        _one_epoch(model, digits, trained)
        yield name, model
    for name, change in (("pruned", _pruned), ("clustered", _clustered)):
        model.set_weights([change(array) if array.ndim > 1 else array for array in weights])
        yield name, model


def _one_epoch(model, digits: train_digits.Digits, trained: Callable[[Any], bool]) -> None:  # noqa: ANN001 - keras carries no types
    import keras

    for layer in model.layers:
        layer.trainable = trained(layer)
    loss = keras.losses.SparseCategoricalCrossentropy()
    model.compile(optimizer=keras.optimizers.Adam(1e-4), loss=loss)
    model.fit(digits.train_x, digits.train_y, batch_size=train_digits.BATCH, verbose=0)


def _pruned(kernel: np.ndarray) -> np.ndarray:
    return np.where(np.abs(kernel) < np.quantile(np.abs(kernel), 0.8), 0, kernel)


def _clustered(kernel: np.ndarray) -> np.ndarray:
    values = np.quantile(kernel, np.linspace(0, 1, 16))
    return values[np.abs(kernel[..., None] - values).argmin(-1)].astype(kernel.dtype)


def built(model: Path, calibration: Path, out: Path) -> Path:
    (row,) = api.optimize(model, recipes=["int8"], calibration=str(calibration), out=out)
    return Path(row["file"])


def main(folder: Path) -> None:
    digits = train_digits.load()
    folder.mkdir(parents=True, exist_ok=True)
    for name, part in (
        ("these", slice(CALIBRATION)),
        ("others", slice(CALIBRATION, 2 * CALIBRATION)),
    ):
        np.savez(folder / f"{name}.npz", x=digits.train_x[part])
    files: dict[str, tuple[Path, Path]] = {}
    for name, model in models(digits):
        path = folder / f"{name}.tflite"
        path.write_bytes(train_digits.convert(model))
        files[name] = path, built(path, folder / "these.npz", folder / "int8")
    for kind, word in enumerate(("float32", "int8")):
        for name, text in KINDS.items():
            found = payload_report(files[name][kind])
            weights = found.huffman
            sizes = [found.size_bytes, *(one.bytes for one in found.packed)]
            three = [weights.weights_bytes, weights.coded_bytes, weights.entropy_bytes]
            columns = [*(f"{size:,}" for size in sizes), ", ".join(f"{size:,}" for size in three)]
            print(f"| {word}{text} | {' | '.join(columns)} |")
    print()
    other = built(files["plain"][0], folder / "others.npz", folder / "other")
    print(f"| calibrated with other images | - | {_change(other, files['plain'][1])} |")
    for name, text in CHANGES.items():
        cells = [_change(new, old) for new, old in zip(files[name], files["plain"], strict=True)]
        print(f"| {text} | {' | '.join(cells)} |")


def _change(new: Path, old: Path) -> str:
    found = payload_report(new, old, only=["zstd"])
    assert found.delta
    return f"{found.packed[0].bytes:,}, {found.delta.bytes:,} (`{found.delta.way}`)"


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    main(Path(sys.argv[1]))
