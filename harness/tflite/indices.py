"""Find the inputs of a .tflite file that hold indices, and the range that they must stay in.

    indices.read(Path("model.tflite"))   # {"tokens": IndexRange(high=4999, of="GATHER, 5,000 rows")}

The values of each input are followed through the graph as an interval: through copies (reshape,
concatenate, slice, cast), arithmetic with constants, comparisons and selections. Where an interval
meets an operand that indexes a table, it has to lie inside the table. Negative indices are never
chosen. If the interval is not known at that place, 0 and 1 are chosen. What a layer with weights
computes is not followed: a model keeps indices of its own making in range.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from harness.errors import RecipeError
from harness.tflite import flatbuffer
from harness.tflite.flatbuffer import FlatbufferReader

_NOISE = 8.0
"""Largest magnitude of normal noise that is expected among random inputs."""
_MOST_INDEX = (1 << 31) - 1
"""Largest index that is tried; every table is smaller."""
_MOST_FLOAT = 1 << 24
"""Largest index that a float32 holds exactly."""
_UNKNOWN_HIGH = 1
_CONSTANT_BYTES = 1 << 16
"""Size of a constant above which its values are not read: it is a table, not a limit."""
_MAX_DEPTH = 8
"""Nested subgraphs that are followed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexRange:
    """The values that an input with indices may hold: the integers from 0 to `high`."""

    high: int
    of: str
    """What they index: the operator and the size of its table."""
    known: bool = True
    """Whether the graph gives the bound; else `high` is 1, which nearly every table allows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Span:
    """The values that a tensor may hold, ends included."""

    low: float
    high: float


@dataclass(slots=True, kw_only=True)
class _Flow:
    """What is known of one graph's tensors while one input is followed."""

    graph: Any
    spans: dict[int, _Span | None] = field(default_factory=dict)
    """None: the values are not known."""
    followed: set[int] = field(default_factory=set)
    """Tensors whose values come from the input."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    """A place where the followed values may lie outside of a table."""

    of: str
    known: bool


def read(path: Path) -> dict[str, IndexRange]:
    """Return the range of each input that holds indices, by tensor name. Raises as `flatbuffer.read`."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror or error})") from error
    return parse(data, path)


def parse(data: bytes, path: Path) -> dict[str, IndexRange]:
    """Return the ranges of a file's bytes; `path` is for the messages. Raises as `read`."""
    with flatbuffer.reading(data, path) as reader:
        finder = _Finder(reader)
        main = reader.subgraphs[0]
        found: dict[str, IndexRange] = {}
        for index in flatbuffer.ints(main.InputsAsNumpy()):
            limit = finder.limit(index)
            if limit is not None:
                found[flatbuffer.text(main.Tensors(index).Name())] = limit
        return found


