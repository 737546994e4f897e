"""Samples from a plan's data: an .npz, a folder, a generator of the user's, or random numbers.

    "calibration.npz"      "x": (n, ...), or "x.NAME" per input; with them "y" or "y.NAME"
    "folder/"              .npy and .npz files in sorted order, each one sample or a batch
    "file.py:function"     yields x, (x, y) or a dict; each one sample or a batch
    "random"               noise from the run's seed, for latency-only variants: normal for real
                           inputs, the whole range of the type for integers; indices stay in range

`samples` streams, so a data set need not fit into memory; `load` stacks a bounded number. Data
that does not fit the model is refused at the first sample, with the file, the key and both shapes.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import zipfile
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from harness import lfs, text_files
from harness.errors import ConfigError
from harness.optimize.beats import BEATS
from harness.printable import file_name
from harness.tflite.indices import IndexRange
from harness.tflite.numeric import Array, sample_shape
from harness.types import Tensor

RANDOM = "random"
RANDOM_SAMPLES = 20
STEP_LIMIT = 1_000
"""Maximum number of samples for a calibrating step (twice the number that MLPerf uses)."""
GENERATOR_LIMIT = 10_000
"""Maximum number of samples from a generator, which may never end."""
_WIDE_BYTES = 4
_UNREADABLE = (OSError, ValueError, EOFError, zipfile.BadZipFile)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One sample: an array per input, in the order of the model's inputs, without a batch."""

    inputs: tuple[Array, ...]
    labels: Mapping[str, Array] = field(default_factory=dict)
    """Labels by name: the data's "y" as `y`, its "y.NAME" as `NAME`; empty without labels."""

    @property
    def label(self) -> Array | None:
        """The label under "y"."""
        return self.labels.get("y")


def is_generator(source: str) -> bool:
    """Return whether the source is `file.py:function`."""
    path, colon, _ = source.rpartition(":")
    return bool(colon) and path.endswith(".py")


def digest(source: str) -> str | None:
    """Return the sha256 of the data's bytes; "random" for random data, None for a generator.

    Raises ConfigError if the file or folder is missing.
    """
    if source == RANDOM:
        return RANDOM
    if is_generator(source):
        return None
    path = Path(source)
    try:
        if path.is_dir():
            total = hashlib.sha256()
            for file in files(source):
                total.update(os.fsencode(f"{file.name}\0{_file_digest(file)}\0"))
            return total.hexdigest()
        return _file_digest(path)
    except ConfigError as error:
        raise ConfigError(
            f'data {error}; give an .npz, a folder of .npy or .npz files, "file.py:function", or '
            '"random"'
        ) from error
    except OSError as error:
        raise ConfigError(f"data {file_name(path)}: {error.strerror or error}") from error


def stream_digest(source: str) -> str:
    """Run a generator once and digest its items; in a worker, because it is the user's code."""
    total = hashlib.sha256()
    BEATS.start()
    for item in BEATS.each(islice(_generated(source), GENERATOR_LIMIT)):
        for key, array in sorted(item.items()):
            kept = np.ascontiguousarray(array)
            total.update(f"{key} {kept.dtype} {kept.shape}\0".encode())
            total.update(kept.tobytes())
    return total.hexdigest()


def samples(
    source: str,
    tensors: Sequence[Tensor],
    *,
    seed: int = 0,
    ranges: Mapping[str, IndexRange] | None = None,
) -> Iterator[Sample]:
    """Stream the samples of a source in the form that a model with these inputs takes.

    `ranges` limits random data, as in `random_samples`. Raises ConfigError: a missing key, a wrong
    shape or dtype, NaN or infinity, no data.
    """
    if source == RANDOM:
        yield from random_samples(tensors, RANDOM_SAMPLES, seed, ranges or {})
        return
    found = False
    count = 0
    BEATS.start()
    for where, item in items(source):
        for sample in checked(where, item, tensors):
            found = True
            yield sample
            BEATS.beat()
            count += 1
            if count == GENERATOR_LIMIT and is_generator(source):
                return
    if not found:
        raise ConfigError(f"data {source}: it has no samples")


