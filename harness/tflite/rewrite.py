"""Edit a .tflite file's signature, names and open dimensions, never its arithmetic.

The quantiser needs one signature, unique tensor names and fixed shapes; files of other
converters often lack them. This module runs in a worker: the runtime computes the fixed shapes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness import hints
from harness.errors import RecipeError

NO_REASON = "the runtime refuses the file without a reason"
"""The message of a MemoryError: a runtime that gets no memory says nothing."""
SIGNATURE = "serving_default"
_IDENTIFIER = b"TFL3"
_TABLES_BYTES = 1 << 20
"""Space for the tables beside the weights; the buffer doubles if it is too small."""
_MAX_BYTES = (1 << 31) - _TABLES_BYTES
"""Offsets inside a flatbuffer have 31 bits; a larger file keeps its weights after the tables."""
_CALLS_GRAPHS = ("IF", "WHILE", "CALL", "CALL_ONCE")
_WITH_EFFECTS = (*_CALLS_GRAPHS, "ASSIGN_VARIABLE", "VAR_HANDLE", "CUSTOM", "STABLEHLO_COMPOSITE")
"""Operators that may do more than compute their outputs."""


def frame(
    data: bytes,
    *,
    where: str,
    signature: str | None = None,
    shape: Mapping[str, Sequence[int]] | None = None,
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> memoryview:
    """Give a float file one signature, unique names, no open dimension and no unused operator.

    Args:
        data: The file.
        where: Its name, for messages.
        signature: The signature to keep; required if the file has several.
        shape: Chosen shapes by input name (`*` for a single input); an open batch is 1.
        inputs: Names for the inputs, in order; None keeps the file's.
        outputs: Names for the outputs, in order.

    Raises RecipeError: an unknown signature, an open dimension without a chosen size, a graph that
    does not accept the shape.
    """
    try:
        model = _unpack(data)
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{where}: the file cannot be rewritten ({type(error).__name__}: {error}); "
            'measure it unchanged with "as_is"'
        ) from error
    named_inputs, named_outputs = _choose(model, signature, where)
    graph = model.subgraphs[0]
    named_inputs = list(inputs or named_inputs)
    named_outputs = list(outputs or named_outputs)
    if inputs:
        _rename(graph, graph.inputs, named_inputs)
    if outputs:
        # An output that is an input unchanged keeps the input's name, by which data finds it.
        apart = [
            (index, name)
            for index, name in zip(graph.outputs, named_outputs, strict=True)
            if index not in list(graph.inputs)
        ]
        _rename(graph, [index for index, _ in apart], [name for _, name in apart])
    _drop_unused_operators(model)
    _unique(graph)
    if _settle(model, named_inputs, shape or {}, where):
        _propagate(model, where, len(data))
    _sign(model, named_inputs, named_outputs)
    return _pack(model, len(data))


def quantised(data: bytes | bytearray | memoryview) -> memoryview:
    """Finish a file of the quantiser, so that every runtime and compiler takes it.

    - Unused outputs of an operator with several (SPLIT, UNPACK, ...) get the type of its input. The
      quantiser leaves them in float beside the quantised ones, and no runtime prepares such an
      operator.
    - The weights move inside the tables. The quantiser writes them after the tables
      (`Buffer.offset`, a later addition to the format) in every file of more than 256 kB; only
      files of 2 GB and more need that.
    """
    from ai_edge_litert import schema_py_generated as schema

    packed = schema.Model.GetRootAs(data)
    after_tables = any(packed.Buffers(i).Offset() > 1 for i in range(packed.BuffersLength()))
    graphs = [packed.Subgraphs(i) for i in range(packed.SubgraphsLength())]
    several = any(
        graph.Operators(i).OutputsLength() > 1
        for graph in graphs
        for i in range(graph.OperatorsLength())
    )
    if len(data) > _MAX_BYTES or not (after_tables or several):
        return memoryview(data)
    model = _unpack(data)
    changed = sum(_type_unused_outputs(graph) for graph in model.subgraphs)
    return _pack(model, len(data)) if after_tables or changed else memoryview(data)


def with_names_of(
    data: bytes | bytearray | memoryview, source: bytes | bytearray | memoryview
) -> memoryview:
    """Return a file whose inputs and outputs have the names of the source's, in the same order.

    The quantiser names the float outputs of an integer graph after the operator that it adds.
    """
    from ai_edge_litert import schema_py_generated as schema

    theirs = schema.Model.GetRootAs(source).Subgraphs(0)
    ours = schema.Model.GetRootAs(data).Subgraphs(0)
    names = [_edge_names(graph) for graph in (theirs, ours)]
    if names[0] == names[1] or [len(one) for one in names[0]] != [len(one) for one in names[1]]:
        return memoryview(data)
    model = _unpack(data)
    graph = model.subgraphs[0]
    inputs, outputs = names[0]
    _rename(graph, [*graph.inputs, *graph.outputs], [*inputs, *outputs])
    _unique(graph)
    return _pack(model, len(data))


def _edge_names(graph: Any) -> tuple[list[str], list[str]]:  # noqa: ANN401 - generated classes
    return (
        [_text(graph.Tensors(graph.Inputs(i)).Name()) for i in range(graph.InputsLength())],
        [_text(graph.Tensors(graph.Outputs(i)).Name()) for i in range(graph.OutputsLength())],
    )


def static(data: bytes | bytearray | memoryview) -> memoryview:
    """Return a file with a fixed batch and with its weights inside the tables.

    Vendors' compilers are older than open batches and than weights after the tables. The sizes are
    those that the file stores beside the open ones. Raises as the schema's reader does.
    """
    model = _unpack(data)
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            tensor.shapeSignature = None
    return _pack(model, len(data))


def _unpack(data: bytes | bytearray | memoryview) -> Any:  # noqa: ANN401 - generated classes
    """Read a file as objects; their buffers are views of `data`."""
    import numpy as np
    from ai_edge_litert.tools import flatbuffer_utils

    model = flatbuffer_utils.read_model_from_bytearray(memoryview(data))
    for buffer in model.buffers:
        if buffer.data is not None:  # a buffer from after the tables is not an array yet
            buffer.data = np.frombuffer(buffer.data, np.uint8)
    return model


def _pack(model: Any, size_bytes: int) -> memoryview:  # noqa: ANN401 - generated classes
    """Serialise objects of about `size_bytes`; a buffer that grows needs three times the memory."""
    import flatbuffers  # type: ignore[import-untyped]

    builder = flatbuffers.Builder(min(size_bytes + _TABLES_BYTES, 1 << 31))
    builder.Finish(model.Pack(builder), file_identifier=_IDENTIFIER)
    return memoryview(builder.Bytes)[builder.Head() :]


def _choose(model: Any, wanted: str | None, where: str) -> tuple[list[str], list[str]]:  # noqa: ANN401 - generated classes
    """Make the wanted signature's graph the main one; return its input and output names."""
    known = {_text(item.signatureKey): item for item in model.signatureDefs or []}
    if wanted is not None and wanted not in known:
        raise RecipeError(
            f'{where}: no signature "{wanted}" (it has: {", ".join(known) or "none"})'
        )
    if wanted is None and len({item.subgraphIndex for item in known.values()}) > 1:
        if SIGNATURE not in known:
            raise RecipeError(
                f"{where}: several signatures ({', '.join(known)}); "
                f'choose one with the key "signature" of the model ({hints.option("signature")})'
            )
        wanted = SIGNATURE
    chosen = known.get(wanted) if wanted else next(iter(known.values()), None)
    if chosen is not None and (chosen.subgraphIndex or 0) != 0:
        _only_graph(model, chosen.subgraphIndex, where)
    elif chosen is not None and len(known) > 1 and not _calls_graphs(model):
        _only_graph(model, 0, where)
    graph = model.subgraphs[0]
    return (
        _names(graph, graph.inputs, chosen.inputs if chosen else []),
        _names(graph, graph.outputs, chosen.outputs if chosen else []),
    )


