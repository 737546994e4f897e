"""Read a .tflite file without running it: inputs, outputs, signatures, operators, weights.

The reader does not trust the file: any length or offset may be wrong. Every defect ends as one
RecipeError with the reason, never as an error of the parser. The reader loads no native code, so
the controller may use it.

    facts = flatbuffer.read(Path("model.tflite"))
    facts.inputs[0].shape, facts.operators["CONV_2D"], facts.sparsity
"""

from __future__ import annotations

import hashlib
import math
import struct
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from harness import assets, lfs
from harness.errors import HarnessError, RecipeError
from harness.tflite.compiled import COMPILED_FOR, EDGETPU
from harness.types import Tensor

IDENTIFIER = b"TFL3"
FLEX = "Flex"
_ROOT_BYTES = 8
"""Offset of the root table and the file identifier."""
_MALFORMED = (
    struct.error,
    AttributeError,
    IndexError,
    KeyError,
    MemoryError,
    OverflowError,
    RecursionError,
    TypeError,
    ValueError,
)
"""Exceptions that the generated reader raises on a wrong offset."""

_NUMPY: dict[str, type[np.generic]] = {
    "float32": np.float32,
    "float16": np.float16,
    "float64": np.float64,
    "int8": np.int8,
    "uint8": np.uint8,
    "int16": np.int16,
    "uint16": np.uint16,
    "int32": np.int32,
    "uint32": np.uint32,
    "int64": np.int64,
    "uint64": np.uint64,
    "bool": np.bool_,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Weight:
    """A constant that an operator computes with."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantised: bool
    """Whether it has a scale or is narrower than float32."""
    bytes: int
    zeros: int
    """Elements that stand for zero, including those that a sparse format leaves out."""

    @property
    def elements(self) -> int:
        """Count the elements."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """A named entry point of the file; `inputs` and `outputs` map its names to tensor names."""

    name: str
    subgraph: int
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class FileFacts:
    """The content of a .tflite file, read from its bytes."""

    path: Path
    digest: str
    size_bytes: int
    description: str
    inputs: tuple[Tensor, ...]
    """Inputs of the main subgraph, in the runtime's order."""
    outputs: tuple[Tensor, ...]
    signatures: tuple[Signature, ...]
    operators: Mapping[str, int]
    """Counts over all subgraphs; a custom operator has its own name."""
    custom: tuple[str, ...]
    """Names of the custom operators."""
    weights: tuple[Weight, ...]
    quantised: tuple[str, ...]
    """Names of weights and of activations that are not plain float."""
    subgraphs: int

    @property
    def sparsity(self) -> float | None:
        """Share of zeros among the elements of the kernels; null if there are none.

        Kernels are weights of two dimensions or more: a bias of zeros is no sign of pruning.
        """
        kernels = [weight for weight in self.weights if len(weight.shape) > 1]
        elements = sum(weight.elements for weight in kernels)
        return sum(weight.zeros for weight in kernels) / elements if elements else None

    @property
    def flex(self) -> tuple[str, ...]:
        """Operators that need TensorFlow's kernels."""
        return tuple(name for name in self.custom if name.startswith(FLEX))

    @property
    def why_not_runnable_on_host(self) -> str | None:
        """The reason why no runtime on a host can run the file; None if one may.

        TensorFlow's own interpreter has had no Flex kernels in its wheels since 2.20
        (google-ai-edge/LiteRT issue 6458).
        """
        return why_not_runnable_on_host(self.custom)


def why_not_runnable_on_host(operators: Iterable[str]) -> str | None:
    """Return why a file with these operators runs only on some devices; None if the host may."""
    for name in operators:
        if name in COMPILED_FOR:
            what = "the Edge TPU" if name == EDGETPU else "an NPU"
            return f"compiled for {what}: not run on the host"
        if name.startswith(FLEX):
            return f"{name} needs a runtime with Flex: not run on the host"
    return None


def read(path: Path) -> FileFacts:
    """Read a .tflite file.

    Raises RecipeError if the file cannot be read or is not what it claims to be, and
    HarnessError if ai-edge-litert (which brings the schema) is not installed.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse(data, path)


def parse(data: bytes, path: Path) -> FileFacts:
    """Read the bytes of a .tflite file; `path` is for the messages. Raises as `read`."""
    with reading(data, path) as reader:
        return reader.facts()


@contextmanager
def reading(data: bytes, path: Path) -> Iterator[FlatbufferReader]:
    """Yield a reader of the bytes; a wrong offset raises RecipeError. Raises as `read`."""
    if len(data) < _ROOT_BYTES or data[4:8] != IDENTIFIER:
        raise RecipeError(
            f"{path}: not a .tflite file ({len(data):,} bytes, no TFL3 identifier); "
            + lfs.advice(path, "was the download cut short, or is it another format?")
        )
    schema = _schema()
    try:
        yield FlatbufferReader(data, path, schema)
    except _MALFORMED as error:
        raise RecipeError(
            f"{path}: the file is damaged ({len(data):,} bytes; {type(error).__name__}: {error}); "
            "copy or convert it again"
        ) from error


def keeps_state(path: Path) -> bool:
    """Return whether a file has variable tensors, which keep their values between inferences.

    Raises as `read`.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error})") from error
    with reading(data, path) as reader:
        return any(
            graph.Tensors(index).IsVariable()
            for graph in reader.subgraphs
            for index in range(reader.length(graph.TensorsLength()))
        )


