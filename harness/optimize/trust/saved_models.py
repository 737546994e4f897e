"""Read a SavedModel's graphs and functions from its protocol buffer, without TensorFlow.

Only the fields named here are read (tensorflow/core/protobuf/saved_model.proto and the files that
it imports). TensorFlow's own reader would import all of TensorFlow: seconds, and a gigabyte.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import lfs
from harness.errors import RecipeError
from harness.optimize.trust import configs, operators

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MAX_SHIFT = 63
_META_GRAPH = 2
_GRAPH, _SAVER, _COLLECTIONS, _SIGNATURES, _OBJECTS = 2, 3, 4, 5, 7
_NODE, _LIBRARY, _FUNCTION = 1, 2, 1
_FUNCTION_SIGNATURE, _FUNCTION_NODE = 1, 3
_NODE_NAME, _NODE_OPERATOR, _NODE_INPUT, _NODE_ATTRIBUTE = 1, 2, 3, 5
_SAVE_TENSOR, _RESTORE_OPERATOR = 2, 3
_OBJECT, _OBJECT_FUNCTIONS, _USER_OBJECT, _OBJECT_METADATA = 1, 2, 4, 3
_METADATA_NODE, _METADATA_TEXT = 1, 5
_KERAS_METADATA = "keras_metadata.pb"
_KERAS_OBJECT = b"_tf_keras"
_SAVERS = "savers"
"""The collection of savers, whose nodes are the saver's own."""
_MAX_ATTRIBUTE = 100_000
"""Larger attributes of a node are constants, which name no function."""

Fields = Iterator[tuple[int, memoryview]]


@dataclass(slots=True, kw_only=True)
class _Node:
    name: str = ""
    operators: list[str] = field(default_factory=list)
    inputs: list[str] = field(default_factory=list)
    attributes: dict[str, bytes] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class _MetaGraph:
    """One graph with its functions, and what a saver and others use of it."""

    nodes: dict[str, _Node] = field(default_factory=dict)
    extra: list[_Node] = field(default_factory=list)
    """Nodes whose name is taken."""
    functions: dict[str, list[_Node]] = field(default_factory=dict)
    save: str = ""
    restore: str = ""
    used: bytes = b""
    """The signatures, collections and objects, as bytes: they name what is run besides the saver."""
    metadata: list[bytes] = field(default_factory=list)


def folder(path: Path, *, revived: bool = False) -> Iterator[str]:
    """Yield what a SavedModel holds that runs code, or reaches files or the network.

    `revived` says whether Keras will make its layers from the configs in it, as for training.

    Raises RecipeError if its protocol buffer is damaged.
    """
    try:
        for number, value in _fields(memoryview((path / "saved_model.pb").read_bytes())):
            if number == _META_GRAPH:
                graph = _meta_graph(value)
                yield from _operators(graph)
                yield from _metadata(graph.metadata, revived=revived)
        file = path / _KERAS_METADATA
        if file.exists():
            nodes = [v for n, v in _fields(memoryview(file.read_bytes())) if n == _METADATA_NODE]
            texts = [bytes(v) for node in nodes for n, v in _fields(node) if n == _METADATA_TEXT]
            yield from _metadata(texts, revived=revived)
    except (OSError, ValueError, IndexError) as error:
        advice = lfs.advice(path / "saved_model.pb", "save the model again")
        raise RecipeError(f"{path}: not a readable SavedModel ({error}); {advice}") from error


def _meta_graph(data: memoryview) -> _MetaGraph:
    graph = _MetaGraph()
    for number, value in _fields(data):
        if number == _GRAPH:
            _read_graph(value, graph)
        elif number == _SAVER:
            ends = {key: _text(text) for key, text in _fields(value)}
            graph.save = ends.get(_SAVE_TENSOR, graph.save)
            graph.restore = ends.get(_RESTORE_OPERATOR, graph.restore)
        elif number == _SIGNATURES or (number == _COLLECTIONS and not _is_of_savers(value)):
            graph.used += bytes(value)
        elif number == _OBJECTS:
            graph.used += bytes(value)
            graph.metadata += _object_metadata(value)
    return graph