class _Finder:
    """Follows one input at a time."""

    def __init__(self, reader: FlatbufferReader) -> None:
        self._reader = reader
        self._codes = [
            reader.operator_name(reader.model.OperatorCodes(i))[0]
            for i in range(reader.length(reader.model.OperatorCodesLength()))
        ]

    def limit(self, index: int) -> IndexRange | None:
        """Return the range of an input; None if any value of its type will do."""
        tensor = self._reader.subgraphs[0].Tensors(index)
        dtype, quantization = flatbuffer.dtype_name(tensor), tensor.Quantization()
        whole = _whole(dtype)
        if whole is None or (quantization is not None and quantization.ScaleLength()):
            return None
        fault = self._fault(index, whole)
        if fault is None or (dtype.startswith("float") and not fault.known):
            return None
        known = fault.known and self._fault(index, _Span(low=0, high=0)) is None
        if not known and dtype.startswith("float"):
            return None
        if not known:
            return IndexRange(high=_UNKNOWN_HIGH, of=fault.of, known=False)
        top = int(min(_MOST_INDEX, _MOST_FLOAT if dtype.startswith("float") else whole.high))
        fits, over = 0, top + 1
        while over - fits > 1:
            middle = (fits + over) // 2
            now = self._fault(index, _Span(low=0, high=middle))
            if now is None:
                fits = middle
            else:
                over, fault = middle, now
        return IndexRange(high=fits, of=fault.of)

    def _fault(self, index: int, span: _Span) -> _Fault | None:
        """Return the first place where values of the span may lie outside of a table."""
        flow = _Flow(graph=self._reader.subgraphs[0])
        flow.spans[index] = span
        flow.followed.add(index)
        return self._walk(flow, 0)

    def _walk(self, flow: _Flow, depth: int) -> _Fault | None:
        for place in range(self._reader.length(flow.graph.OperatorsLength())):
            operator = flow.graph.Operators(place)
            inputs = flatbuffer.ints(operator.InputsAsNumpy())
            if not any(item in flow.followed for item in inputs):
                continue
            kind = self._codes[operator.OpcodeIndex()]
            fault = self._outside(flow, kind, operator, inputs)
            if fault is None and kind in _SUBGRAPHS and depth < _MAX_DEPTH:
                fault = self._inside(flow, kind, operator, inputs, depth)
            if fault is not None:
                return fault
            self._pass_on(flow, kind, operator, inputs)
        return None

    def _outside(
        self,
        flow: _Flow,
        kind: str,
        operator: Any,  # noqa: ANN401 - generated classes
        inputs: Sequence[int],
    ) -> _Fault | None:
        """Check the operands of one operator that index something."""
        for place in _STRUCTURE.get(kind, ()):
            if place < len(inputs) and inputs[place] in flow.followed:
                return _Fault(of=f"{kind}, a size", known=False)
        operand = _INDEX_OPERAND.get(kind)
        if operand is None or operand >= len(inputs) or inputs[operand] not in flow.followed:
            return None
        rows = self._rows(flow, kind, operator, inputs)
        span = flow.spans.get(inputs[operand])
        if rows is None or span is None:
            return _Fault(of=kind, known=False)
        if span.low >= 0 and span.high < rows:
            return None
        return _Fault(of=f"{kind}, {rows:,} rows", known=True)

    def _rows(self, flow: _Flow, kind: str, operator: Any, inputs: Sequence[int]) -> int | None:  # noqa: ANN401 - generated classes
        """Return the number of rows that an operator's indices may name."""
        if kind in _SIZE_OPERAND:
            size = self._span(flow, inputs[_SIZE_OPERAND[kind]])
            return None if size is None else int(size.low)
        table = inputs[_TABLE_OPERAND.get(kind, 0)]
        shape = flatbuffer.ints(flow.graph.Tensors(table).ShapeAsNumpy())
        if not shape or min(shape) < 1:
            return None
        if kind == "GATHER":
            axis = _axis(operator)
            return shape[axis] if -len(shape) <= axis < len(shape) else None
        if kind == "GATHER_ND":
            places = flatbuffer.ints(flow.graph.Tensors(inputs[1]).ShapeAsNumpy())
            return min(shape[: places[-1]], default=None) if places else None
        return shape[0]

    def _inside(
        self,
        flow: _Flow,
        kind: str,
        operator: Any,  # noqa: ANN401 - generated classes
        inputs: Sequence[int],
        depth: int,
    ) -> _Fault | None:
        """Follow the values into the graphs that an operator calls."""
        fed = inputs[1:] if kind == "IF" else inputs
        for number in _called(kind, operator):
            graph = self._reader.subgraphs[number]
            inner = _Flow(graph=graph)
            for outer, index in zip(fed, flatbuffer.ints(graph.InputsAsNumpy()), strict=False):
                inner.spans[index] = self._span(flow, outer)
                if outer in flow.followed:
                    inner.followed.add(index)
            fault = self._walk(inner, depth + 1)
            if fault is not None:
                return fault
        return None

    def _pass_on(self, flow: _Flow, kind: str, operator: Any, inputs: Sequence[int]) -> None:  # noqa: ANN401 - generated classes
        """Give the operator's outputs their span."""
        if kind in _FRESH:
            return
        spans = [self._span(flow, item) if item >= 0 else None for item in inputs]
        made = _SPANS.get(kind, _nothing)(spans)
        for index in flatbuffer.ints(operator.OutputsAsNumpy()):
            dtype = flatbuffer.dtype_name(flow.graph.Tensors(index))
            if kind in _SPANS or dtype.startswith(("int", "uint")):
                flow.followed.add(index)
                flow.spans[index] = _stored(made, dtype)

    def _span(self, flow: _Flow, index: int) -> _Span | None:
        if index not in flow.spans:
            flow.spans[index] = self._constant(flow.graph.Tensors(index))
        return flow.spans[index]

    def _constant(self, tensor: Any) -> _Span | None:  # noqa: ANN401 - generated classes
        raw = self._reader.buffer(tensor.Buffer())
        if not raw or len(raw) > _CONSTANT_BYTES:
            return None
        values = flatbuffer.stored_elements(raw, flatbuffer.dtype_name(tensor))
        if values is None or not values.size:
            return None
        low, high = float(values.min()), float(values.max())
        return _Span(low=low, high=high) if math.isfinite(low) and math.isfinite(high) else None


def _whole(dtype: str) -> _Span | None:
    """Return the span of random values of a dtype; None for one without numbers or with two."""
    if dtype.startswith("float"):
        return _Span(low=-_NOISE, high=_NOISE)
    if not dtype.startswith(("int", "uint")) or not hasattr(np, dtype):
        return None
    limits = np.iinfo(dtype)
    return _Span(low=float(limits.min), high=float(limits.max))