def _drop_unused_operators(model: Any) -> None:  # noqa: ANN401 - generated classes
    """Remove operators whose outputs nothing uses; the quantiser makes files of them that do not load."""
    from ai_edge_litert import schema_py_generated as schema

    kept = {getattr(schema.BuiltinOperator, name) for name in _WITH_EFFECTS}
    for graph in model.subgraphs:
        used = {int(index) for index in _list(graph.outputs)}
        needed = []
        for operator in reversed(graph.operators or []):  # operators are in the order of execution
            code = model.operatorCodes[operator.opcodeIndex]
            number = max(code.builtinCode, code.deprecatedBuiltinCode)
            outputs = {int(index) for index in _list(operator.outputs)}
            if number in kept or not outputs or outputs & used:
                used.update(int(index) for index in _list(operator.inputs))
                needed.append(operator)
        graph.operators = needed[::-1]


def _type_unused_outputs(graph: Any) -> int:  # noqa: ANN401 - generated classes
    """Give unused float outputs the type and scale of their operator's input; return their number."""
    from ai_edge_litert import schema_py_generated as schema

    used = {int(index) for index in _list(graph.outputs)}
    for operator in graph.operators or []:
        used.update(int(index) for index in _list(operator.inputs))
    made = {int(index) for operator in graph.operators or [] for index in _list(operator.outputs)}
    made.update(int(index) for index in _list(graph.inputs))
    changed = 0
    for operator in graph.operators or []:
        scaled = [
            graph.tensors[index]
            for index in _list(operator.inputs)
            if index in made and _is_scaled(graph.tensors[index])
        ]
        unused = [index for index in _list(operator.outputs) if index >= 0 and index not in used]
        for tensor in [graph.tensors[index] for index in unused if scaled]:
            if tensor.type == schema.TensorType.FLOAT32:
                tensor.type, tensor.quantization = scaled[0].type, scaled[0].quantization
                changed += 1
    return changed


