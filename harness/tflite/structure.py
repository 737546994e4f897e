"""Statistics of a .tflite file's weights per layer: zeros, distinct values, dtype, bytes.

    for layer in structure.read(Path("model.tflite")):
        layer.name, layer.operator, layer.sparsity, layer.unique_per_channel

Reading runs nothing and loads no native code; a damaged file raises one RecipeError.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RecipeError
from harness.tflite import flatbuffer
from harness.tflite.flatbuffer import FlatbufferReader
from harness.tflite.numeric import Array

_PASSED_THROUGH = ("DEQUANTIZE", "DENSIFY")
"""Operators that only unpack a constant; the layer is the operator after them."""
_CHANNEL_AXIS = {
    "CONV_2D": 0,
    "DEPTHWISE_CONV_2D": 3,
    "EMBEDDING_LOOKUP": 0,
    "FULLY_CONNECTED": 0,
    "TRANSPOSE_CONV": 0,
}
"""Axis of the output channels in an operator's weights (the TFLite kernels' layouts)."""
_GROUP = 4
_AT_ONCE = 1 << 24
"""Elements sorted at a time, so that no large tensor is copied whole."""
_NARROW = ("int8", "uint8", "int4", "uint4", "int2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A constant of two dimensions or more that an operator computes with."""

    name: str
    operator: str
    """The TFLite operator that uses it, or uses it through a DEQUANTIZE or DENSIFY."""
    shape: tuple[int, ...]
    dtype: str
    bytes: int
    """Stored bytes; a constant that several tensors share counts once, at the first."""
    zeros: int
    unique: int | None
    """Distinct stored values. This and the next two are null if the stored form does not allow
    counting (a sparse format without positions, a dtype that numpy does not have)."""
    unique_per_channel: int | None
    """Largest number of distinct values in one output channel."""
    nonzeros_per_4: int | None
    """Largest number of nonzeros among 4 neighbours along the last dimension."""

    @property
    def elements(self) -> int:
        """Count the elements."""
        return math.prod(self.shape)

    @property
    def sparsity(self) -> float:
        """Share of zeros, 0..1."""
        return self.zeros / self.elements if self.elements else 0.0

    @property
    def bits(self) -> int:
        """Stored bits of an element; 0 if the dtype does not say."""
        found = re.search(r"\d+$", self.dtype)
        return int(found[0]) if found else 0

    def plain(self) -> dict[str, Any]:
        """Return a JSON-able row with the computed values; the name is long and comes last."""
        row = asdict(self) | {
            "shape": list(self.shape),
            "elements": self.elements,
            "sparsity": round(self.sparsity, 4),
        }
        return row | {"name": row.pop("name")}


def read(path: Path) -> tuple[Layer, ...]:
    """Read the layers of a file, in the order of its tensors. Raises as `flatbuffer.read`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse(data, path)


def parse(data: bytes, path: Path) -> tuple[Layer, ...]:
    """Read the layers from a file's bytes; `path` is for the messages. Raises as `read`."""
    with flatbuffer.reading(data, path) as reader:
        seen: set[int] = set()
        return tuple(layer for graph in reader.subgraphs for layer in _layers(reader, graph, seen))


def int8_share(layers: Iterable[Layer]) -> float:
    """Return the share of the layers' elements stored in 8 bits or fewer; 0 without layers."""
    return share_within(layers, 8)


def share_within(layers: Iterable[Layer], bits: int) -> float:
    """Return the share of the layers' elements stored in at most `bits`; 0 without layers."""
    chosen = list(layers)
    total = sum(layer.elements for layer in chosen)
    narrow = sum(layer.elements for layer in chosen if layer.bits <= bits)
    return narrow / total if total else 0.0


def _layers(reader: FlatbufferReader, graph: Any, seen: set[int]) -> list[Layer]:  # noqa: ANN401 - generated
    users = _users(reader, graph)
    found = []
    for index in range(reader.length(graph.TensorsLength())):
        tensor = graph.Tensors(index)
        shape = tuple(flatbuffer.ints(tensor.ShapeAsNumpy()))
        if len(shape) < 2 or index not in users:  # noqa: PLR2004 - a bias is no kernel
            continue
        dtype = flatbuffer.dtype_name(tensor)
        quantization = tensor.Quantization()
        scales = quantization.ScaleLength() if quantization is not None else 0
        blocks = dtype in _NARROW  # blockwise scales are a separate tensor
        if not (scales or blocks or dtype.startswith(("float", "bfloat"))):
            continue
        raw = reader.buffer(tensor.Buffer())
        if raw:
            shared = tensor.Buffer() in seen
            seen.add(tensor.Buffer())
            found.append(_layer(tensor, shape, dtype, raw, users[index], shared=shared))
    return found