def _schema() -> Any:  # noqa: ANN401 - a generated module without types
    try:
        from ai_edge_litert import schema_py_generated
    except ImportError as error:
        raise HarnessError(
            f"reading a .tflite file needs ai-edge-litert ({error}); "
            f"{assets.install_command('light')}"
        ) from error
    return schema_py_generated


@cache
def enum_names(enum: str) -> dict[int, str]:
    """Return the schema's names of an enumeration, by number."""
    members = vars(getattr(_schema(), enum))
    return {value: name for name, value in members.items() if isinstance(value, int)}


class FlatbufferReader:
    """One pass over one file; the generated accessors are lazy and read only what is used."""

    def __init__(self, data: bytes, path: Path, schema: Any) -> None:  # noqa: ANN401 - as _schema
        """Open the root; raises ValueError if there is no graph."""
        self.data = data
        self.path = path
        self.model = schema.Model.GetRootAs(data, 0)
        self.subgraphs = [
            self.model.Subgraphs(i) for i in range(self.length(self.model.SubgraphsLength()))
        ]
        if not self.subgraphs:
            raise ValueError("it has no graph")

    def facts(self) -> FileFacts:
        """Read every field of FileFacts."""
        codes = [
            self.operator_name(self.model.OperatorCodes(i))
            for i in range(self.length(self.model.OperatorCodesLength()))
        ]
        operators: Counter[str] = Counter()
        weights: list[Weight] = []
        quantised: list[str] = []
        for graph in self.subgraphs:
            used = [
                graph.Operators(i).OpcodeIndex()
                for i in range(self.length(graph.OperatorsLength()))
            ]
            operators.update(codes[index][0] for index in used)
            found, marked = self._tensors(graph)
            weights += found
            quantised += marked
        main = self.subgraphs[0]
        custom = sorted({name for name, is_custom in codes if is_custom and operators[name]})
        return FileFacts(
            path=self.path,
            digest=hashlib.sha256(self.data).hexdigest(),
            size_bytes=len(self.data),
            description=text(self.model.Description()),
            inputs=tuple(self._edge(main, i) for i in ints(main.InputsAsNumpy())),
            outputs=tuple(self._edge(main, i) for i in ints(main.OutputsAsNumpy())),
            signatures=self._signatures(),
            operators=dict(sorted(operators.items())),
            custom=tuple(custom),
            weights=tuple(weights),
            quantised=tuple(quantised),
            subgraphs=len(self.subgraphs),
        )

    def length(self, length: int) -> int:
        """Return the length; raises ValueError for a vector that cannot fit into the file."""
        if not 0 <= length * 4 <= len(self.data):
            raise ValueError(f"a list of {length:,} entries cannot fit")
        return length

    @staticmethod
    def operator_name(code: Any) -> tuple[str, bool]:  # noqa: ANN401 - as _schema
        """Return the name of an operator code, and whether it is a custom operator."""
        number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
        name = enum_names("BuiltinOperator").get(number, f"OPERATOR_{number}")
        if name != "CUSTOM":
            return name, False
        return text(code.CustomCode()) or "CUSTOM", True

    def _tensor(self, graph: Any, index: int) -> Any:  # noqa: ANN401 - as _schema
        if not 0 <= index < graph.TensorsLength():
            raise IndexError(f"tensor {index} of {graph.TensorsLength()}")
        return graph.Tensors(index)

    def _edge(self, graph: Any, index: int) -> Tensor:  # noqa: ANN401 - as _schema
        tensor = self._tensor(graph, index)
        shape = ints(tensor.ShapeAsNumpy())
        signature = ints(tensor.ShapeSignatureAsNumpy())
        if len(signature) == len(shape):
            shape = signature
        quantization = tensor.Quantization()
        scales = _floats(quantization.ScaleAsNumpy()) if quantization else []
        zeros = ints(quantization.ZeroPointAsNumpy()) if quantization else []
        one = len(scales) == 1 and math.isfinite(scales[0])
        return Tensor(
            name=text(tensor.Name()),
            shape=tuple(shape),
            dtype=dtype_name(tensor),
            scale=scales[0] if one else None,
            zero_point=(zeros[0] if zeros else 0) if one else None,
        )

    def _tensors(self, graph: Any) -> tuple[list[Weight], list[str]]:  # noqa: ANN401 - as _schema
        weights: list[Weight] = []
        quantised: list[str] = []
        for index in range(self.length(graph.TensorsLength())):
            tensor = graph.Tensors(index)
            dtype, name = dtype_name(tensor), text(tensor.Name())
            quantization = tensor.Quantization()
            scaled = quantization is not None and quantization.ScaleLength() > 0
            raw = self.buffer(tensor.Buffer())
            narrow = scaled or dtype == "float16"
            if narrow:
                quantised.append(name)
            shape = tuple(ints(tensor.ShapeAsNumpy()))
            if raw and (narrow or dtype.startswith(("float", "bfloat"))) and shape:
                weights.append(_weight(tensor, name, shape, dtype, raw, quantised=narrow))
        return weights, quantised

    def buffer(self, index: int) -> memoryview:
        """Return the bytes of a buffer; empty if its tensor is not a constant."""
        if index == 0:  # the format reserves it for the empty buffer, listed or not
            return memoryview(b"")
        if not 0 < index < self.model.BuffersLength():
            raise IndexError(f"buffer {index} of {self.model.BuffersLength()}")
        buffer = self.model.Buffers(index)
        if buffer.Offset() > 1:  # stored after the tables, as in files over 2 GB
            end = buffer.Offset() + buffer.Size()
            if end > len(self.data):
                raise ValueError(f"buffer {index} ends at {end:,}")
            return memoryview(self.data)[buffer.Offset() : end]
        if buffer.DataIsNone():
            return memoryview(b"")
        return memoryview(buffer.DataAsNumpy())

    def _signatures(self) -> tuple[Signature, ...]:
        found = []
        for i in range(self.length(self.model.SignatureDefsLength())):
            entry = self.model.SignatureDefs(i)
            graph = self.subgraphs[entry.SubgraphIndex()]
            ends: list[dict[str, str]] = []
            for get, length in (
                (entry.Inputs, entry.InputsLength()),
                (entry.Outputs, entry.OutputsLength()),
            ):
                maps = [get(j) for j in range(self.length(length))]
                ends.append(
                    {
                        text(item.Name()): text(self._tensor(graph, item.TensorIndex()).Name())
                        for item in maps
                    }
                )
            found.append(
                Signature(
                    name=text(entry.SignatureKey()),
                    subgraph=entry.SubgraphIndex(),
                    inputs=ends[0],
                    outputs=ends[1],
                )
            )
        return tuple(found)