def _is_scaled(tensor: Any) -> bool:  # noqa: ANN401 - generated classes
    return tensor.quantization is not None and bool(_list(tensor.quantization.scale))


def _only_graph(model: Any, index: int, where: str) -> None:  # noqa: ANN401 - generated classes
    if _calls_graphs(model):
        raise RecipeError(
            f"{where}: the chosen signature is not the main graph and the file has control flow; "
            "convert the model again with only that signature"
        )
    model.subgraphs = [model.subgraphs[index]]


def _calls_graphs(model: Any) -> bool:  # noqa: ANN401 - generated classes
    from ai_edge_litert import schema_py_generated as schema

    calls = {getattr(schema.BuiltinOperator, name) for name in _CALLS_GRAPHS}
    return any(code.builtinCode in calls for code in model.operatorCodes)


def _names(graph: Any, tensors: Sequence[int], maps: Sequence[Any]) -> list[str]:  # noqa: ANN401 - generated classes
    by_index = {item.tensorIndex: _text(item.name) for item in maps}
    names = []
    for position, index in enumerate(tensors):
        own = _text(graph.tensors[index].name)
        plain = own.removeprefix("serving_default_").removesuffix(":0")
        names.append(by_index.get(index) or plain or f"tensor_{position}")
    return [
        name if names.count(name) == 1 else f"{name}_{position}"
        for position, name in enumerate(names)
    ]


def _rename(graph: Any, tensors: Sequence[int], names: Sequence[str]) -> None:  # noqa: ANN401 - generated classes
    """Name tensors; another tensor that has such a name gets its index behind it."""
    new: dict[int, str] = {}
    for index, name in zip(tensors, names, strict=True):
        new.setdefault(int(index), name)
    wanted = set(new.values())
    for index, tensor in enumerate(graph.tensors):
        if index in new:
            tensor.name = new[index].encode()
        elif _text(tensor.name) in wanted:
            tensor.name = f"{_text(tensor.name)}__{index}".encode()


def _unique(graph: Any) -> None:  # noqa: ANN401 - generated classes
    """Make tensor names unique: calibration keeps ranges by tensor name."""
    seen: set[bytes] = set()
    for index, tensor in enumerate(graph.tensors):
        if not tensor.name or bytes(tensor.name) in seen:
            tensor.name = bytes(tensor.name or b"tensor") + f"__{index}".encode()
        seen.add(bytes(tensor.name))


