"""Find the operators that a delegate took in the runtime's list of nodes.

The runtime keeps the replaced operators in its list and appends one DELEGATE node per partition. A walk
from the DELEGATE's outputs back to its inputs passes the operators that it took.
agents/python_tflite/graph.py does the same on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.types import Delegation

DELEGATE = "DELEGATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """An operator of the graph, or a delegate's partition; its tensors by index."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def graph_walk(
    nodes: Sequence[GraphNode], *, delegate: str = "xnnpack", where: str = ""
) -> Delegation:
    """Return the delegation of these nodes; its delegate is `none` if there is no partition.

    `where` is appended to the kind of evidence. Time and memory are linear in the graph.
    """
    operators = [node for node in nodes if node.op != DELEGATE]
    partitions = [node for node in nodes if node.op == DELEGATE]
    producer = {tensor: place for place, node in enumerate(operators) for tensor in node.outputs}
    taken: set[int] = set()
    for partition in partitions:
        edge = set(partition.inputs)
        todo = list(partition.outputs)
        while todo:
            place = producer.get(todo.pop())
            if place is None or place in taken:
                continue
            taken.add(place)
            todo += [tensor for tensor in operators[place].inputs if tensor not in edge]
    left = {node.op for place, node in enumerate(operators) if place not in taken}
    return Delegation(
        delegate=delegate if partitions else "none",
        delegated_ops=len(taken),
        total_ops=len(operators),
        partitions=len(partitions),
        left=tuple(sorted(left)),
        evidence=f"graph walk {where}".strip(),
    )