def _is_of_savers(collection: memoryview) -> bool:
    return _SAVERS in [_text(text) for key, text in _fields(collection) if key == 1]


def _read_graph(data: memoryview, graph: _MetaGraph) -> None:
    for number, value in _fields(data):
        if number == _NODE:
            node = _node(value)
            if node.name in graph.nodes:
                graph.extra.append(node)
            graph.nodes.setdefault(node.name, node)
        elif number == _LIBRARY:
            for key, function in _fields(value):
                if key == _FUNCTION:
                    _read_function(function, graph)


def _read_function(data: memoryview, graph: _MetaGraph) -> None:
    name, nodes = "", []
    for number, value in _fields(data):
        if number == _FUNCTION_SIGNATURE:
            name = next((_text(text) for key, text in _fields(value) if key == 1), name)
        elif number == _FUNCTION_NODE:
            nodes.append(_node(value))
    graph.functions.setdefault(name, []).extend(nodes)


def _node(data: memoryview) -> _Node:
    node = _Node()
    for number, value in _fields(data):
        if number == _NODE_NAME:
            node.name = _text(value)
        elif number == _NODE_OPERATOR:
            node.operators.append(_text(value))
        elif number == _NODE_INPUT:
            node.inputs.append(_text(value).lstrip("^").partition(":")[0])
        elif number == _NODE_ATTRIBUTE:
            entry = dict(_fields(value))
            if len(entry.get(2, b"")) <= _MAX_ATTRIBUTE:
                node.attributes[_text(entry.get(1, memoryview(b"")))] = bytes(entry.get(2, b""))
    return node


def _object_metadata(data: memoryview) -> list[bytes]:
    """Return Keras's configs in the objects, where TensorFlow before 2.5 kept them."""
    found = []
    for number, value in _fields(data):
        if number == _OBJECT:
            for key, user in _fields(value):
                if key == _USER_OBJECT and _KERAS_OBJECT in bytes(user):
                    found += [bytes(v) for n, v in _fields(user) if n == _OBJECT_METADATA]
    return found


def _metadata(texts: Sequence[bytes], *, revived: bool) -> Iterator[str]:
    for text in texts:
        if text.strip():
            yield from configs.findings(text, revived=revived)


def _operators(graph: _MetaGraph) -> Iterator[str]:
    """Check every node of the graph and of its functions."""
    saver = _Saver.of(graph)
    for name, node in graph.nodes.items():
        yield from _node_findings(node, saver.nodes.get(name, frozenset()), "")
    for node in graph.extra:
        yield from _node_findings(node, frozenset(), "")
    for name, nodes in graph.functions.items():
        for node in nodes:
            yield from _node_findings(
                node, saver.functions.get(name, frozenset()), f" of its function {name[:80]}"
            )


def _node_findings(node: _Node, allowed: frozenset[str], where: str) -> Iterator[str]:
    for operator in node.operators:
        reason = None if operator in allowed else operators.refusal(operator)
        if operator == "PrintV2" and b"file:" in node.attributes.get("output_stream", b""):
            reason = "writes files"
        if operator in {"DecodeProtoV2", "EncodeProto"}:
            source = node.attributes.get("descriptor_source", b"")
            if b"local://" not in source and b"bytes://" not in source and len(source) > 2:  # noqa: PLR2004
                reason = "reads files"
        if reason:
            yield f'its operator {operator} ("{node.name[:80]}"{where}) {reason}'


