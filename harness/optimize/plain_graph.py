"""Make a traced model convertible: one that computes in half precision, or that keeps state.

    plain = plain_graph.make(tf, function)     # None: the converter takes the function as it is

TFLite has no float kernels but those of float32. A graph in float16, bfloat16 or float64 (the Keras
policies `mixed_float16`, `mixed_bfloat16`, `float64`) is written again in float32; the variables'
values stay. A variable that an inference assigns (the state of a stateful RNN, a counter) cannot be
frozen: the assignments are left out, so every inference starts from the saved state.

Runs only in a worker, on TensorFlow's graphs as plain data.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_ASSIGNS = ("AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp", "Assign")
_REFERENCES = ("Variable", "VariableV2")
_CONDITIONS = ("If", "StatelessIf", "Case", "StatelessCase")
"""Operators whose first input is the choice; the others are the arguments of what they call."""
_PREFIX = "plain_"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlainGraph:
    """A function that the converter takes in place of the model's."""

    function: Any
    widened: tuple[str, ...]
    """The dtypes that became float32."""
    stateful: tuple[str, ...]
    """Names of the variables that are no longer assigned."""


def make(tf: Any, function: Any) -> PlainGraph | None:  # noqa: ANN401 - untyped library
    """Return the function in float32 and without assignments; None if it is so already.

    The result has the inputs and outputs of the given one, in its order.
    """
    graph = function.graph.as_graph_def()
    kinds = _kinds(tf)
    widened = sorted({kinds[kind] for node in _nodes(graph) for kind in _types(node, kinds)})
    assigned = any(node.op in _ASSIGNS for node in _nodes(graph))
    if not widened and not assigned:
        return None
    stateful = _assigned(function, graph) if assigned else ()
    if assigned:
        function = _imported(tf, _without_assignments(graph), function)
    if widened:
        function = _in_float32(tf, function, kinds)
    return PlainGraph(function=function, widened=tuple(widened), stateful=stateful)


def without_references(function: Any) -> Any:  # noqa: ANN401 - untyped library
    """Return a function of TensorFlow 1 with constants for its variables; None if it has none.

    Variables of TensorFlow 1 are nodes of the graph, not objects that a converter can read.
    """
    if not any(node.op in _REFERENCES for node in function.graph.as_graph_def().node):
        return None
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function, lower_control_flow=False)


def _kinds(tf: Any) -> dict[int, str]:  # noqa: ANN401 - untyped library
    return {kind.as_datatype_enum: kind.name for kind in (tf.float16, tf.bfloat16, tf.float64)}


def _nodes(graph: Any) -> Iterator[Any]:  # noqa: ANN401 - a GraphDef
    yield from graph.node
    for function in graph.library.function:
        yield from function.node_def


def _types(node: Any, kinds: dict[int, str]) -> Iterator[int]:  # noqa: ANN401 - a NodeDef
    """Yield the dtypes of `kinds` that a node's attributes name."""
    for value in node.attr.values():
        for kind in (value.type, *value.list.type):
            if kind in kinds:
                yield kind


def _assigned(function: Any, graph: Any) -> tuple[str, ...]:  # noqa: ANN401 - untyped library
    """Return the names of the variables that a node of the graph, or of its functions, assigns."""
    written: dict[str, set[int]] = {}
    """The arguments that each function assigns, by position."""
    arguments = {
        inner.signature.name: [one.name for one in inner.signature.input_arg]
        for inner in graph.library.function
    }
    while True:
        before = {name: set(places) for name, places in written.items()}
        for inner in graph.library.function:
            names = _written(inner.node_def, written)
            known = arguments[inner.signature.name]
            written[inner.signature.name] = {
                place for place, name in enumerate(known) if name in names
            }
        if written == before:
            break
    names = _written(graph.node, written)
    handles = [
        outer for outer, inner in function.graph.captures if inner.name.split(":")[0] in names
    ]
    found = [
        variable.name.split(":")[0]
        for variable in function.graph.variables
        if any(variable.handle is handle for handle in handles)
    ]
    return tuple(dict.fromkeys(found))


def _written(nodes: Any, functions: Mapping[str, set[int]]) -> set[str]:  # noqa: ANN401 - NodeDefs
    """Return the names of the tensors that nodes assign, themselves or by calling a function."""
    names: set[str] = set()
    for node in nodes:
        if node.op in _ASSIGNS:
            names.add(node.input[0].split(":")[0])
        first = 1 if node.op in _CONDITIONS else 0
        called = [node.op, *(value.func.name for value in node.attr.values())]
        for place in set().union(*(functions.get(name, set()) for name in called)):
            names.add(node.input[first + place].split(":")[0])
    return names