def load(
    source: str,
    tensors: Sequence[Tensor],
    *,
    limit: int | None,
    seed: int = 0,
    ranges: Mapping[str, IndexRange] | None = None,
) -> tuple[dict[str, Array], Array | None]:
    """Stack up to `limit` samples (None: all): inputs by tensor name (n, ...), and labels.

    The labels are None unless every sample has one. `ranges` is as in `samples`.
    """
    taken = list(islice(samples(source, tensors, seed=seed, ranges=ranges), limit))
    labels = [sample.label for sample in taken if sample.label is not None]
    return stack(taken, tensors), np.stack(labels) if len(labels) == len(taken) else None


def stack(taken: Iterable[Sample], tensors: Sequence[Tensor]) -> dict[str, Array]:
    """Stack samples into (n, ...) by tensor name."""
    columns = zip(*(sample.inputs for sample in taken), strict=True)
    return {tensor.name: np.stack(column) for tensor, column in zip(tensors, columns, strict=True)}


def random_samples(
    tensors: Sequence[Tensor],
    count: int,
    seed: int,
    ranges: Mapping[str, IndexRange],
    *,
    small: bool = False,
) -> Iterator[Sample]:
    """Yield normal noise for real inputs, and integers from the whole range of their type.

    Args:
        tensors: The model's inputs.
        count: Number of samples.
        seed: Seed of the generator.
        ranges: The inputs with indices, by tensor name (`indices.read` of the file).
        small: Whether integers of 32 bits and more are only 0 or 1: for a model whose arithmetic
            overflows on larger ones.

    Raises ConfigError for an input that is no number.
    """
    generator = np.random.default_rng(seed)
    for _ in range(count):
        yield Sample(
            inputs=tuple(
                _random(generator, tensor, ranges.get(tensor.name), small=small)
                for tensor in tensors
            )
        )


def wide(tensors: Iterable[Tensor], ranges: Mapping[str, IndexRange]) -> bool:
    """Return whether random data has integers of 32 bits and more that are no indices."""
    return any(
        tensor.scale is None and tensor.name not in ranges
        for tensor in tensors
        if tensor.dtype in {"int32", "uint32", "int64", "uint64"}
    )


def describe_ranges(tensors: Iterable[Tensor], ranges: Mapping[str, IndexRange]) -> tuple[str, ...]:
    """Return a note for each input whose random integers do not cover their type."""
    notes = []
    for tensor in tensors:
        if (limit := ranges.get(tensor.name)) is None:
            continue
        why = f"it holds indices ({limit.of})"
        if not limit.known:
            why += "; the graph does not show how large they may be, so give the data"
        notes.append(f'random values of "{tensor.name}" are 0 to {limit.high:,}: {why}')
    return tuple(notes)


def _random(
    generator: np.random.Generator, tensor: Tensor, limit: IndexRange | None, *, small: bool
) -> Array:
    shape = tuple(1 if size == -1 else size for size in sample_shape(tensor))
    if limit is not None:
        return generator.integers(0, limit.high, size=shape, endpoint=True).astype(tensor.dtype)
    if tensor.scale is not None or tensor.dtype.startswith("float"):
        return generator.normal(size=shape).astype(np.float32)
    kind = np.dtype(_number(tensor))
    if kind.kind == "b":
        return generator.integers(0, 2, size=shape).astype(kind)
    if kind.kind == "c":
        return (generator.normal(size=shape) + 1j * generator.normal(size=shape)).astype(kind)
    if small and kind.itemsize >= _WIDE_BYTES:
        return generator.integers(0, 2, size=shape).astype(kind)
    limits = np.iinfo(kind)
    return generator.integers(limits.min, limits.max, size=shape, dtype=kind, endpoint=True)


def _number(tensor: Tensor) -> str:
    """Return the input's dtype. Raises ConfigError for text and other types that are no numbers."""
    if tensor.dtype.startswith(("int", "uint", "float", "bool", "complex")) and hasattr(
        np, tensor.dtype
    ):
        return tensor.dtype
    raise ConfigError(
        f'the model\'s input "{tensor.name}" takes {tensor.dtype}, not numbers; cut the layers that '
        "read it off the model and feed what they give"
    )