@dataclass(frozen=True, slots=True, kw_only=True)
class _Saver:
    """The nodes and functions that only the saver uses, with the operators it may use there."""

    nodes: Mapping[str, frozenset[str]]
    functions: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, graph: _MetaGraph) -> _Saver:
        nodes: dict[str, frozenset[str]] = {}
        for end, allowed in (
            (graph.save, operators.CHECKPOINTS),
            (graph.restore, operators.CHECKPOINT_READERS),
        ):
            for name in _ancestors(graph, end):
                nodes[name] = nodes.get(name, allowed) & allowed
        # What another node uses, or a signature or a collection names, is not the saver's alone.
        others = [node for name, node in graph.nodes.items() if name not in nodes] + graph.extra
        taken = {name for node in others for name in node.inputs}
        for name in [name for name in nodes if name in taken or _is_named(name, graph.used)]:
            for ancestor in _ancestors(graph, name):
                nodes.pop(ancestor, None)
        functions: dict[str, frozenset[str]] = {}
        for name, allowed in nodes.items():
            for function in _called(graph, [graph.nodes[name]]):
                functions[function] = functions.get(function, allowed) & allowed
        others = [node for name, node in graph.nodes.items() if name not in nodes] + graph.extra
        named = [name for name in functions if name.encode() in graph.used]
        others += [node for name in named for node in graph.functions[name]]
        shared = _called(graph, others) | set(named)
        return cls(nodes=nodes, functions={k: v for k, v in functions.items() if k not in shared})


def _is_named(node: str, used: bytes) -> bool:
    """Return whether a signature or a collection names an output of the node."""
    name = node.encode()
    return name + b":" in used or b"\x0a" + _size(len(name)) + name in used


def _ancestors(graph: _MetaGraph, end: str) -> set[str]:
    waiting, found = [end.lstrip("^").partition(":")[0]], set()
    while waiting:
        name = waiting.pop()
        if name in graph.nodes and name not in found:
            found.add(name)
            waiting += graph.nodes[name].inputs
    return found


def _called(graph: _MetaGraph, nodes: Sequence[_Node]) -> set[str]:
    """Return the functions that nodes call, directly or through others, by the names in their attributes."""
    waiting, found = list(nodes), set()
    while waiting:
        node = waiting.pop()
        for value in node.attributes.values():
            for name in _function_names(value):
                if name in graph.functions and name not in found:
                    found.add(name)
                    waiting += graph.functions[name]
        for operator in node.operators:
            if operator in graph.functions and operator not in found:
                found.add(operator)
                waiting += graph.functions[operator]
    return found


def _function_names(attribute: bytes) -> Iterator[str]:
    """Yield the functions that an attribute names: one (field 10), or a list of them (1, 9)."""
    for number, value in _fields(memoryview(attribute)):
        if number == 10:  # noqa: PLR2004 - AttrValue.func
            yield from (_text(text) for key, text in _fields(value) if key == 1)
        elif number == 1:
            for key, item in _fields(value):
                if key == 9:  # noqa: PLR2004 - AttrValue.ListValue.func
                    yield from (_text(text) for n, text in _fields(item) if n == 1)


def _fields(data: memoryview) -> Fields:
    """Yield the fields of a message by number; a number's bytes are empty.

    Raises ValueError for a message that is cut short or has a group, which TensorFlow's have not.
    """
    place, end = 0, len(data)
    while place < end:
        tag, place = _varint(data, place)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            size, place = _varint(data, place)
            if place + size > end:
                raise ValueError("it is cut short")
            yield number, data[place : place + size]
            place += size
        elif kind == _VARINT:
            _, place = _varint(data, place)
            yield number, data[:0]
        elif kind in {_FIXED64, _FIXED32}:
            place += 8 if kind == _FIXED64 else 4
            yield number, data[:0]
        else:
            raise ValueError(f"a field of the kind {kind}")
    if place > end:
        raise ValueError("it is cut short")


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:  # noqa: PLR2004 - the last byte of a number
            return value, place
        shift += 7
        if shift > _MAX_SHIFT:
            raise ValueError("a number is too long")


def _size(number: int) -> bytes:
    """Encode a length as a varint."""
    data = bytearray()
    while number > 0x7F:  # noqa: PLR2004 - seven bits a byte
        data.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*data, number])


def _text(data: memoryview) -> str:
    return bytes(data).decode("utf-8", "replace")
