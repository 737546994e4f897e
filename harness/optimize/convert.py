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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from harness import assets, hints
from harness.errors import HarnessError, RecipeError
from harness.optimize import aware, keras_files, library_errors, plain_graph, runtime
from harness.optimize import data as datasets
from harness.optimize.plain_graph import PlainGraph
from harness.tflite import flatbuffer, indices, kinds, numeric, rewrite

_MAX_SOURCE_ERROR = 0.01
"""||file - model|| / ||model||: conversion fuses and folds, it does not approximate."""
_MAX_ROUNDING_ERROR = 0.25
"""The same for a model with trained ranges: it rounds nearly as its int8 file does."""
_MIN_WEIGHT_SHARE = 0.5
"""Minimum share of the model's parameters; folded batch norms lose some, a failed freeze all."""
_MAX_HALF_ERROR = 0.1
"""The same for a model that computes in half precision: its own rounding comes on top."""
_PROBES = 2
_NAMED_STATES = 3
_STATE_IN_USE = (
    ": it uses state that the same inference has changed; make the state an input and an output of "
    "the model"
)
_ENDS = {"Placeholder"}
"""Operators that are named beside the unsupported one that they feed."""
_LOOKUPS = ("LookupTable", "HashTable", "MutableHashTable", "String", "Regex", "AsString")
"""Operators of layers that read text or look it up."""


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
    plain: PlainGraph | None = None
    """What the converter takes in place of `function`; None if it takes that."""
    notes: tuple[str, ...] = ()


def convert(order: Order, out: Path) -> tuple[str, ...]:
    """Write the float .tflite to `out` and return notes.

    Raises RecipeError: the model cannot be loaded, an open dimension, operators without a TFLite
    kernel (by name), outputs that differ from the model's. Raises HarnessError without TensorFlow.
    """
    tf = _tensorflow()
    traced = _made_plain(tf, _load(tf, order), order)
    data = _to_tflite(tf, traced, order)
    out.write_bytes(
        rewrite.frame(data, where=order.source.name, inputs=traced.inputs, outputs=traced.outputs)
    )
    facts = flatbuffer.read(out)
    _check_weights(traced, facts, order)
    compared = _same_as_source(tf, traced, out, facts, order) if order.verify else ()
    return (*_notes(traced), *compared)


def convert_aware(order: Order, out: Path, *, io: str) -> tuple[str, ...]:
    """Write the int8 .tflite of a model with trained ranges to `out` and return notes.

    Args:
        order: The model.
        out: Path of the result.
        io: `int8` or `float`, the dtype of the file's inputs and outputs.

    Raises as `convert`, and RecipeError for a model whose ends have no trained ranges.
    """
    tf = _tensorflow()
    try:
        traced = _load(tf, order)
    except RecipeError as error:
        if order.form != "keras":
            raise
        raise RecipeError(
            f"{error}; tf-keras does not read back a .keras file of a quantisation-aware model: "
            "save it as .h5 or as a SavedModel"
        ) from error
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.function])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if io == "int8":
        converter.inference_input_type = converter.inference_output_type = tf.int8
    data = run(converter, order)
    outputs = [name.removeprefix(aware.PREFIX) for name in traced.outputs]
    out.write_bytes(
        rewrite.frame(data, where=order.source.name, inputs=traced.inputs, outputs=outputs)
    )
    facts = flatbuffer.read(out)
    _check_weights(traced, facts, order)
    kept = "the trained ranges of the model are kept; no calibration data was used"
    if not order.verify:
        return (kept,)
    return (kept, *_same_as_source(tf, traced, out, facts, order, max_error=_MAX_ROUNDING_ERROR))


def source_form(path: Path) -> str:
    """Return the form of the model at a path: `keras`, `h5`, `saved_model` or `tflite`.

    Raises RecipeError for a path that is missing or is none of these.
    """
    if path.is_dir():
        if kinds.saved_model(path):
            return "saved_model"
        raise RecipeError(f"{path}: {kinds.other(path) or kinds.NO_SAVED_MODEL}")
    if not path.is_file():
        raise RecipeError(f"{path}: no such model; check the key path")
    if not os.access(path, os.R_OK):
        raise RecipeError(f"{path}: not readable; check its permissions")
    suffix = path.suffix.lower()
    form = _FORMS.get(suffix)
    if form is None:
        raise RecipeError(f"{path}: {kinds.other(path) or kinds.UNKNOWN}")
    really = _by_content(path)
    if really not in {None, form}:
        raise RecipeError(
            f"{path}: named {suffix}, but its content is that of a {_SUFFIXES[str(really)]} file; "
            f"rename it to {path.stem}{_SUFFIXES[str(really)]}"
        )
    return form


