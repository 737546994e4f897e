"""Stage 1: TensorFlow converts a trained model to one float .tflite with a signature.

Runs only in a worker process. It traces the model as one function of fixed shapes and converts that
function: this measured fastest and fixes the batch. The trackable object is never passed to the
converter: with a Keras 3 model that call "succeeds" with variables that are not frozen, and the
file returns NaN.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import HarnessError, RecipeError
from harness.optimize import runtime, trust
from harness.tflite import flatbuffer, numeric, rewrite
from harness.types import Tensor

_MAX_SOURCE_ERROR = 0.01
"""||file - model|| / ||model||: conversion fuses and folds, it does not approximate."""
_MIN_WEIGHT_SHARE = 0.5
"""Minimum share of the model's parameters; folded batch norms lose some, a failed freeze all."""
_PROBES = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A model to convert, and how."""

    source: Path
    form: str
    shape: Mapping[str, Sequence[int]]
    signature: str | None
    allow_flex: bool
    verify: bool
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """A model as one function of fixed shapes; `keep` keeps its variables alive."""

    function: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    keep: Any


def convert(order: Order, out: Path) -> tuple[str, ...]:
    """Write the float .tflite to `out` and return notes.

    Raises RecipeError: the model cannot be loaded, an open dimension, operators without a TFLite
    kernel (by name), outputs that differ from the model's. Raises HarnessError without TensorFlow.
    """
    tf = _tensorflow()
    traced = _load(tf, order)
    data = _to_tflite(tf, traced, order)
    out.write_bytes(
        rewrite.frame(data, where=order.source.name, inputs=traced.inputs, outputs=traced.outputs)
    )
    facts = flatbuffer.read(out)
    _check_weights(traced, facts, order)
    return _same_as_source(tf, traced, out, facts, order) if order.verify else ()


def source_form(path: Path) -> str:
    """Return the form of the model at a path: `keras`, `h5`, `saved_model` or `tflite`.

    Raises RecipeError for a path that is missing or is none of these.
    """
    if path.is_dir():
        if (path / "saved_model.pb").is_file():
            return "saved_model"
        raise RecipeError(f"{path}: a folder without saved_model.pb is not a SavedModel")
    if not path.is_file():
        raise RecipeError(f"{path}: no such model; check the key path")
    if not os.access(path, os.R_OK):
        raise RecipeError(f"{path}: not readable; check its permissions")
    forms = {
        ".keras": "keras",
        ".h5": "h5",
        ".hdf5": "h5",
        ".tflite": "tflite",
        ".lite": "tflite",
    }
    form = forms.get(path.suffix.lower())
    if form is None:
        raise RecipeError(
            f"{path}: unknown kind of model; give .keras, .h5, a SavedModel folder or .tflite"
        )
    return form


def _tensorflow() -> Any:  # noqa: ANN401 - untyped library
    try:
        import tensorflow as tf
    except ImportError as error:
        raise HarnessError(
            f"this model needs TensorFlow, which is not installed ({error}); "
            "pip install 'edge-harness[tensorflow]'"
        ) from error
    return tf


def _errors(tf: Any) -> tuple[type[Exception], ...]:  # noqa: ANN401 - untyped library
    """Return the exceptions that TensorFlow and Keras raise for a model they cannot convert."""
    from tensorflow.lite.python.convert_phase import ConverterError

    return (
        OSError,
        ValueError,
        TypeError,
        AttributeError,
        KeyError,
        IndexError,
        RuntimeError,
        ImportError,
        tf.errors.OpError,
        ConverterError,
    )


def _load(tf: Any, order: Order) -> Traced:  # noqa: ANN401 - untyped library
    try:
        if order.form == "saved_model":
            return _trace_saved_model(tf, order)
        return trace_keras(tf, load_keras(order.source, order.form), order)
    except _errors(tf) as error:
        raise RecipeError(
            f"{order.source}: the model cannot be loaded ({type(error).__name__}: "
            f"{_short(str(error))})"
        ) from error


def _trace_saved_model(tf: Any, order: Order) -> Traced:  # noqa: ANN401 - untyped library
    loaded = tf.saved_model.load(str(order.source))
    known = list(loaded.signatures)
    name = order.signature or (
        known[0] if len(known) == 1 else rewrite.SIGNATURE if rewrite.SIGNATURE in known else None
    )
    if name is None or name not in known:
        raise RecipeError(
            f"{order.source}: "
            + (f'no signature "{name}"' if name else "no signature chosen")
            + f' (it has: {", ".join(known) or "none"}); choose one with the key "signature"'
        )
    signature = loaded.signatures[name]
    takes = signature.structured_input_signature[1]
    names = tuple(sorted(takes))  # a SavedModel keeps them in a map, whose order changes
    gives = tuple(sorted(signature.structured_outputs))

    def call(*arrays: Any) -> list[Any]:  # noqa: ANN401 - tensors
        outputs = signature(**dict(zip(names, arrays, strict=True)))
        return [outputs[key] for key in gives]

    specs = [_spec(tf, key, takes[key].shape, takes[key].dtype, order) for key in names]
    function = tf.function(call).get_concrete_function(*specs)
    return Traced(function=function, inputs=names, outputs=gives, keep=loaded)


def trace_keras(tf: Any, model: Any, order: Order) -> Traced:  # noqa: ANN401 - untyped library
    """Trace a Keras model (of either library) as one function of fixed shapes."""
    inputs = tf.nest.flatten(getattr(model, "inputs", None) or [])
    if not inputs:
        raise RecipeError(
            f"{order.source}: the model has no declared inputs (a subclassed model); "
            "save it with model.export(folder) and give that SavedModel"
        )
    names = tuple(str(item.name).split(":")[0] for item in inputs)
    structure = model.input

    def call(*arrays: Any) -> list[Any]:  # noqa: ANN401 - tensors
        packed = tf.nest.pack_sequence_as(structure, list(arrays))
        return list(tf.nest.flatten(model(packed, training=False)))

    specs = [
        _spec(tf, name, item.shape, item.dtype, order)
        for name, item in zip(names, inputs, strict=True)
    ]
    function = tf.function(call).get_concrete_function(*specs)
    known = list(getattr(model, "output_names", ()))
    count = len(function.outputs)
    outputs = known if len(set(known)) == count else [f"output_{i}" for i in range(count)]
    return Traced(function=function, inputs=names, outputs=tuple(outputs), keep=model)


def load_keras(source: Path, form: str) -> Any:  # noqa: ANN401 - untyped library
    """Load a model with the Keras library that wrote it; neither library reads the other's models.

    Raises RecipeError for a file that is not a whole model, and the exceptions of Keras.
    """
    version = _keras_version(source, form)
    if version.startswith("2"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
        import tf_keras as keras
    else:
        import keras
    return keras.models.load_model(str(source), compile=False, safe_mode=not trust.is_given())


def _keras_version(path: Path, form: str) -> str:
    try:
        if form == "keras":
            with zipfile.ZipFile(path) as archive:
                return str(json.loads(archive.read("metadata.json")).get("keras_version", "3"))
        import h5py  # type: ignore[import-untyped]

        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise RecipeError(
                    f"{path}: has weights only, no model; save the whole model "
                    "(model.save, not model.save_weights)"
                )
            version = file.attrs.get("keras_version", "2")
            return version.decode() if isinstance(version, bytes) else str(version)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise RecipeError(
            f"{path}: not a whole {form} file ({error}); save the model again"
        ) from error


def _spec(tf: Any, name: str, shape: Any, dtype: Any, order: Order) -> Any:  # noqa: ANN401 - untyped library
    sizes = [-1 if size is None else int(size) for size in tuple(shape)]
    chosen = order.shape.get(name, order.shape.get("*"))
    settled = rewrite.settle_shape(name, sizes, chosen, order.source.name)
    return tf.TensorSpec(settled, dtype, name=re.sub(r"[^A-Za-z0-9_.]", "_", name))


def _to_tflite(tf: Any, traced: Traced, order: Order) -> bytes:  # noqa: ANN401 - untyped library
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.function])
    if order.allow_flex:
        ops = tf.lite.OpsSet
        converter.target_spec.supported_ops = [ops.TFLITE_BUILTINS, ops.SELECT_TF_OPS]
    return run(converter, order)


def run(converter: Any, order: Order) -> bytes:  # noqa: ANN401 - untyped library
    """Convert; raises RecipeError with the names of the unsupported operators."""
    from tensorflow.lite.python.convert_phase import ConverterError

    try:
        return bytes(converter.convert())
    except ConverterError as error:
        raise RecipeError(_refusal(str(error), order)) from error
    except (ValueError, RuntimeError, TypeError) as error:
        raise RecipeError(
            f"{order.source}: TFLiteConverter refuses the model ({_short(str(error))})"
        ) from error


def _refusal(text: str, order: Order) -> str:
    """Name the unsupported operators; the converter's own text is pages long."""
    flex = _listed(r"TF Select ops:([^\n]*)", text)
    custom = _listed(r"Custom ops:([^\n]*)", text)
    named = sorted({*flex, *custom, *re.findall(r"'tf\.(\w+)' op is neither", text)})
    if not named:
        return f"{order.source}: TFLiteConverter refuses the model ({_short(text)})"
    if custom or order.allow_flex:
        fix = "neither TFLite nor Flex has a kernel for it; replace the layer"
    else:
        fix = (
            "TFLite has no kernel for it; replace the layer, or set allow_flex = true in the "
            "model (the device then needs a runtime with Flex)"
        )
    return f"{order.source}: unsupported operator {', '.join(named)}: {fix}"


