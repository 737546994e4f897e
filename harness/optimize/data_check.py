"""Check a model's data before anything is built with it.

    data_check.check_data(source, inputs=tensors, outputs=tensors, metric="top1")

Names, shapes, dtypes and numbers of samples are in the files' headers, so these are checked at once,
whatever the size of the data. Values are read too if the data is small: NaN, labels that the metric
refuses. A finished .tflite gives its inputs and outputs; those of another model are known once it is
converted, so a build checks its data again between the conversion and the first step.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.lib import format as npy

from harness import metrics, text_files
from harness.errors import ConfigError
from harness.metrics.classes import TopK, as_classes
from harness.optimize import check
from harness.optimize import data as datasets
from harness.printable import file_name
from harness.tflite.numeric import Array, sample_shape
from harness.types import Tensor

SMALL_BYTES = 256_000_000
"""Data up to this size is read whole by `check_data`."""
_ANY_CLASS = 2**62
_MAX_ARRAYS = 10_000
_SUFFIX = ".npy"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayHeader:
    """The shape and the dtype of a stored array."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """Its size in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def check_data(
    source: str,
    *,
    inputs: Sequence[Tensor] | None = None,
    outputs: Sequence[Tensor] | None = None,
    metric: str | None = None,
    whole: bool = False,
) -> None:
    """Refuse data that a build could not use.

    Args:
        source: as in a plan; "random" is always right.
        inputs: the model's inputs; None if they are not known yet.
        outputs: the model's outputs, None if they are not known yet.
        metric: the metric of evaluation data, which needs labels; None for other data.
        whole: read the values of large data too, and run a generator. For a worker process.

    Raises ConfigError with the file, the key and what the model takes.
    """
    if source == datasets.RANDOM:
        return
    if datasets.is_generator(source):
        if whole:
            _check_values(source, inputs, outputs, metric)
        return
    files = datasets.files(source)
    if not files:
        raise ConfigError(f"data {source}: it has no samples: no .npy or .npz file is in it")
    stored: dict[str, dict[str, ArrayHeader]] = {}
    for file in files:
        with datasets.reading(file):
            stored[file_name(file)] = _headers(file)
    if not whole and not _fits_any_names(inputs, stored.values()):
        inputs = outputs = None
    for name, headers in stored.items():
        _check_headers(name, headers, inputs, labelled=metric is not None)
        if inputs is None and not Path(source).is_dir():  # in a folder, a file may be one sample
            _check_counts(name, headers)
    total = sum(header.bytes for headers in stored.values() for header in headers.values())
    if whole or total <= SMALL_BYTES:
        _check_values(source, inputs, outputs, metric)


def _fits_any_names(
    inputs: Sequence[Tensor] | None, stored: Iterable[Mapping[str, ArrayHeader]]
) -> bool:
    """Whether the data needs no names of inputs, which a conversion may still change."""
    single = inputs is not None and len(inputs) == 1
    return single and all("x" in headers or not _inputs(headers) for headers in stored)


def _inputs(headers: Iterable[str]) -> list[str]:
    return [name for name in headers if name == "x" or name.startswith("x.")]


def _headers(file: Path) -> dict[str, ArrayHeader]:
    """Return the headers of the arrays in a file; raises what numpy raises."""
    with text_files.regular(file) as opened:
        if not zipfile.is_zipfile(opened):
            opened.seek(0)
            return {"x": _header(opened, None)}
        opened.seek(0)
        with zipfile.ZipFile(opened) as archive:
            members = archive.infolist()
            if len(members) > _MAX_ARRAYS:
                raise ValueError(f"{len(members):,} arrays")
            found = {}
            for member in members:
                with archive.open(member) as array:
                    name = member.filename.removesuffix(_SUFFIX)
                    found[name] = _header(array, member.file_size)
    return found


def _header(file: IO[bytes], size: int | None) -> ArrayHeader:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, _, dtype = read(file)
    header = ArrayHeader(shape=shape, dtype=dtype)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are not read")
    if size is not None and header.bytes > size:
        raise ValueError(f"an array of {header.bytes:,} bytes in an entry of {size:,} bytes")
    return header