_FORMS = {".keras": "keras", ".h5": "h5", ".hdf5": "h5", ".tflite": "tflite", ".lite": "tflite"}
_SUFFIXES = {"keras": ".keras", "h5": ".h5", "tflite": ".tflite"}


def _by_content(path: Path) -> str | None:
    """Return the form that a file's first bytes show; None if they show none."""
    with path.open("rb") as file:
        head = file.read(8)
    if head.startswith(b"PK\x03\x04"):
        return "keras"
    if head.startswith(b"\x89HDF"):
        return "h5"
    return "tflite" if head[4:] == flatbuffer.IDENTIFIER else None


def _tensorflow() -> Any:  # noqa: ANN401 - untyped library
    try:
        import tensorflow as tf
    except ImportError as error:
        raise HarnessError(
            f"this model needs TensorFlow, which is not installed ({error}); "
            f"{assets.install_command('tensorflow')}"
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
        traced = trace_keras(tf, load_keras(order.source, order.form), order)
        own = keras_files.own_class(order.source, order.form)
        note = f'the class "{own}" is not here: converted as the graph of layers in the file'
        return replace(traced, notes=(note,)) if own else traced
    except _errors(tf) as error:
        raise RecipeError(
            f"{order.source}: the model cannot be loaded ({library_errors.brief(error)})"
        ) from error


def _trace_saved_model(tf: Any, order: Order) -> Traced:  # noqa: ANN401 - untyped library
    loaded = tf.saved_model.load(str(order.source))
    known = list(loaded.signatures)
    if not known and order.signature is None:
        return _trace_function(tf, loaded, order)
    name = order.signature or (
        known[0] if len(known) == 1 else rewrite.SIGNATURE if rewrite.SIGNATURE in known else None
    )
    if name is None or name not in known:
        raise RecipeError(
            f"{order.source}: "
            + (f'no signature "{name}"' if name else "no signature chosen")
            + f' (it has: {", ".join(known) or "none"}); choose one with the key "signature" '
            f"({hints.option('signature')})"
        )
    signature = loaded.signatures[name]
    takes = signature.structured_input_signature[1]
    names = tuple(sorted(takes))  # a SavedModel keeps them in a map, whose order changes
    gives = tuple(sorted(signature.structured_outputs))

    frozen = plain_graph.without_references(signature)

    def call(*arrays: Any) -> list[Any]:  # noqa: ANN401 - tensors
        if frozen is not None:  # in the order of the sorted names, inputs and outputs
            return list(tf.nest.flatten(frozen(*arrays)))
        outputs = signature(**dict(zip(names, arrays, strict=True)))
        return [outputs[key] for key in gives]

    specs = [_spec(tf, key, takes[key].shape, takes[key].dtype, order) for key in names]
    function = tf.function(call).get_concrete_function(*specs)
    return Traced(function=function, inputs=names, outputs=gives, keep=loaded)


def _trace_function(tf: Any, loaded: Any, order: Order) -> Traced:  # noqa: ANN401 - untyped library
    """Trace the only function of a SavedModel that has no signature."""
    found = [
        (name, made)
        for name in dir(loaded)
        if name == "__call__" or not name.startswith("_")
        for made in getattr(getattr(loaded, name, None), "concrete_functions", ())
    ]
    if len(found) != 1:
        names = dict.fromkeys(name for name, _ in found)
        raise RecipeError(
            f"{order.source}: the SavedModel has no signature, and not one function but "
            f"{len(found)} ({', '.join(names) or 'none'}); save it again with a signature: "
            "tf.saved_model.save(model, folder, signatures=FUNCTION.get_concrete_function(...))"
        )
    chosen = found[0][1]
    structure = chosen.structured_input_signature
    leaves = tf.nest.flatten(structure)
    taken = [i for i, leaf in enumerate(leaves) if isinstance(leaf, tf.TensorSpec)]
    inputs = tuple(str(leaves[i].name or f"input_{i}") for i in taken)

    def call(*arrays: Any) -> list[Any]:  # noqa: ANN401 - tensors
        fed = dict(zip(taken, arrays, strict=True))
        args, kwargs = tf.nest.pack_sequence_as(
            structure, [fed.get(i, leaf) for i, leaf in enumerate(leaves)]
        )
        return list(tf.nest.flatten(chosen(*args, **kwargs)))

    specs = [
        _spec(tf, name, leaves[i].shape, leaves[i].dtype, order)
        for i, name in zip(taken, inputs, strict=True)
    ]
    function = tf.function(call).get_concrete_function(*specs)
    outputs = chosen.structured_outputs
    keys = tuple(sorted(outputs)) if isinstance(outputs, Mapping) else ()
    count = len(function.outputs)
    gives = keys if len(keys) == count else tuple(f"output_{i}" for i in range(count))
    return Traced(function=function, inputs=inputs, outputs=gives, keep=loaded)


def trace_keras(tf: Any, model: Any, order: Order) -> Traced:  # noqa: ANN401 - untyped library
    """Trace a Keras model (of either library) as one function of fixed shapes."""
    inputs = tf.nest.flatten(getattr(model, "inputs", None) or [])
    if not inputs:
        raise RecipeError(
            f"{order.source}: the model has no declared inputs (a subclassed model); "
            "save it with model.export(folder) and give that SavedModel"
        )
    graph = getattr(model, "_functional", None) or model  # a Sequential model of Keras 3 has one
    structure = graph.input
    inputs = tf.nest.flatten(structure)
    names = tuple(str(item.name).split(":")[0] for item in inputs)
    outputs = keras_files.output_names(graph, len(tf.nest.flatten(graph.output)))
    keras_files.safe_names(model)

    def call(*arrays: Any) -> list[Any]:  # noqa: ANN401 - tensors
        packed = tf.nest.pack_sequence_as(structure, list(arrays))
        return list(tf.nest.flatten(model(packed, training=False)))

    specs = [
        _spec(tf, name, item.shape, item.dtype, order)
        for name, item in zip(names, inputs, strict=True)
    ]
    function = tf.function(call).get_concrete_function(*specs)
    return Traced(function=function, inputs=names, outputs=outputs, keep=model)


def load_keras(source: Path, form: str) -> Any:  # noqa: ANN401 - untyped library
    """Load a model with the Keras library that wrote it; neither library reads the other's models.

    Raises RecipeError for a file that is not a whole model, and the exceptions of Keras.
    """
    version = _keras_version(source, form)
    if version.startswith("2"):
        os.environ.setdefault("TF_USE_LEGACY_KERAS", "1")
        import tf_keras as keras

        keras_files.accept_any_name(keras)
    else:
        import keras
    with aware.loading(source, form):
        return keras_files.load(keras, source, form)


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
    kind = tf.dtypes.as_dtype(dtype)
    if kind == tf.string:
        raise RecipeError(
            f'{order.source}: the input "{name}" is text, and devices are measured with numbers; cut '
            "the layers that read text off (TextVectorization, StringLookup) and give the model that "
            "takes their numbers"
        )
    chosen = order.shape.get(name, order.shape.get("*"))
    if tf.TensorShape(shape).rank is None:
        if chosen is None:
            raise RecipeError(
                f'{order.source}: the input "{name}" has an open number of dimensions; choose them '
                f'with the key shape of the model: shape = {{ "{name}" = [1, N] }} '
                f"({hints.option('shape')})"
            )
        return tf.TensorSpec(list(chosen), kind)
    sizes = [-1 if size is None else int(size) for size in tuple(shape)]
    return tf.TensorSpec(rewrite.settle_shape(name, sizes, chosen, order.source.name), kind)


def _made_plain(tf: Any, traced: Traced, order: Order) -> Traced:  # noqa: ANN401 - untyped library
    """Return the traced model with a function that the converter takes."""
    try:
        return replace(traced, plain=plain_graph.make(tf, traced.function))
    except _errors(tf) as error:
        raise RecipeError(
            f"{order.source}: the model computes in half precision or keeps state, and cannot be "
            f"written without ({library_errors.brief(error)}); save it with the policy float32 and "
            "without stateful layers"
        ) from error


def _notes(traced: Traced) -> tuple[str, ...]:
    """Return notes on what the file does not have of its model."""
    plain, notes = traced.plain, list(traced.notes)
    if plain is not None and plain.widened:
        notes.append(f"the model computes in {' and '.join(plain.widened)}; the file in float32")
    if plain is not None and plain.stateful:
        shown = ", ".join(plain.stateful[:_NAMED_STATES])
        more = f" and {len(plain.stateful) - _NAMED_STATES} more"
        notes.append(
            "the model keeps state between inferences, and the file does not: each inference starts "
            f"from the saved state ({shown}{more if len(plain.stateful) > _NAMED_STATES else ''}); "
            "to carry it on, make the state an input and an output of the model"
        )
    return tuple(notes)


def _to_tflite(tf: Any, traced: Traced, order: Order) -> bytes:  # noqa: ANN401 - untyped library
    function = traced.plain.function if traced.plain else traced.function
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function])
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
            f"{order.source}: TFLiteConverter refuses the model ({library_errors.brief(error)})"
        ) from error