def _file_digest(path: Path) -> str:
    with text_files.regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files(source: str) -> list[Path]:
    """List the files of a source that is a file or a folder, in the order they are read."""
    path = Path(source)
    if not path.is_dir():
        return [path]
    return sorted(file for file in path.iterdir() if file.suffix in {".npy", ".npz"})


def items(source: str) -> Iterator[tuple[str, dict[str, Array]]]:
    """Yield the arrays of each file of a source, or what its generator yields, with its name."""
    if is_generator(source):
        for index, item in enumerate(_generated(source)):
            yield f"{source}, item {index}", item
        return
    for file in files(source):
        with reading(file):
            item = _read(file)
        yield file_name(file), item


@contextmanager
def reading(file: Path) -> Iterator[None]:
    """Raise ConfigError with the file for whatever numpy raises for one that it cannot read."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(f"data {error}") from error
    except (*_UNREADABLE, NotImplementedError, RuntimeError, zlib.error) as error:
        raise ConfigError(
            f"data {file_name(file)}: cannot be read as .npy or .npz "
            f"({str(error) or type(error).__name__}); "
            + lfs.advice(file, "write it with numpy.savez(file, x=..., y=...)")
        ) from error
    except MemoryError as error:
        raise ConfigError(
            f"data {file_name(file)}: its arrays need more memory than work on this host may use; if "
            "they are meant to, raise host.memory_mb in the plan, or add --host-memory-mb"
        ) from error


def _read(path: Path) -> dict[str, Array]:
    with text_files.regular(path) as file:  # numpy does not close a file that is not an archive
        opened = np.load(file, allow_pickle=False)
        return {"x": opened} if isinstance(opened, np.ndarray) else dict(opened)


def _generated(source: str) -> Iterator[dict[str, Array]]:
    path, _, name = source.rpartition(":")
    function = _function(Path(path), name)
    try:
        for item in function():
            yield _as_mapping(item)
    except Exception as error:  # the user's code may raise anything
        raise ConfigError(
            f"data {source}: the generator failed ({type(error).__name__}: {error})"
        ) from error


def _function(path: Path, name: str) -> Callable[[], Iterable[Any]]:
    spec = importlib.util.spec_from_file_location(f"edge_harness_data_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ConfigError(f"data {path}:{name}: no such file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:  # as in _generated
        raise ConfigError(
            f"data {path}: the file failed ({type(error).__name__}: {error})"
        ) from error
    function = getattr(module, name, None)
    if not callable(function):
        known = sorted(key for key, value in vars(module).items() if callable(value))
        raise ConfigError(
            f'data {path}: no function "{name}" (it has: {", ".join(known) or "none"})'
        )
    found: Callable[[], Iterable[Any]] = function
    return found


def _as_mapping(item: object) -> dict[str, Array]:
    if isinstance(item, Mapping):
        arrays = {str(key): np.asarray(value) for key, value in item.items()}
        plain = {"x", "y"}
        return {
            key if key in plain or key.startswith(("x.", "y.")) else f"x.{key}": value
            for key, value in arrays.items()
        }
    if isinstance(item, tuple) and len(item) == 2:  # noqa: PLR2004 - (x, y)
        return {**_as_mapping(item[0]), "y": np.asarray(item[1])}
    return {"x": np.asarray(item)}


def checked(where: str, item: Mapping[str, Array], tensors: Sequence[Tensor]) -> Iterator[Sample]:
    """Yield the samples of one item; raises ConfigError as `samples` does."""
    columns = []
    for tensor in tensors:
        key = key_of(where, item, tensor, alone=len(tensors) == 1)
        columns.append(_column(f'{where}: "{key}"', item[key], tensor))
    counts = {len(column) for column in columns}
    if len(counts) > 1:
        raise ConfigError(f"data {where}: the inputs have different numbers of samples: {counts}")
    count = counts.pop()
    labels = {
        key.removeprefix("y."): _labels(f'data {where}: "{key}"', array, count)
        for key, array in item.items()
        if key == "y" or key.startswith("y.")
    }
    for i in range(count):
        yield Sample(
            inputs=tuple(column[i] for column in columns),
            labels={name: array[i] for name, array in labels.items()},
        )


def _labels(where: str, array: Array, count: int) -> Array:
    """Check the labels of `count` samples and return them as (count, ...)."""
    labels = array.reshape(1) if array.ndim == 0 else array
    if len(labels) != count and count == 1:
        labels = labels[None]
    if len(labels) != count:
        raise ConfigError(f"{where} has {len(labels)} entries for {count} samples")
    if np.issubdtype(labels.dtype, np.inexact) and not np.isfinite(labels).all():
        raise ConfigError(f"{where} has NaN or infinity; clean the data")
    return labels


def key_of(where: str, item: Collection[str], tensor: Tensor, *, alone: bool) -> str:
    """Return the key of one input's array; raises ConfigError if it is missing."""
    plain = tensor.name.removeprefix("serving_default_").removesuffix(":0")
    keys = [*(["x"] if alone else []), f"x.{tensor.name}", f"x.{plain}"]
    for key in keys:
        if key in item:
            return key
    raise ConfigError(
        f'data {where}: the key "{keys[0] if alone else keys[-1]}" is missing '
        f"(it has: {', '.join(sorted(item)) or 'none'})"
    )