def _check_headers(
    where: str,
    headers: Mapping[str, ArrayHeader],
    inputs: Sequence[Tensor] | None,
    *,
    labelled: bool,
) -> None:
    """Check the arrays of one file against the model's inputs, as far as these are known."""
    given = _inputs(headers)
    if inputs is None:
        if not given:
            known = ", ".join(sorted(headers)) or "none"
            raise ConfigError(f'data {where}: the key "x" is missing (it has: {known})')
        for name in given:
            if not headers[name].shape or not headers[name].shape[0]:
                raise ConfigError(f'data {where}: "{name}" is empty')
    for tensor in inputs or ():
        name = datasets.key_of(where, headers, tensor, alone=len(inputs or ()) == 1)
        place = f'{where}: "{name}"'
        datasets.check_shape(place, headers[name].shape, tensor)
        _check_dtype(place, headers[name].dtype, tensor)
    if labelled and not any(name == "y" or name.startswith("y.") for name in headers):
        raise ConfigError(f'data {where}: the key "y" is missing; evaluation needs labels')


def _check_dtype(where: str, dtype: np.dtype[Any], tensor: Tensor) -> None:
    """Refuse a dtype that the model's input does not take; `datasets.samples` checks the values."""
    real = tensor.scale is not None or tensor.dtype.startswith("float")
    integer = tensor.dtype.startswith(("int", "uint"))
    right = np.issubdtype(dtype, np.floating if real else np.integer)
    if right or dtype.name == tensor.dtype or not (real or integer):
        return
    hint = ": store the values as the model was trained on them (scaled), as float32" * real
    raise ConfigError(
        f'data {where} is {dtype}; the model\'s input "{tensor.name}" takes '
        f"{'float32' if real else tensor.dtype}{hint}"
    )


def _check_counts(where: str, headers: Mapping[str, ArrayHeader]) -> None:
    """Compare the numbers of inputs and of labels in a file, before the model's shapes are known."""
    counts = {name: header.shape[0] for name, header in headers.items() if header.shape}
    numbers = {counts[name] for name in _inputs(counts)}
    for name, count in counts.items():
        if (name == "y" or name.startswith("y.")) and numbers and numbers != {count}:
            samples = " and ".join(map(str, sorted(numbers)))
            raise ConfigError(f'data {where}: "{name}" has {count} entries for {samples} samples')


def _check_values(
    source: str,
    inputs: Sequence[Tensor] | None,
    outputs: Sequence[Tensor] | None,
    metric: str | None,
) -> None:
    """Read the data: NaN anywhere, labels that the metric cannot compare with such outputs."""
    if inputs is None:
        for where, item in islice(datasets.items(source), datasets.GENERATOR_LIMIT):
            _check_item(where, item, metric)
        return
    scored = metric is not None and _zeros(outputs)
    evaluation = check.Evaluation(source, metric) if metric is not None else None
    for sample in datasets.samples(source, inputs):
        if evaluation is not None and not sample.labels:
            raise ConfigError(f'data {source}: the key "y" is missing; evaluation needs labels')
        if evaluation is not None and scored:
            evaluation.add(scored, sample.labels)
    if evaluation is not None and scored:
        evaluation.flush()


def _check_item(where: str, item: Mapping[str, Array], metric: str | None) -> None:
    for name, array in item.items():
        if np.issubdtype(array.dtype, np.inexact) and not np.isfinite(array).all():
            raise ConfigError(f'data {where}: "{name}" has NaN or infinity; clean the data')
    if metric is not None and "y" in item and isinstance(metrics.load(metric)(), TopK):
        try:
            as_classes(np.atleast_1d(item["y"]), count=_ANY_CLASS)
        except ConfigError as error:
            raise ConfigError(f"data {where}: {error}") from None


def _zeros(outputs: Sequence[Tensor] | None) -> dict[str, Array]:
    """Return outputs of one sample for a metric; empty if a shape is not known before it runs."""
    if outputs is None or any(-1 in sample_shape(tensor) for tensor in outputs):
        return {}
    shapes = [(1, *sample_shape(tensor)) for tensor in outputs]
    return {
        name: np.zeros(shape, np.float32)
        for name, shape in zip(check.names(outputs), shapes, strict=True)
    }
