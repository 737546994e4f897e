"""Prefixes of a .tflite file: the same graph, cut after an operator.

A prefix keeps the file's inputs, tensors and operators up to a cut. Its outputs are the tensors
from before the cut that later operators use or that are outputs of the file. An operator that
depends on constants only (the DEQUANTIZE of float16 weights) is folded once by a delegate and
costs nothing per inference: a prefix keeps it if another operator needs it, and no cut follows it.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.errors import RecipeError
from harness.tflite import flatbuffer

MAX_PREFIXES = 64
"""More operators are grouped: launches cost time, and noise hides small differences."""

_MAX_BYTES = 1 << 31
_NAMED = 3
"""Operator types of a group that are written out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphOperator:
    """One operator of the main graph."""

    index: int
    type: str
    name: str
    """Name of its first output."""
    constant: bool
    """Whether it depends on constants only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Prefix:
    """The graph up to and including the operator `last`."""

    first: int
    """The first operator that the previous prefix does not have."""
    last: int
    type: str
    """Types of the operators that it adds."""
    name: str
    data: bytes


class Graph:
    """One file's main graph, opened for cutting."""

    def __init__(self, path: Path) -> None:
        """Read and check the file; raises RecipeError if it cannot be cut."""
        from ai_edge_litert.tools import flatbuffer_utils

        flatbuffer.read(path)  # refuses a damaged file, with the reason
        data = path.read_bytes()
        if len(data) >= _MAX_BYTES:
            raise RecipeError(
                f"{path}: files of 2 GiB and more cannot be cut; use --benchmark-model"
            )
        self._path = path
        try:
            self._model = flatbuffer_utils.read_model_from_bytearray(bytearray(data))
            self._graph = self._model.subgraphs[0]
            self.operators = self._operators()
        except (AttributeError, IndexError, TypeError, ValueError, struct.error) as error:
            raise RecipeError(
                f"{path}: the file cannot be cut ({type(error).__name__}: {error}); "
                "use --benchmark-model"
            ) from error

    def cuts(self, at_most: int = MAX_PREFIXES) -> list[int]:
        """Return the operators to cut after: all, or `at_most` evenly spread with the last one.

        Raises RecipeError if no operator depends on an input.
        """
        possible = [one.index for one in self.operators if not one.constant]
        if not possible:
            raise RecipeError(f"{self._path}: none of its operators depends on an input")
        possible = [index for index in possible if self._frontier(index)]
        if len(possible) <= at_most:
            return possible
        count = len(possible)
        return [possible[(k + 1) * count // at_most - 1] for k in range(at_most)]

    def prefixes(self, at_most: int = MAX_PREFIXES) -> list[Prefix]:
        """Cut the graph; the last prefix has every operator that a result depends on."""
        made, start = [], 0
        for cut in self.cuts(at_most):
            added = [one for one in self.operators[start : cut + 1] if not one.constant]
            made.append(
                Prefix(
                    first=added[0].index,
                    last=cut,
                    type=types(added),
                    name=self.operators[cut].name,
                    data=self._ended_after(cut),
                )
            )
            start = cut + 1
        return made

    def _operators(self) -> list[GraphOperator]:
        types = [_type_name(code) for code in self._model.operatorCodes]
        constants = {
            index
            for index, tensor in enumerate(self._graph.tensors)
            if self._has_data(tensor) and index not in self._graph.inputs
        }
        found = []
        for index, one in enumerate(self._graph.operators):
            given = [tensor for tensor in _list(one.inputs) if tensor >= 0]
            made = _list(one.outputs)
            constant = bool(made) and all(tensor in constants for tensor in given)
            if constant:
                constants.update(made)
            name = _text(self._graph.tensors[made[0]].name) if made else ""
            found.append(
                GraphOperator(
                    index=index, type=types[one.opcodeIndex], name=name, constant=constant
                )
            )
        return found

    def _has_data(self, tensor: Any) -> bool:  # noqa: ANN401 - generated classes
        data = self._model.buffers[tensor.buffer].data
        return data is not None and len(data) > 0

    def _frontier(self, cut: int) -> list[int]:
        """List the tensors that non-constant operators make up to the cut and later ones need."""
        used = {
            tensor
            for one in self._graph.operators[cut + 1 :]
            for tensor in _list(one.inputs)
            if tensor >= 0
        } | set(_list(self._graph.outputs))
        return [
            tensor
            for known in self.operators[: cut + 1]
            if not known.constant
            for tensor in _list(self._graph.operators[known.index].outputs)
            if tensor in used and self._can_be_output(tensor)
        ]

    def _can_be_output(self, tensor: int) -> bool:
        """Return whether a graph can return the tensor; it cannot return handles of variables."""
        from ai_edge_litert import schema_py_generated as schema

        kinds = schema.TensorType
        return self._graph.tensors[tensor].type not in {kinds.RESOURCE, kinds.VARIANT}

    def _ended_after(self, cut: int) -> bytes:
        from ai_edge_litert import schema_py_generated as schema
        from ai_edge_litert.tools import flatbuffer_utils

        graph = copy.copy(self._graph)
        graph.outputs = self._frontier(cut)
        graph.operators = [self._graph.operators[index] for index in self._kept(cut)]
        model = copy.copy(self._model)
        model.subgraphs = [graph, *self._model.subgraphs[1:]]
        # Both refer to tensors and buffers of the whole file; prefixes run without a signature.
        model.signatureDefs, model.metadata, model.metadataBuffer = [], [], []
        used = self._buffers(graph)
        model.buffers = [
            buffer if index in used else schema.BufferT()
            for index, buffer in enumerate(self._model.buffers)
        ]
        return bytes(flatbuffer_utils.convert_object_to_bytearray(model))

    def _kept(self, cut: int) -> list[int]:
        """List the operators up to the cut, with only those constant ones that others use."""
        wanted = {one.index for one in self.operators[: cut + 1] if not one.constant}
        needed = self._taken(wanted)
        for one in reversed(self.operators[: cut + 1]):
            made = _list(self._graph.operators[one.index].outputs)
            if one.constant and needed.intersection(made):
                wanted.add(one.index)
                needed |= self._taken({one.index})
        return sorted(wanted)

    def _taken(self, operators: set[int]) -> set[int]:
        return {
            tensor for index in operators for tensor in _list(self._graph.operators[index].inputs)
        }

    def _buffers(self, graph: Any) -> set[int]:  # noqa: ANN401 - generated classes
        """List the buffers that the kept operators read, and those of graphs they may call."""
        used = {
            self._graph.tensors[tensor].buffer
            for one in graph.operators
            for tensor in (*_list(one.inputs), *_list(one.intermediates))
            if tensor >= 0
        }
        for other in self._model.subgraphs[1:]:
            used |= {tensor.buffer for tensor in other.tensors}
        return used


def types(operators: Sequence[GraphOperator]) -> str:
    """Name the types of a group: the first three, then the number of the others."""
    names = [one.type for one in operators]
    more = f" + {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return " + ".join(names[:_NAMED]) + more


def _type_name(code: Any) -> str:  # noqa: ANN401 - generated classes
    from ai_edge_litert import schema_py_generated as schema

    number = max(code.builtinCode, code.deprecatedBuiltinCode)
    if number == schema.BuiltinOperator.CUSTOM:
        return _text(code.customCode) or "CUSTOM"
    names = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    return str(names.get(number, f"OPERATOR_{number}"))


def _list(value: Any) -> list[int]:  # noqa: ANN401 - list, numpy array or None
    return [] if value is None else [int(item) for item in value]


def _text(raw: bytes | str | None) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else (raw or "")