def _settle(
    model: Any,  # noqa: ANN401 - generated classes
    names: Sequence[str],
    shape: Mapping[str, Sequence[int]],
    where: str,
) -> bool:
    """Set the inputs' open dimensions; return whether any size differs from the file's own."""
    graph = model.subgraphs[0]
    unknown = set(shape) - set(names) - {"*"}
    if unknown:
        raise RecipeError(
            f"{where}: shape for an unknown input {', '.join(sorted(unknown))} "
            f"(it has: {', '.join(names)})"
        )
    changed = False
    for name, index in zip(names, graph.inputs, strict=True):
        tensor = graph.tensors[index]
        now = [int(size) for size in _list(tensor.shape)]
        signed = [int(size) for size in _list(tensor.shapeSignature)] or now
        chosen = shape.get(name, shape.get("*"))
        settled = settle_shape(name, signed, chosen, where)
        changed |= settled != now
        tensor.shape = settled
    for tensor in graph.tensors:
        tensor.shapeSignature = None
        tensor.hasRank = tensor.hasRank or bool(_list(tensor.shape))
    return changed


def settle_shape(
    name: str, open_shape: Sequence[int], chosen: Sequence[int] | None, where: str
) -> list[int]:
    """Fill the open dimensions (-1) of an input: the batch with 1, the others as chosen.

    Raises RecipeError with the input and the key if a dimension stays open or the choice
    contradicts the model.
    """
    if chosen is not None:
        same = len(chosen) == len(open_shape) and all(
            size in {-1, want} for size, want in zip(open_shape, chosen, strict=True)
        )
        if not same or min(chosen, default=1) < 1:
            raise RecipeError(
                f'{where}: the chosen shape {list(chosen)} does not fit the input "{name}", '
                f"which is {list(open_shape)} (-1 is open)"
            )
        return list(chosen)
    settled = [1 if i == 0 and size == -1 else size for i, size in enumerate(open_shape)]
    if -1 in settled:
        raise RecipeError(
            f'{where}: the input "{name}" is {list(open_shape)} (-1 is open); choose its size with '
            f'the key shape of the model: shape = {{ "{name}" = {_example(settled)} }} '
            f"({hints.option('shape')})"
        )
    return settled


def _example(shape: Sequence[int]) -> str:
    return "[" + ", ".join("N" if size == -1 else str(size) for size in shape) + "]"


def _propagate(model: Any, where: str, size_bytes: int) -> None:  # noqa: ANN401 - generated classes
    """Let the runtime compute every tensor's shape, and write the shapes into the file."""
    from ai_edge_litert.interpreter import Interpreter, OpResolverType

    data = bytes(_pack(model, size_bytes))
    try:
        interpreter = Interpreter(
            model_content=data,
            experimental_op_resolver_type=OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES,
        )
        interpreter.allocate_tensors()
        details = interpreter.get_tensor_details()
    except (RuntimeError, ValueError) as error:
        if not str(error).strip():
            raise MemoryError(NO_REASON) from error
        raise RecipeError(
            f"{where}: the graph does not accept the chosen shape: {error}"
        ) from error
    tensors = model.subgraphs[0].tensors
    for detail in details:
        if detail["index"] < len(tensors):  # the runtime's own scratch tensors come after
            tensors[detail["index"]].shape = [int(size) for size in detail["shape"]]


def _sign(model: Any, inputs: Sequence[str], outputs: Sequence[str]) -> None:  # noqa: ANN401 - generated classes
    from ai_edge_litert import schema_py_generated as schema

    graph = model.subgraphs[0]
    entry = schema.SignatureDefT()
    entry.signatureKey = SIGNATURE.encode()
    entry.subgraphIndex = 0
    entry.inputs = _maps(schema, inputs, graph.inputs)
    entry.outputs = _maps(schema, outputs, graph.outputs)
    model.signatureDefs = [entry]


def _maps(schema: Any, names: Sequence[str], tensors: Sequence[int]) -> list[Any]:  # noqa: ANN401 - generated classes
    maps = []
    for name, index in zip(names, tensors, strict=True):
        item = schema.TensorMapT()
        item.name = name.encode()
        item.tensorIndex = int(index)
        maps.append(item)
    return maps


def _list(value: Any) -> list[Any]:  # noqa: ANN401 - list, numpy array or None
    return [] if value is None else list(value)


def _text(raw: bytes | str | None) -> str:
    return raw.decode("utf-8", "replace") if isinstance(raw, bytes) else (raw or "")