def _weight(
    tensor: Any,  # noqa: ANN401 - as _schema
    name: str,
    shape: tuple[int, ...],
    dtype: str,
    raw: memoryview,
    *,
    quantised: bool,
) -> Weight:
    elements = math.prod(shape)
    if elements < 0:
        raise ValueError(f"{name} has the shape {shape}")
    stored = stored_elements(raw, dtype)
    quantization = tensor.Quantization()
    points = ints(quantization.ZeroPointAsNumpy()) if quantization else []
    zero = points[0] if points and len(set(points)) == 1 else 0
    nonzero = int(np.count_nonzero(stored != zero)) if stored is not None else elements
    if tensor.Sparsity() is None and stored is not None and stored.size < elements:
        raise ValueError(f"{name} {list(shape)} {dtype} has only {len(raw):,} bytes")
    return Weight(
        name=name,
        shape=shape,
        dtype=dtype,
        quantised=quantised,
        bytes=len(raw),
        zeros=max(elements - nonzero, 0),
    )


def stored_elements(raw: memoryview, dtype: str) -> np.ndarray[Any, Any] | None:
    """Return the stored elements; None for a dtype that numpy does not have."""
    if dtype == "int4":
        packed = np.frombuffer(raw, np.uint8)
        nibbles = np.stack([packed & 0xF, packed >> 4], axis=-1).reshape(-1)
        return np.where(nibbles > 7, nibbles.astype(np.int8) - 16, nibbles)  # noqa: PLR2004
    if dtype not in _NUMPY:
        return None
    kind = np.dtype(_NUMPY[dtype])
    return np.frombuffer(raw, kind, count=len(raw) // kind.itemsize)


def dtype_name(tensor: Any) -> str:  # noqa: ANN401 - as _schema
    """Return a tensor's dtype by numpy's name: `float32`, `int8`, `int4`, ..."""
    return enum_names("TensorType").get(tensor.Type(), f"type {tensor.Type()}").lower()


def text(raw: bytes | None) -> str:
    """Decode a name of the file; invalid UTF-8 is replaced."""
    return (raw or b"").decode("utf-8", "replace")


def ints(array: Any) -> list[int]:  # noqa: ANN401 - numpy array, or 0 if the vector is absent
    """Return a vector's numbers; an empty list if it is absent."""
    return [] if isinstance(array, int) else [int(value) for value in array]


def _floats(array: Any) -> list[float]:  # noqa: ANN401 - as _ints
    return [] if isinstance(array, int) else [float(value) for value in array]