def _refusal(text: str, order: Order) -> str:
    """Name the unsupported operators; the converter's own text is pages long."""
    flex = _listed(r"TF Select ops:([^\n]*)", text)
    custom = _listed(r"Custom ops:([^\n]*)", text)
    named = sorted(
        {*flex, *custom, *re.findall(r"'tf\.(\w+)' op is (?:neither|illegal)", text)} - _ENDS
    )
    if not named:
        return (
            f"{order.source}: TFLiteConverter refuses the model ({library_errors.brief(text)}); its "
            "operators cannot be identified from that: leave out layers until it converts to find the one"
        )
    looks_up = [name for name in named if name.startswith(_LOOKUPS)]
    if looks_up:
        fix = (
            "tables and texts do not run on a device; look the numbers up before the model, and give "
            "the part of it that takes them"
        )
    elif custom or order.allow_flex:
        fix = "neither TFLite nor Flex has a kernel for it; replace the layer"
    else:
        fix = (
            "TFLite has no kernel for it; replace the layer, or set allow_flex = true in the "
            f"model ({hints.option('allow-flex')}; the device then needs a runtime with Flex)"
        )
    return f"{order.source}: unsupported operator {', '.join(named)}: {fix}"


def _listed(pattern: str, text: str) -> list[str]:
    found = re.search(pattern, text)
    return [name.strip() for name in found.group(1).split(",") if name.strip()] if found else []