def check_shape(where: str, shape: Sequence[int], tensor: Tensor) -> bool:
    """Check the shape of one input's array; return whether it is one sample without a batch.

    Raises ConfigError with both shapes.
    """
    wanted = sample_shape(tensor)
    if _fits(shape, wanted):
        return True
    if len(shape) != len(wanted) + 1 or not _fits(shape[1:], wanted):
        raise ConfigError(
            f"data {where} has the shape {_shape(shape)}; "
            f'the model\'s input "{tensor.name}" takes (n, {_inside(wanted)})'
        )
    if not shape[0]:
        raise ConfigError(f"data {where} is empty")
    return False


def _column(where: str, array: Array, tensor: Tensor) -> Array:
    """Check one input's array and return it as (n, ...) in a dtype that the model accepts."""
    single = check_shape(where, array.shape, tensor)
    return _typed(where, array[None] if single else array, tensor)


def _typed(where: str, array: Array, tensor: Tensor) -> Array:
    if array.dtype == np.dtype(tensor.dtype) and tensor.dtype != "float32":
        return array
    if tensor.scale is not None or tensor.dtype.startswith("float"):
        if not np.issubdtype(array.dtype, np.floating):
            raise ConfigError(
                f'data {where} is {array.dtype}; the model\'s input "{tensor.name}" takes float32: '
                "store the values as the model was trained on them (scaled), as float32"
            )
        if not np.isfinite(array).all():
            raise ConfigError(f"data {where} has NaN or infinity; clean the data")
        return array.astype(np.float32, copy=False)
    if _number(tensor) == "bool" and np.isin(array, (0, 1)).all():
        return array.astype(np.bool_)
    if not np.issubdtype(array.dtype, np.integer) or tensor.dtype == "bool":
        raise ConfigError(
            f'data {where} is {array.dtype}; the model\'s input "{tensor.name}" '
            f"takes {tensor.dtype}"
        )
    limits = np.iinfo(tensor.dtype)
    if array.min() < limits.min or array.max() > limits.max:
        raise ConfigError(f"data {where} has values outside {tensor.dtype}")
    return array.astype(tensor.dtype)


def _fits(shape: Sequence[int], wanted: Sequence[int]) -> bool:
    return len(shape) == len(wanted) and all(
        want in {-1, size} for size, want in zip(shape, wanted, strict=True)
    )


def _inside(shape: Sequence[int]) -> str:
    return ", ".join("?" if size == -1 else str(size) for size in shape) or "..."


def _shape(shape: Sequence[int]) -> str:
    return f"({', '.join(map(str, shape))}{',' if len(shape) == 1 else ''})"