def _listed(pattern: str, text: str) -> list[str]:
    found = re.search(pattern, text)
    return [name.strip() for name in found.group(1).split(",") if name.strip()] if found else []


def _check_weights(traced: Traced, facts: flatbuffer.FileFacts, order: Order) -> None:
    """Refuse a file with far fewer parameters than its model: it has lost its weights."""
    captured = [variable.shape.num_elements() or 0 for variable in traced.function.variables]
    arrived = sum(weight.elements for weight in facts.weights)
    if arrived < _MIN_WEIGHT_SHARE * sum(captured):
        raise RecipeError(
            f"{order.source}: only {arrived:,} of the model's {sum(captured):,} parameters are in "
            "the file: its variables were not frozen; export the model as a SavedModel"
        )


def _same_as_source(
    tf: Any,  # noqa: ANN401 - untyped library
    traced: Traced,
    path: Path,
    facts: flatbuffer.FileFacts,
    order: Order,
) -> tuple[str, ...]:
    """Run model and file on the same random inputs; refuse a file with different outputs."""
    if facts.why_not_runnable_on_host:
        return ("not compared with the source model",)
    generator = np.random.default_rng(order.seed)
    probes = [_noise(generator, tensor) for tensor in facts.inputs for _ in range(_PROBES)]
    arrays = {
        tensor.name: np.stack(probes[i * _PROBES : (i + 1) * _PROBES])
        for i, tensor in enumerate(facts.inputs)
    }
    theirs: list[list[np.ndarray[Any, Any]]] = []
    for i in range(_PROBES):
        fed = [
            tf.constant(arrays[tensor.name][i].reshape(numeric.fed_shape(tensor)))
            for tensor in facts.inputs
        ]
        theirs.append([output.numpy() for output in tf.nest.flatten(traced.function(*fed))])
    reference = [
        np.stack([row[j] for row in theirs]).astype(np.float64) for j in range(len(theirs[0]))
    ]
    if not all(np.isfinite(array).all() for array in reference):
        return ("the source model's own outputs on random inputs are not finite",)
    ours = [array.astype(np.float64) for array in runtime.run(path, facts, arrays).values()]
    shaped = [a.reshape(b.shape) for a, b in zip(ours, reference, strict=True)]
    error = numeric.agreement(shaped, reference, classes=False).relative_error
    if not error <= _MAX_SOURCE_ERROR:
        raise RecipeError(
            f"{order.source}: the outputs of the converted file differ from the model's "
            f"(relative error {error:.3g} on random inputs, at most {_MAX_SOURCE_ERROR})"
        )
    return ()


def _noise(generator: np.random.Generator, tensor: Tensor) -> np.ndarray[Any, Any]:
    shape = numeric.sample_shape(tensor)
    draw: Callable[..., np.ndarray[Any, Any]] = generator.normal
    if tensor.dtype.startswith("float"):
        return draw(size=shape).astype(tensor.dtype)
    return generator.integers(0, 2, size=shape).astype(tensor.dtype)


def _short(text: str, limit: int = 400) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]} ..."
