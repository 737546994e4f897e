"""Recognise a model that was trained with simulated rounding, or quantised, before it came here.

Its float form is no yardstick: it computes with rounded weights, and a quantiser would measure new
ranges beside the trained ones. Only the bytes of the files are searched; nothing is loaded.
"""

from __future__ import annotations

import contextlib
import mmap
import zipfile
from collections.abc import Iterator
from pathlib import Path

from harness import assets
from harness.errors import HarnessError, RecipeError

FORM = "quantisation_aware"
"""The form of a model with trained ranges, whatever its file is."""
FAKE_QUANT = "FAKE_QUANT"
"""The operator of a .tflite that rounds in float."""
PREFIX = "quant_"
"""The library puts this before the name of a layer that it wraps."""
_WRAPPED = (b'"QuantizeWrapperV2"', b'"QuantizeWrapper"', b'"QuantizeLayer"')
_ANNOTATED = (b'"QuantizeAnnotate"',)
_NODES = (b"FakeQuantWithMinMax", b"fake_quant_with_min_max")
_BY_KERAS = (
    *(b'"QuantizedDTypePolicy"', b'"QuantizedFloat8DTypePolicy"'),
    *(b'"Int4DTypePolicy"', b'"GPTQDTypePolicy"', b'"AWQDTypePolicy"'),
)
_CONFIG = "config.json"
_MAX_CONFIG_BYTES = 1 << 28


def is_aware(path: Path, form: str) -> bool:
    """Return whether a trained model has trained ranges; False for a damaged file.

    Raises RecipeError for a model that is quantised in a way that no step can use: marked for
    training but not trained, or by Keras itself.
    """
    if form not in {"keras", "h5", "saved_model"}:
        return False
    if _has(path, form, _WRAPPED) or _has(path, form, _NODES):
        return True
    if _has(path, form, _ANNOTATED):
        raise RecipeError(
            f"{path.name} is marked for quantisation-aware training (quantize_annotate) but has no "
            "trained ranges; apply quantize_apply and train it, or give the model from before"
        )
    if _has(path, form, _BY_KERAS):
        raise RecipeError(
            f"{path.name} is quantised already, by Keras (model.quantize), and TFLite has no such "
            "layers; give the model from before that call"
        )
    return False


def refusal(step: str, name: str) -> str:
    """Return why a step does not take a model with trained ranges, and what to do."""
    return (
        f"{step} does not take {name}: it is trained with simulated int8 rounding already "
        "(quantisation-aware) and there is no float model to start from; use int8, which keeps the "
        "trained ranges, or give the model from before quantize_model"
    )


@contextlib.contextmanager
def loading(path: Path, form: str) -> Iterator[None]:
    """Make the library's wrappers known while a Keras model is loaded, if the file has any.

    Raises HarnessError if tensorflow-model-optimization is not installed and the file needs it.
    """
    if not _has(path, form, _WRAPPED):
        yield
        return
    try:
        import tensorflow_model_optimization as tfmot
    except ImportError as error:
        raise HarnessError(
            f"{path.name} has layers of tensorflow-model-optimization, which is not installed "
            f"({error}); {assets.install_command('train')}"
        ) from error
    with tfmot.quantization.keras.quantize_scope():
        yield


def _has(path: Path, form: str, marks: tuple[bytes, ...]) -> bool:
    """Return whether the description of the layers has one of the marks."""
    try:
        if form == "keras":
            with zipfile.ZipFile(path) as archive:
                small = archive.getinfo(_CONFIG).file_size <= _MAX_CONFIG_BYTES
                return small and _finds(archive.read(_CONFIG), marks)
        described = path / "saved_model.pb" if form == "saved_model" else path
        with (
            described.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return _finds(content, marks)
    except (OSError, KeyError, ValueError, RuntimeError, zipfile.BadZipFile):
        return False  # the conversion reports the fault


def _finds(content: bytes | mmap.mmap, marks: tuple[bytes, ...]) -> bool:
    return any(content.find(mark) >= 0 for mark in marks)
