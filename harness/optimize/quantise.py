"""Stage 2: ai-edge-quantizer derives variants from a float .tflite, without TensorFlow.

The post-training steps share this code. Calibration keeps the smallest and largest value seen: the
library's own default averages ranges, which gives 9x the error on the keyword model.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from harness import assets
from harness.errors import HarnessError, RecipeError
from harness.optimize import library_errors
from harness.optimize.beats import BEATS
from harness.tflite import flatbuffer, rewrite
from harness.tflite.numeric import Array

_CONTROL_FLOW = ("WHILE", "IF", "CALL")
_LIBRARY_ERRORS = (
    ValueError,
    RuntimeError,
    KeyError,
    IndexError,
    TypeError,
    NotImplementedError,
    AttributeError,
)
"""Exceptions that the quantiser raises for a graph it does not support."""


def prepare() -> None:
    """Import the quantiser before its first use (half a second)."""
    with _with_install_hint():
        from ai_edge_quantizer import calibrator, quantizer, recipe  # noqa: F401


def quantise(
    source: Path,
    out: Path,
    configure: Callable[[Any], None],
    calibration: Mapping[str, Array] | None = None,
) -> None:
    """Quantise a framed float file.

    Args:
        source: The float file, with one signature whose names are its tensors'.
        out: Path of the result.
        configure: Sets the recipe on the library's Quantizer.
        calibration: Arrays (n, ...) by input tensor name; None if the recipe needs none.

    Raises RecipeError if the library cannot quantise the graph.
    """
    data = source.read_bytes()
    ranges = None if calibration is None else calibrate(source, data, configure, calibration)
    out.write_bytes(apply(data, configure, ranges))


def calibrate(
    source: Path,
    data: bytes,
    configure: Callable[[Any], None],
    calibration: Mapping[str, Array],
) -> Any:  # noqa: ANN401 - untyped library
    """Run the calibration inputs; return the range of every tensor that the recipe quantises.

    The ranges serve any recipe that quantises no other tensors. Raises RecipeError.
    """
    loops = [name for name in _CONTROL_FLOW if name in flatbuffer.read(source).operators]
    if loops:
        raise RecipeError(
            f"calibration cannot follow control flow ({', '.join(loops)}): build an LSTM or GRU "
            "with unroll=True, or use dynamic or float16"
        )
    with _with_recipe_errors():
        worker = _worker(data, configure)
        return _ranges(data, worker, calibration)


def apply(data: bytes, configure: Callable[[Any], None], ranges: Any) -> memoryview:  # noqa: ANN401 - untyped library
    """Return the quantised file; `ranges` is the result of `calibrate`. Raises RecipeError."""
    with _with_recipe_errors():
        worker = _worker(data, configure)
        if ranges is not None and all(ranges.values()):
            # To find empty ranges it would load the model once more: twice the file in memory.
            worker._ensure_model_qsv_sufficient = _sufficient  # noqa: SLF001 - no public option
        result = worker.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
    return rewrite.with_names_of(rewrite.quantised(result.quantized_model), data)


def integer(activation_bits: int) -> Callable[[Any], None]:
    """Configure int8 weights per channel and static activations, inputs and outputs included."""

    def configure(worker: Any) -> None:  # noqa: ANN401 - untyped library
        from ai_edge_quantizer import recipe

        named = {8: recipe.static_wi8_ai8, 16: recipe.static_wi8_ai16}
        worker.load_quantization_recipe(named[activation_bits]())

    return configure


def float_ends(configure: Callable[[Any], None]) -> Callable[[Any], None]:
    """Configure as `configure` does, but keep the model's inputs and outputs in float."""

    def with_float_ends(worker: Any) -> None:  # noqa: ANN401 - untyped library
        from ai_edge_quantizer import qtyping

        configure(worker)
        for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
            worker.update_quantization_recipe(".*", end, algorithm_key="no_quantize")

    return with_float_ends


def _ranges(data: bytes, worker: Any, calibration: Mapping[str, Array]) -> Any:  # noqa: ANN401 - untyped library
    import numpy as np
    from ai_edge_quantizer import calibrator
    from ai_edge_quantizer.utils import qsv_utils

    # The profiler mode, because the other one keeps every tensor, weights included: twice the memory
    # and ten times the time. It reports float64, which would give other scales than float32.
    keeper = calibrator.Calibrator(
        data,
        num_threads=1,
        mode=calibrator.CalibrationMode.CALIBRATION_PROFILER_BASED,
        qsv_update_func=qsv_utils.min_max_update,
    )
    runner = keeper._tfl_interpreter.get_signature_runner(rewrite.SIGNATURE)  # noqa: SLF001 - no public way to min-max
    details = runner.get_input_details()
    fed = {key: (item["name"], tuple(item["shape"])) for key, item in details.items()}
    count = len(next(iter(calibration.values())))
    rows = [
        {key: calibration[name][i].reshape(shape) for key, (name, shape) in fed.items()}
        for i in range(count)
    ]
    keeper.calibrate({rewrite.SIGNATURE: _Counted(rows)}, worker._recipe_manager)  # noqa: SLF001 - as above
    return {
        name: {end: np.asarray(value, np.float32) for end, value in found.items()}
        for name, found in keeper.get_model_qsvs().items()
    }


class _Counted(list[Any]):
    """Rows that report progress as the calibrator takes them."""

    def __iter__(self) -> Iterator[Any]:
        return BEATS.each(super().__iter__())


def _sufficient(ranges: object) -> None:
    """Report no empty range: `apply` has checked them."""
    del ranges


def _worker(data: bytes, configure: Callable[[Any], None]) -> Any:  # noqa: ANN401 - untyped library
    with _with_install_hint():
        from ai_edge_quantizer import quantizer
    worker = quantizer.Quantizer(data)
    configure(worker)
    return worker


@contextmanager
def _with_recipe_errors() -> Iterator[None]:
    try:
        yield
    except _LIBRARY_ERRORS as error:
        raise RecipeError(
            f"the quantiser does not support this graph ({library_errors.brief(error)})"
        ) from error


@contextmanager
def _with_install_hint() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise HarnessError(
            f"quantising needs ai-edge-quantizer, which is not installed ({error}); "
            f"{assets.install_command('light')}"
        ) from error
