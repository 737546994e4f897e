"""The host's outputs of a file, which a device's outputs are compared with before timing.

A device whose outputs differ from the host's is not measured. The file runs in a child process,
because a bad file may crash its process.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import re
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from harness import durable
from harness.errors import ConfigError, RecipeError, StoreError
from harness.optimize import cache, probes, workers
from harness.optimize import data as datasets
from harness.tflite import flatbuffer, indices, numeric
from harness.tflite.numeric import Array
from harness.types import DEFAULT_HOST, Agreement, HostLimits, ModelSource, Variant

_KEY = re.compile(r"[0-9a-f]{40}")
"""The name of a file of inputs: the key of its arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInputs:
    """The inputs of a variant's check before timing."""

    path: Path
    """An .npz: (n, ...) by tensor name, in the file's own dtypes."""
    real: bool
    """Whether they are the user's data; else they are random numbers."""
    labels: Path | None = None
    """An .npz of their labels by name, if no host can run the file and the data has labels."""
    metric: str | None = None
    """The metric of those labels."""

    @property
    def of_cell(self) -> dict[str, Any]:
        """The fields of a Cell with these inputs."""
        return {
            "check_inputs": str(self.path),
            "check_labels": None if self.labels is None else str(self.labels),
            "check_metric": self.metric,
            "flags": () if self.real else ("random_inputs",),
        }


def check_inputs(
    model: ModelSource,
    variant: Variant,
    folder: Path,
    *,
    n: int = 64,
    seed: int = 0,
    limits: HostLimits = DEFAULT_HOST,
) -> CheckInputs:
    """Write up to `n` inputs for a variant: from evaluation data, else calibration, else random.

    The file's name is a digest of its content, so runs with other data never share one. The random
    inputs of a file that no host can run are from the whole range of their type
    (:mod:`harness.optimize.probes`); it gets them also if the data is not for it, because a plan's
    data is first for what is built. Raises ConfigError for data that does not fit another file.
    """
    chosen = [model.data.evaluation, model.data.calibration]
    source = next((item for item in chosen if item and item != datasets.RANDOM), None)
    is_alone = host_file(variant) is None
    labels: Mapping[str, Array] = {}
    loaded = None
    if source is not None:
        with suppress(*([ConfigError] if is_alone else [])):
            loaded = load_samples(source, variant, n, seed=seed, limits=limits)
    if loaded is None:
        ranges = indices.read(host_file(variant) or variant.path)
        if is_alone:
            arrays: Mapping[str, Array] = probes.probe_inputs(variant.inputs, n, seed, ranges)
        else:
            drawn = datasets.random_samples(variant.inputs, n, seed, ranges)
            arrays = datasets.stack(drawn, variant.inputs)
    else:
        arrays = loaded.inputs
        labels = loaded.labels if is_alone and source == model.data.evaluation else {}
    taken = as_file_takes(variant, arrays)
    return CheckInputs(
        path=_kept(folder, taken),
        real=loaded is not None,
        labels=_kept(folder, labels) if labels else None,
        metric=model.data.metric if labels else None,
    )


def _kept(folder: Path, arrays: Mapping[str, Array]) -> Path:
    """Write arrays to a file named by their digest; raises ConfigError if that is not possible."""
    path = folder / f"{cache.key(arrays=_digests(arrays))}.npz"
    if not is_intact(path):
        try:
            durable.keep(path, _packed(arrays))
        except OSError as error:
            raise ConfigError(
                f"cache folder {folder}: {path.name}: {error.strerror or error}; free disk space "
                "there, or set EDGE_HARNESS_CACHE to another folder"
            ) from error
    return path


def is_intact(path: Path) -> bool:
    """Return whether a file that `check_inputs` wrote is there and unchanged."""
    try:
        load_inputs(path)
    except StoreError:
        return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadedSamples:
    """Samples of the user's data: inputs by tensor name and labels by name, each (n, ...)."""

    inputs: Mapping[str, Array]
    labels: Mapping[str, Array]
    """The labels that every sample has."""


def load_samples(
    source: str, variant: Variant, n: int, *, seed: int = 0, limits: HostLimits = DEFAULT_HOST
) -> LoadedSamples:
    """Read up to `n` samples in a child process, because a data file may claim any size.

    Raises ConfigError for data that does not fit the variant.
    """
    with tempfile.TemporaryDirectory() as space:
        out = Path(space) / "samples.npz"
        order = {"source": source, "path": str(variant.path), "limit": n, "seed": seed}
        order |= {"out": str(out)}
        workers.once("samples", order, limits=limits, stage="reading the data", file=source)
        arrays = load_inputs(out)
    parts: dict[str, dict[str, Array]] = {"x": {}, "y": {}}
    for key, array in arrays.items():
        part, _, name = key.partition(".")
        parts[part][name] = array
    return LoadedSamples(inputs=parts["x"], labels=parts["y"])


def load_inputs(path: str | Path) -> dict[str, Array]:
    """Read the arrays that `check_inputs` wrote; raises StoreError if they are gone or damaged."""
    path = Path(path)
    arrays = _unpacked(durable.read(path))
    named_by_content = _KEY.fullmatch(path.stem)
    if arrays is None or (named_by_content and path.stem != cache.key(arrays=_digests(arrays))):
        raise StoreError(
            f"{path}: the inputs of the check before timing are missing or damaged; the same command "
            "makes them again"
        )
    return arrays


def as_file_takes(variant: Variant, real_inputs: Mapping[str, Array]) -> dict[str, Array]:
    """Convert real inputs (n, ...) by tensor name to the file's dtypes, by scale and zero point."""
    return {
        tensor.name: numeric.quantise(real_inputs[tensor.name], tensor) for tensor in variant.inputs
    }