def _stored(span: _Span | None, dtype: str) -> _Span | None:
    """Return the span after storing in a dtype: integers are truncated, and too large ones wrap."""
    if span is None or dtype.startswith("float"):
        return span
    whole = _whole(dtype)
    if whole is None:
        return span
    low, high = float(math.trunc(span.low)), float(math.trunc(span.high))
    return _Span(low=low, high=high) if whole.low <= low and high <= whole.high else whole


def _axis(operator: Any) -> int:  # noqa: ANN401 - generated classes
    from ai_edge_litert import schema_py_generated as schema

    table = operator.BuiltinOptions()
    if table is None:
        return 0
    options = schema.GatherOptions()
    options.Init(table.Bytes, table.Pos)
    return int(options.Axis())


def _called(kind: str, operator: Any) -> tuple[int, ...]:  # noqa: ANN401 - generated classes
    from ai_edge_litert import schema_py_generated as schema

    table = operator.BuiltinOptions()
    if table is None:
        return ()
    options = getattr(schema, _SUBGRAPHS[kind])()
    options.Init(table.Bytes, table.Pos)
    if kind == "IF":
        return (options.ThenSubgraphIndex(), options.ElseSubgraphIndex())
    return (options.CondSubgraphIndex(), options.BodySubgraphIndex())


Spans = Sequence[_Span | None]
_BOOLEAN = _Span(low=0, high=1)


def _nothing(spans: Spans) -> None:
    del spans


def _same(spans: Spans) -> _Span | None:
    return spans[0]


def _union(spans: Spans) -> _Span | None:
    found = [span for span in spans if span is not None]
    if not found or len(found) != len(spans):
        return None
    return _Span(low=min(item.low for item in found), high=max(item.high for item in found))


def _pair(combine: Callable[[_Span, _Span], _Span | None]) -> Callable[[Spans], _Span | None]:
    """Return the span of two known operands."""

    def of(spans: Spans) -> _Span | None:
        left, right = spans[0], spans[1]
        return None if left is None or right is None else combine(left, right)

    return of


def _one(change: Callable[[float], float]) -> Callable[[Spans], _Span | None]:
    """Return the span of a rising function."""

    def of(spans: Spans) -> _Span | None:
        span = spans[0]
        return None if span is None else _Span(low=change(span.low), high=change(span.high))

    return of


def _product(left: _Span, right: _Span) -> _Span:
    ends = [a * b for a in (left.low, left.high) for b in (right.low, right.high)]
    return _Span(low=min(ends), high=max(ends))


def _remainder(left: _Span, right: _Span) -> _Span | None:
    del left
    return _Span(low=0, high=right.high) if right.low > 0 else None


def _quotient(left: _Span, right: _Span) -> _Span | None:
    if right.low <= 0:
        return None
    ends = [a / b for a in (left.low, left.high) for b in (right.low, right.high)]
    return _Span(low=math.floor(min(ends)), high=max(ends))


def _absolute(spans: Spans) -> _Span | None:
    span = spans[0]
    if span is None:
        return None
    high = max(abs(span.low), abs(span.high))
    return _Span(
        low=0 if span.low <= 0 <= span.high else min(abs(span.low), abs(span.high)), high=high
    )


def _less(left: _Span, right: _Span) -> _Span:
    if left.high < right.low:
        return _Span(low=1, high=1)
    return _Span(low=0, high=0) if left.low >= right.high else _BOOLEAN


def _less_equal(left: _Span, right: _Span) -> _Span:
    if left.high <= right.low:
        return _Span(low=1, high=1)
    return _Span(low=0, high=0) if left.low > right.high else _BOOLEAN


def _boolean(spans: Spans) -> _Span:
    del spans
    return _BOOLEAN


def _select(spans: Spans) -> _Span | None:
    chosen = spans[0]
    if chosen is not None and chosen.low == chosen.high:
        return spans[1] if chosen.low else spans[2]
    return _union(spans[1:3])


def _padded(spans: Spans) -> _Span | None:
    value = spans[2] if len(spans) > 2 else _Span(low=0, high=0)  # noqa: PLR2004 - PADV2's value
    return _union([spans[0], value])