def _check_weights(traced: Traced, facts: flatbuffer.FileFacts, order: Order) -> None:
    """Refuse a file with far fewer parameters than its model: it has lost its weights."""
    states = {id(variable) for variable in _states(traced)}
    captured = [
        variable.shape.num_elements() or 0
        for variable in traced.function.variables
        if id(variable) not in states
    ]
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
    *,
    max_error: float = _MAX_SOURCE_ERROR,
) -> tuple[str, ...]:
    """Run model and file on the same random inputs; refuse a file with different outputs."""
    if facts.why_not_runnable_on_host:
        return ("not compared with the source model",)
    ranges = indices.read(path)
    fed: dict[str, np.ndarray[Any, Any]] = {}
    reference: list[np.ndarray[Any, Any]] = []
    for small in (False, True):
        drawn = datasets.random_samples(facts.inputs, _PROBES, order.seed, ranges, small=small)
        fed = {
            # Of a quantised input, the model itself takes the real values.
            tensor.name: column.astype(tensor.dtype if tensor.scale is None else np.float32)
            for tensor, column in zip(
                facts.inputs, datasets.stack(drawn, facts.inputs).values(), strict=True
            )
        }
        try:
            reference = _outputs(tf, traced, facts, fed)
        except tf.errors.OpError as error:
            why = library_errors.brief(error)
            return (f"not compared with the source model, which refuses random inputs ({why})",)
        if _finite(reference) or not datasets.wide(facts.inputs, ranges):
            break
    if not _finite(reference):
        return ("the source model's own outputs on random inputs are not finite",)
    stored = {tensor.name: numeric.quantise(fed[tensor.name], tensor) for tensor in facts.inputs}
    answers = runtime.run(path, facts, stored)
    ours = [
        numeric.dequantise(answers[tensor.name], tensor).astype(np.float64)
        for tensor in facts.outputs
    ]
    shaped = [a.reshape(b.shape) for a, b in zip(ours, reference, strict=True)]
    apart = numeric.agreement(shaped, reference, classes=False).relative_error
    if traced.plain and traced.plain.widened:
        max_error = max(max_error, _MAX_HALF_ERROR)
    if not apart <= max_error:
        raise RecipeError(
            f"{order.source}: the outputs of the converted file differ from the model's "
            f"(relative error {apart:.3g} on random inputs, at most {max_error})"
            + (_STATE_IN_USE if traced.plain and traced.plain.stateful else "")
        )
    return ()


def _outputs(
    tf: Any,  # noqa: ANN401 - untyped library
    traced: Traced,
    facts: flatbuffer.FileFacts,
    arrays: Mapping[str, np.ndarray[Any, Any]],
) -> list[np.ndarray[Any, Any]]:
    """Run the model itself, each sample from its saved state; outputs as (n, ...) float64."""
    states = [(variable, variable.numpy()) for variable in _states(traced)]
    rows: list[list[np.ndarray[Any, Any]]] = []
    for i in range(_PROBES):
        fed = [
            tf.cast(arrays[tensor.name][i].reshape(numeric.fed_shape(tensor)), taken.dtype)
            for tensor, taken in zip(facts.inputs, traced.function.inputs, strict=False)
        ]
        answers = tf.nest.flatten(traced.function(*fed))
        rows.append([np.asarray(answer).astype(np.float64) for answer in answers])
        for variable, value in states:
            variable.assign(value)
    return [np.stack(column) for column in zip(*rows, strict=True)]


def _states(traced: Traced) -> list[Any]:
    """Return the variables that an inference of the model assigns."""
    names = traced.plain.stateful if traced.plain else ()
    return [item for item in traced.function.variables if item.name.split(":")[0] in names]


def _finite(arrays: Sequence[np.ndarray[Any, Any]]) -> bool:
    return all(np.isfinite(array).all() for array in arrays)