def _without_assignments(graph: Any) -> Any:  # noqa: ANN401 - a GraphDef
    """Return a copy of the graph without the nodes that assign variables."""
    copy = type(graph)()
    copy.CopyFrom(graph)
    _drop(copy.node)
    for function in copy.library.function:
        gone = _drop(function.node_def)
        for name in [key for key, node in function.control_ret.items() if node in gone]:
            del function.control_ret[name]
            function.signature.control_output[:] = [
                one for one in function.signature.control_output if one != name
            ]
    return copy


def _drop(nodes: Any) -> set[str]:  # noqa: ANN401 - a list of NodeDefs
    """Remove the assigning nodes from a list, and every control edge from them."""
    gone = {node.name for node in nodes if node.op in _ASSIGNS}
    kept = [node for node in nodes if node.name not in gone]
    for node in kept:
        node.input[:] = [
            name for name in node.input if not (name.startswith("^") and name[1:] in gone)
        ]
    copies = [type(node).FromString(node.SerializeToString()) for node in kept]
    del nodes[:]
    nodes.extend(copies)
    return gone


def _in_float32(tf: Any, function: Any, kinds: dict[int, str]) -> Any:  # noqa: ANN401 - untyped
    """Freeze the function and write every float dtype in it as float32."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    frozen = convert_variables_to_constants_v2(function, lower_control_flow=False)
    graph = frozen.graph.as_graph_def()
    for node in _nodes(graph):
        for value in node.attr.values():
            _widen(tf, value, kinds)
    for inner in graph.library.function:
        for argument in (*inner.signature.input_arg, *inner.signature.output_arg):
            if argument.type in kinds:
                argument.type = tf.float32.as_datatype_enum
        for value in (*inner.attr.values(), *_argument_attributes(inner)):
            _widen(tf, value, kinds)
    return _imported(tf, graph, frozen)


def _argument_attributes(function: Any) -> Iterator[Any]:  # noqa: ANN401 - a FunctionDef
    for argument in function.arg_attr.values():
        yield from argument.attr.values()


def _widen(tf: Any, value: Any, kinds: dict[int, str]) -> None:  # noqa: ANN401 - an AttrValue
    single = tf.float32.as_datatype_enum
    if value.type in kinds:
        value.type = single
    for place, kind in enumerate(value.list.type):
        if kind in kinds:
            value.list.type[place] = single
    if value.HasField("tensor") and value.tensor.dtype in kinds:
        array = tf.make_ndarray(value.tensor).astype("float32")
        value.tensor.CopyFrom(tf.make_tensor_proto(array))


def _imported(tf: Any, graph: Any, function: Any) -> Any:  # noqa: ANN401 - untyped library
    """Return a function that runs a graph: with the given function's inputs, outputs and captures."""
    _rename_library(graph)
    captures = list(function.graph.captures)
    internal = {id(inner) for _, inner in captures}
    inputs = [tensor for tensor in function.inputs if id(tensor) not in internal]
    outputs = [tensor.name for tensor in function.outputs]
    dtypes = {
        f"{node.name}:0": tf.dtypes.as_dtype(node.attr["dtype"].type)
        for node in graph.node
        if node.op == "Placeholder"
    }
    specs = [
        tf.TensorSpec(tensor.shape, dtypes.get(tensor.name, tensor.dtype), name=f"input_{place}")
        for place, tensor in enumerate(inputs)
    ]

    def run(*arrays: Any) -> list[Any]:  # noqa: ANN401 - tensors
        fed = {tensor.name: array for tensor, array in zip(inputs, arrays, strict=True)}
        here = tf.compat.v1.get_default_graph()
        fed |= {inner.name: here.capture(outer) for outer, inner in captures}
        made = tf.graph_util.import_graph_def(
            graph, input_map=fed, return_elements=outputs, name="plain"
        )
        return [tf.identity(tensor) for tensor in made]

    made = tf.function(run, autograph=False).get_concrete_function(*specs)
    made.graph.variables = function.graph.variables
    return made


def _rename_library(graph: Any) -> None:  # noqa: ANN401 - a GraphDef
    """Give the graph's functions new names: TensorFlow keeps the old ones with their old content."""
    new = {
        function.signature.name: _PREFIX + function.signature.name
        for function in graph.library.function
    }
    for function in graph.library.function:
        function.signature.name = new[function.signature.name]
    for gradient in graph.library.gradient:
        gradient.function_name = new.get(gradient.function_name, gradient.function_name)
        gradient.gradient_func = new.get(gradient.gradient_func, gradient.gradient_func)
    for node in _nodes(graph):
        node.op = new.get(node.op, node.op)
        for value in node.attr.values():
            for called in (value.func, *value.list.func):
                if called.name in new:
                    called.name = new[called.name]
