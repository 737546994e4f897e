"""Convert a model trained with simulated int8 rounding; it has its ranges, so none are calibrated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RecipeError
from harness.optimize import convert, runtime
from harness.optimize.training import fit, libraries, models
from harness.optimize.training.libraries import Keras
from harness.protocols import Artifact
from harness.tflite import flatbuffer, numeric, rewrite

Array = np.ndarray[Any, Any]
_COMPARED = 32
"""Samples for the comparison of file and model."""
_MAX_ERROR = 0.25
"""||file - model|| / ||model||: the simulation rounds nearly as the file does; garbage is over 1."""


def int8(
    emulated: Keras, plain: Keras, task: fit.Task, source: Artifact, workdir: Path, *, io: str
) -> Artifact:
    """Write the int8 .tflite of a trained model with simulated rounding.

    Args:
        emulated: From `quantised.quantise`.
        plain: The model before; its names become those of the file's inputs and outputs.
        task: From `fit.task`; its samples give the open dimensions and are used for the comparison.
        source: The step's source.
        workdir: Folder of the result.
        io: `int8` or `float`, the dtype of the file's inputs and outputs.

    Raises RecipeError if the converter refuses the model or the file's outputs differ from it.
    """
    models.finite(emulated)
    tf = libraries.tensorflow()
    out = workdir / "model.tflite"
    order = convert.Order(
        source=source.path,
        form=source.form,
        shape={
            name: (1, *column.shape[1:])
            for name, column in zip(task.inputs, task.train[0], strict=True)
        },
        signature=None,
        allow_flex=False,
        verify=False,
        seed=task.seed,
    )
    traced = convert.trace_keras(tf, emulated, order)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([traced.function])
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if io == "int8":
        converter.inference_input_type = tf.int8
        converter.inference_output_type = tf.int8
    data = convert.run(converter, order)
    out.write_bytes(
        rewrite.frame(
            data, where=source.path.name, inputs=traced.inputs, outputs=plain.output_names
        )
    )
    return Artifact(
        path=out,
        form="tflite",
        notes=(*source.notes, _compared(out, emulated, task)),
        flags=source.flags,
    )


def _compared(path: Path, emulated: Keras, task: fit.Task) -> str:
    """Compare the file with the trained model; return a note. Raises RecipeError."""
    columns, labels = task.judged
    count = min(len(labels), _COMPARED)
    facts = flatbuffer.read(path)
    fed = {
        tensor.name: numeric.quantise(column[:count], tensor)
        for tensor, column in zip(facts.inputs, _in_order(facts, task, columns), strict=True)
    }
    answers = runtime.run(path, facts, fed)
    ours = [numeric.dequantise(answers[tensor.name], tensor) for tensor in facts.outputs]
    theirs = emulated.predict([column[:count] for column in columns], verbose=0)
    error = numeric.agreement(ours, [np.asarray(theirs)], classes=False).relative_error
    if not error <= _MAX_ERROR:
        raise RecipeError(
            f"the outputs of the int8 file differ from the trained model's (relative error "
            f"{error:.3g} on {count} training samples, at most {_MAX_ERROR}): one of its operators "
            "is not quantised as in training; use int8 after training"
        )
    return f"int8 file and trained model differ by {error:.2g} (relative, {count} samples)"


def _in_order(
    facts: flatbuffer.FileFacts, task: fit.Task, columns: tuple[Array, ...]
) -> list[Array]:
    """Return the model's columns in the order of the file's inputs, by name if all names agree."""
    by_name = dict(zip(task.inputs, columns, strict=True))
    names = [tensor.name for tensor in facts.inputs]
    return [by_name[name] for name in names] if set(names) == set(by_name) else list(columns)