def runs_on_host(variant: Variant) -> bool:
    """Return whether a host's runtime can run the file.

    It cannot run files compiled for an accelerator and files with Flex operators.
    """
    return flatbuffer.why_not_runnable_on_host(variant.operators) is None


def host_file(variant: Variant) -> Path | None:
    """Return the file to compare a device with: the variant's, else the one before compiling, or None."""
    if runs_on_host(variant):
        return variant.path
    return variant.uncompiled.path if variant.uncompiled else None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRun:
    """The limits of a run on the host, and what is known of the file."""

    limits: HostLimits = DEFAULT_HOST
    build_seconds: float = 0.0
    """The time that the file's build took; ten times of it are added to the deadline."""
    own_data: bool = False
    """Whether the inputs are the user's data, so that the deadline is for each of them."""
    file: str = ""
    """The user's file, for messages; empty for the path that is run."""


DEFAULT_RUN = HostRun()


def host_outputs(
    path: Path,
    inputs: Mapping[str, Array],
    threads: int = 1,
    *,
    keep: Path | None = None,
    how: HostRun = DEFAULT_RUN,
) -> dict[str, Array]:
    """Run inputs, each (n, ...) in the file's own dtype, through the file in a child process.

    Returns each output as (n, ...) by tensor name, in the file's own dtype. `keep` is a folder that
    caches the outputs by file, inputs, runtime and threads; a damaged file there is made again.

    Raises RecipeError if the file cannot run on this host or crashes the child.
    """
    if keep is None:
        return _host_outputs(path, inputs, threads, how)
    parts = {
        "file": cache.digest(path),
        "inputs": _digests(inputs),
        "runtime": metadata.version("ai-edge-litert"),
        "threads": threads,
    }
    cached = keep / f"{cache.key(**parts)}.npz"
    known = _unpacked(durable.read_sealed(cached))
    if known is not None:
        return known
    outputs = _host_outputs(path, inputs, threads, how)
    with contextlib.suppress(OSError):  # a full disk costs the next run the time, nothing else
        durable.keep_sealed(cached, _packed(outputs))
    return outputs


def _host_outputs(
    path: Path, inputs: Mapping[str, Array], threads: int, how: HostRun
) -> dict[str, Array]:
    with tempfile.TemporaryDirectory() as space:
        given, out = Path(space) / "inputs.npz", Path(space) / "outputs.npz"
        with given.open("wb") as file:
            np.savez(file, allow_pickle=False, **inputs)
        order = {"path": str(path), "inputs": str(given), "out": str(out), "threads": threads}
        workers.once(
            "outputs",
            order | {"own_data": how.own_data},
            limits=how.limits,
            build_seconds=how.build_seconds,
            stage="the reference outputs",
            file=how.file or str(path),
        )
        return load_inputs(out)


def _digests(arrays: Mapping[str, Array]) -> dict[str, str]:
    return {
        name: f"{array.dtype} {array.shape} {hashlib.sha256(array.tobytes()).hexdigest()}"
        for name, array in sorted(arrays.items())
    }


def _packed(arrays: Mapping[str, Array]) -> bytes:
    file = io.BytesIO()
    np.savez(file, allow_pickle=False, **arrays)
    return file.getvalue()


def _unpacked(data: bytes | None) -> dict[str, Array] | None:
    """Return the arrays of an .npz; None if it is absent or damaged."""
    if data is None:
        return None
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as stored:
            return dict(stored)
    # A damaged file can raise anything that zipfile, zlib and numpy's parser raise.
    except Exception:  # noqa: BLE001
        return None


def in_order(device_outputs: Mapping[str, Array], variant: Variant, count: int) -> dict[str, Array]:
    """Return the file's outputs, each (count, ...) by tensor name, in the file's order.

    Raises RecipeError if an output is missing or is not of `count` samples.
    """
    found = {}
    for tensor in variant.outputs:
        if tensor.name not in device_outputs:
            raise RecipeError(
                f'the device returned no output "{tensor.name}" '
                f"(it returned: {', '.join(device_outputs) or 'none'})"
            )
        found[tensor.name] = device_outputs[tensor.name]
        if found[tensor.name].shape[:1] != (count,):
            raise RecipeError(
                f'the device\'s output "{tensor.name}" has the shape '
                f"{list(found[tensor.name].shape)}, for {count} inputs"
            )
    return found


def compare(
    device_outputs: Mapping[str, Array], expected: Mapping[str, Array], variant: Variant
) -> Agreement:
    """Compare a device's outputs with the host's, both in the file's own dtypes, as real values.

    top1 is null if the outputs do not look like classes, or the model is scored by an error. Raises RecipeError if an output is
    missing or has another size.
    """
    theirs, ours = [], []
    counted = len(next(iter(expected.values()), ()))
    device_outputs = in_order(device_outputs, variant, counted)
    for tensor in variant.outputs:
        device, host = device_outputs[tensor.name], expected[tensor.name]
        if len(device) != len(host) or device.size != host.size:
            raise RecipeError(
                f'the device\'s output "{tensor.name}" has the shape {list(device.shape)}; '
                f"the host's has {list(host.shape)}"
            )
        theirs.append(numeric.dequantise(device, tensor).reshape(len(host), -1))
        ours.append(numeric.dequantise(host, tensor).reshape(len(host), -1))
    classes = numeric.has_classes(variant.outputs) and variant.accuracy_better == "higher"
    return numeric.agreement(theirs, ours, classes=classes)