_COPIES = [
    "BROADCAST_TO",
    "CAST",
    "DEQUANTIZE",
    "EXPAND_DIMS",
    "GATHER",
    "GATHER_ND",
    "MIRROR_PAD",
    "QUANTIZE",
    "REDUCE_MAX",
    "REDUCE_MIN",
    "RESHAPE",
    "REVERSE_V2",
    "SLICE",
    "SPLIT_V",
    "SQUEEZE",
    "STRIDED_SLICE",
    "TILE",
    "TRANSPOSE",
    "UNPACK",
    "SPACE_TO_DEPTH",
    "DEPTH_TO_SPACE",
    "MAX_POOL_2D",
    "RESIZE_NEAREST_NEIGHBOR",
    "REVERSE_SEQUENCE",
]
_SPANS: Mapping[str, Callable[[Spans], _Span | None]] = {
    **dict.fromkeys(_COPIES, _same),
    "SPLIT": lambda spans: spans[1],  # its first input is the axis
    **dict.fromkeys(("CONCATENATION", "PACK"), _union),
    **dict.fromkeys(("PAD", "PADV2"), _padded),
    **dict.fromkeys(("SELECT", "SELECT_V2"), _select),
    **dict.fromkeys(
        (
            "EQUAL",
            "NOT_EQUAL",
            "LOGICAL_AND",
            "LOGICAL_OR",
            "LOGICAL_NOT",
            "REDUCE_ANY",
            "REDUCE_ALL",
        ),
        _boolean,
    ),
    "ADD": _pair(lambda a, b: _Span(low=a.low + b.low, high=a.high + b.high)),
    "SUB": _pair(lambda a, b: _Span(low=a.low - b.high, high=a.high - b.low)),
    "MUL": _pair(_product),
    "DIV": _pair(_quotient),
    "FLOOR_DIV": _pair(_quotient),
    "FLOOR_MOD": _pair(_remainder),
    "MAXIMUM": _pair(lambda a, b: _Span(low=max(a.low, b.low), high=max(a.high, b.high))),
    "MINIMUM": _pair(lambda a, b: _Span(low=min(a.low, b.low), high=min(a.high, b.high))),
    "LESS": _pair(_less),
    "LESS_EQUAL": _pair(_less_equal),
    "GREATER": _pair(lambda a, b: _less(b, a)),
    "GREATER_EQUAL": _pair(lambda a, b: _less_equal(b, a)),
    "ABS": _absolute,
    "FLOOR": _one(math.floor),
    "CEIL": _one(math.ceil),
    "ROUND": _one(round),
    "RELU": _one(lambda value: max(value, 0)),
    "RELU6": _one(lambda value: min(max(value, 0), 6)),
}
"""The span of an operator's outputs from the spans of its inputs; unknown for any other."""
_FRESH = [
    "ARG_MAX",
    "ARG_MIN",
    "NON_MAX_SUPPRESSION_V4",
    "NON_MAX_SUPPRESSION_V5",
    "RANK",
    "SHAPE",
    "TOPK_V2",
    "UNIQUE",
    "WHERE",
    "ZEROS_LIKE",
]
"""Operators whose outputs are in range for any input: positions that they found themselves."""
_INDEX_OPERAND = {
    "EMBEDDING_LOOKUP": 0,
    "EMBEDDING_LOOKUP_SPARSE": 0,
    "GATHER": 1,
    "GATHER_ND": 1,
    "ONE_HOT": 0,
    "SCATTER_ND": 0,
    "UNSORTED_SEGMENT_MAX": 1,
    "UNSORTED_SEGMENT_MIN": 1,
    "UNSORTED_SEGMENT_PROD": 1,
    "UNSORTED_SEGMENT_SUM": 1,
}
"""The operand that indexes a table."""
_SIZE_OPERAND = {
    "ONE_HOT": 1,
    "SCATTER_ND": 2,
    "UNSORTED_SEGMENT_MAX": 2,
    "UNSORTED_SEGMENT_MIN": 2,
    "UNSORTED_SEGMENT_PROD": 2,
    "UNSORTED_SEGMENT_SUM": 2,
}
"""The operand that gives the number of rows, where no table does."""
_TABLE_OPERAND = {"EMBEDDING_LOOKUP": 1, "EMBEDDING_LOOKUP_SPARSE": 4}
"""The operand that is the table; the first one for the others."""
_STRUCTURE = {
    "BROADCAST_TO": (1,),
    "FILL": (0,),
    "ONE_HOT": (1,),
    "PAD": (1,),
    "PADV2": (1,),
    "RANGE": (0, 1, 2),
    "RESHAPE": (1,),
    "REVERSE_SEQUENCE": (1,),
    "SEGMENT_SUM": (1,),
    "SLICE": (1, 2),
    "SPARSE_TO_DENSE": (0, 1),
    "SPLIT_V": (1,),
    "STRIDED_SLICE": (1, 2, 3),
    "TILE": (1,),
    "TOPK_V2": (1,),
}
"""Operands that are sizes or positions; which values they allow depends on the whole graph."""
_SUBGRAPHS = {"IF": "IfOptions", "WHILE": "WhileOptions"}
"""Operators that call graphs of the file, and the schema's class of their options."""
