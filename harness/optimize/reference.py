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
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

from harness import durable
from harness.errors import ConfigError, RecipeError, StoreError
from harness.optimize import cache, workers
from harness.optimize import data as datasets
from harness.tflite import flatbuffer, numeric
from harness.tflite.numeric import Array
from harness.types import Agreement, ModelSource, Variant

_KEY = re.compile(r"[0-9a-f]{40}")
"""The name of a file of inputs: the key of its arrays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckInputs:
    """The inputs of a variant's check before timing."""

    path: Path
    """An .npz: (n, ...) by tensor name, in the file's own dtypes."""
    real: bool
    """Whether they are the user's data; else they are random numbers."""


def check_inputs(
    model: ModelSource, variant: Variant, folder: Path, n: int = 64, seed: int = 0
) -> CheckInputs:
    """Write up to `n` inputs for a variant: from evaluation data, else calibration, else random.

    The file's name is a digest of its content, so runs with other data never share one. Raises
    ConfigError for data that does not fit.
    """
    chosen = [model.data.evaluation, model.data.calibration]
    source = next((item for item in chosen if item and item != datasets.RANDOM), None)
    if source is None:
        arrays = datasets.stack(datasets.random_samples(variant.inputs, n, seed), variant.inputs)
    elif datasets.is_generator(source):
        order = {"source": source, "path": str(variant.path), "limit": n, "seed": seed}
        with tempfile.TemporaryDirectory() as space:
            out = Path(space) / "samples.npz"
            workers.once("samples", {**order, "out": str(out)})
            arrays = load_inputs(out)
    else:
        arrays, _ = datasets.load(source, variant.inputs, limit=n, seed=seed)
    taken = as_file_takes(variant, arrays)
    path = folder / f"{cache.key(arrays=_digests(taken))}.npz"
    if not is_intact(path):
        try:
            durable.keep(path, _packed(taken))
        except OSError as error:
            raise ConfigError(
                f"cache folder {folder}: {path.name}: {error.strerror or error}; free disk space "
                "there, or set EDGE_HARNESS_CACHE to another folder"
            ) from error
    return CheckInputs(path=path, real=source is not None)


def is_intact(path: Path) -> bool:
    """Return whether a file that `check_inputs` wrote is there and unchanged."""
    try:
        load_inputs(path)
    except StoreError:
        return False
    return True


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


def host_outputs(
    path: Path, inputs: Mapping[str, Array], threads: int = 1, *, keep: Path | None = None
) -> dict[str, Array]:
    """Run inputs, each (n, ...) in the file's own dtype, through the file in a child process.

    Returns each output as (n, ...) by tensor name, in the file's own dtype. `keep` is a folder that
    caches the outputs by file, inputs, runtime and threads; a damaged file there is made again.

    Raises RecipeError if the file cannot run on this host or crashes the child.
    """
    if keep is None:
        return _host_outputs(path, inputs, threads)
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
    outputs = _host_outputs(path, inputs, threads)
    with contextlib.suppress(OSError):  # a full disk costs the next run the time, nothing else
        durable.keep_sealed(cached, _packed(outputs))
    return outputs


def _host_outputs(path: Path, inputs: Mapping[str, Array], threads: int) -> dict[str, Array]:
    with tempfile.TemporaryDirectory() as space:
        given, out = Path(space) / "inputs.npz", Path(space) / "outputs.npz"
        with given.open("wb") as file:
            np.savez(file, allow_pickle=False, **inputs)
        order = {"path": str(path), "inputs": str(given), "out": str(out), "threads": threads}
        workers.once("outputs", order)
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


def compare(
    device_outputs: Mapping[str, Array], expected: Mapping[str, Array], variant: Variant
) -> Agreement:
    """Compare a device's outputs with the host's, both in the file's own dtypes, as real values.

    top1 is null if the outputs do not look like classes. Raises RecipeError if an output is
    missing or has another size.
    """
    theirs, ours = [], []
    for tensor in variant.outputs:
        if tensor.name not in device_outputs:
            raise RecipeError(
                f'the device returned no output "{tensor.name}" '
                f"(it returned: {', '.join(device_outputs) or 'none'})"
            )
        device, host = device_outputs[tensor.name], expected[tensor.name]
        if len(device) != len(host) or device.size != host.size:
            raise RecipeError(
                f'the device\'s output "{tensor.name}" has the shape {list(device.shape)}; '
                f"the host's has {list(host.shape)}"
            )
        theirs.append(numeric.dequantise(device, tensor).reshape(len(host), -1))
        ours.append(numeric.dequantise(host, tensor).reshape(len(host), -1))
    classes = numeric.has_classes(variant.outputs)
    return numeric.agreement(theirs, ours, classes=classes)
