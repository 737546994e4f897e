"""Name the files and folders that are given in place of a model, with the way out.

Nothing is opened, and nothing heavy is imported: a plan is checked with it.
"""

from __future__ import annotations

from pathlib import Path

from harness.printable import file_name

UNKNOWN = "unknown kind of model; give .keras, .h5, a SavedModel folder or .tflite"
NO_SAVED_MODEL = "a folder without saved_model.pb is not a SavedModel"
_SAVED_MODELS = ("saved_model.pb", "saved_model.pbtxt")
_MODELS = (".keras", ".h5", ".hdf5", ".tflite", ".lite")
_PYTORCH = (
    "a PyTorch model; convert it where its code is, with the package litert-torch, and give the "
    ".tflite that it writes"
)
_CHECKPOINT = (
    'a checkpoint: weights without a model; save the whole model, with model.save("model.keras"), '
    "and give that"
)
_CORE_ML = "a Core ML model, which nothing here reads; give the model that it was made from"
_ARCHIVE = "an archive; unpack it and give the model in it"
_INCOMPLETE = "a SavedModel without its saved_model.pb; copy the whole folder again"
_FILES = {
    ".onnx": "an ONNX model; convert it, with the package onnx2tf, and give the .tflite that it writes",
    ".pb": (
        "a graph alone; write it as a SavedModel with TensorFlow 1's simple_save, and give that folder"
    ),
    ".pbtxt": "a graph alone; give the folder of the SavedModel that it is in",
    ".npz": "arrays without a model; give .keras, .h5, a SavedModel folder or .tflite",
    ".npy": "arrays without a model; give .keras, .h5, a SavedModel folder or .tflite",
    ".json": "a model's config without weights; give the .keras or .h5 file of the whole model",
    **dict.fromkeys((".pt", ".pth", ".pt2", ".ptl", ".torchscript"), _PYTORCH),
    **dict.fromkeys((".safetensors", ".ckpt", ".index", ".meta"), _CHECKPOINT),
    **dict.fromkeys((".mlmodel", ".mlpackage"), _CORE_ML),
    **dict.fromkeys((".zip", ".gz", ".tgz", ".tar", ".xz"), _ARCHIVE),
}
"""What a file holds that is no model of a kind that is read here, by suffix."""
_PARTS = {
    "model.weights.h5": "the unpacked content of a .keras file; give the .keras file itself",
    "variables": _INCOMPLETE,
    "keras_metadata.pb": _INCOMPLETE,
    "checkpoint": _CHECKPOINT,
}
"""What a folder holds that is no SavedModel, by a name in it."""


def saved_model(path: Path) -> Path | None:
    """Return the file with the graph of a SavedModel's folder; None for anything else."""
    try:
        return next((path / name for name in _SAVED_MODELS if (path / name).is_file()), None)
    except OSError:  # a folder that this user may not enter
        return None


def other(path: Path) -> str | None:
    """Say what a path holds that is no model, and what to give; None if nothing is known of it."""
    if path.is_dir():
        return _folder(path)
    if path.name in _SAVED_MODELS:
        return f"a part of a SavedModel; give its folder: {file_name(path.parent)}"
    return _FILES.get(path.suffix.lower())


def _folder(folder: Path) -> str | None:
    try:
        names = sorted(item.name for item in folder.iterdir())
    except OSError:
        return None
    for name, what in _PARTS.items():
        if name in names:
            return what
    if folder.suffix.lower() in _FILES:
        return _FILES[folder.suffix.lower()]
    inside = [name for name in names if saved_model(folder / name)]
    models = [name for name in names if Path(name).suffix.lower() in _MODELS]
    if inside:
        return f"the SavedModel is in the folder {file_name(folder / inside[0])}; give that"
    if models:
        return f"a folder, not a SavedModel; give a file in it: {file_name(folder / models[0])}"
    return None