def _users(reader: FlatbufferReader, graph: Any) -> dict[int, str]:  # noqa: ANN401 - generated classes
    """Return the operator that uses each tensor, by the tensor's index."""
    codes = [
        reader.operator_name(reader.model.OperatorCodes(i))[0]
        for i in range(reader.length(reader.model.OperatorCodesLength()))
    ]
    users: dict[int, str] = {}
    through: dict[int, int] = {}
    for i in range(reader.length(graph.OperatorsLength())):
        operator = graph.Operators(i)
        name = codes[operator.OpcodeIndex()]
        inputs = flatbuffer.ints(operator.InputsAsNumpy())
        for index in inputs:
            users.setdefault(index, name)
        if name in _PASSED_THROUGH and inputs:
            through[inputs[0]] = flatbuffer.ints(operator.OutputsAsNumpy())[0]
    return {index: _final_user(index, name, users, through) for index, name in users.items()}


def _final_user(index: int, user: str, users: Mapping[int, str], through: Mapping[int, int]) -> str:
    """Follow a constant through the operators that only unpack it."""
    for _ in _PASSED_THROUGH:
        if user not in _PASSED_THROUGH or index not in through:
            break
        index = through[index]
        user = users.get(index, user)
    return user


def _layer(
    tensor: Any,  # noqa: ANN401 - generated classes
    shape: tuple[int, ...],
    dtype: str,
    raw: memoryview,
    operator: str,
    *,
    shared: bool,
) -> Layer:
    elements = math.prod(shape)
    if min(shape) < 0:
        raise ValueError(f"a constant has the shape {list(shape)}")
    name = flatbuffer.text(tensor.Name())
    quantization = tensor.Quantization()
    points = flatbuffer.ints(quantization.ZeroPointAsNumpy()) if quantization is not None else []
    zero = points[0] if points and len(set(points)) == 1 else 0
    stored = flatbuffer.stored_elements(raw, dtype)
    nonzero = elements if stored is None else int(np.count_nonzero(stored[:elements] != zero))
    dense = stored is not None and tensor.Sparsity() is None
    if dense and stored is not None and stored.size < elements:
        raise ValueError(f"{name} {list(shape)} {dtype} has only {len(raw):,} bytes")
    counts: tuple[int, int, int] | tuple[None, None, None] = (None, None, None)
    if dense and stored is not None and elements:
        axis = _channel_axis(quantization, operator, len(shape))
        counts = _counts(stored[:elements].reshape(shape), axis, zero)
    return Layer(
        name=name,
        operator=operator,
        shape=shape,
        dtype=dtype,
        bytes=0 if shared else len(raw),
        zeros=max(elements - nonzero, 0),
        unique=counts[0],
        unique_per_channel=counts[1],
        nonzeros_per_4=counts[2],
    )


def _channel_axis(quantization: Any, operator: str, rank: int) -> int | None:  # noqa: ANN401 - generated
    if quantization is not None and quantization.ScaleLength() > 1:
        axis = int(quantization.QuantizedDimension())
    else:
        axis = _CHANNEL_AXIS.get(operator, -1)
    return axis if 0 <= axis < rank else None


def _counts(values: Array, axis: int | None, zero: int) -> tuple[int, int, int]:
    """Count distinct values: all, the most in a channel; and the most nonzeros in a group of 4."""
    ordered = np.sort(values, axis=None)  # numpy.unique would make a second copy of a large tensor
    unique = int(np.count_nonzero(ordered[1:] != ordered[:-1])) + 1
    del ordered
    channels = values.reshape(1, -1)
    if axis is not None:
        channels = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    step = max(1, _AT_ONCE // channels.shape[1])
    most = 0
    for start in range(0, len(channels), step):
        rows = np.sort(channels[start : start + step], axis=1)
        most = max(most, int((rows[:, 1:] != rows[:, :-1]).sum(axis=1).max()) + 1)
    width = values.shape[-1]
    filled = (values != zero).reshape(-1, width)
    padded = np.pad(filled, ((0, 0), (0, -width % _GROUP)))
    groups = padded.reshape(len(padded), -1, _GROUP).sum(axis=2)
    return unique, most, int(groups.max())
