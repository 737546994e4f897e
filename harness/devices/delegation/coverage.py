"""Which operators a delegate took, read off the runtime's list of nodes.

The runtime keeps the operators that a delegate replaced in its list and appends a DELEGATE node for
each partition. From each DELEGATE's outputs, walk back through the operators that made them to the
DELEGATE's inputs: those are the ones it took. agents/python_tflite/graph.py does the same on a device.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.types import Delegation

DELEGATE = "DELEGATE"


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphNode:
    """An operator of the graph, or a partition of a delegate; tensors by index."""

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def graph_walk(
    nodes: Sequence[GraphNode], *, delegate: str = "xnnpack", where: str = ""
) -> Delegation:
    """Return what a delegate took of the nodes; `none` where there is no partition.

    `where` follows the kind of evidence. Time and memory are linear in the graph.
    """
    operators = [node for node in nodes if node.op != DELEGATE]
    partitions = [node for node in nodes if node.op == DELEGATE]
    maker = {tensor: place for place, node in enumerate(operators) for tensor in node.outputs}
    taken: set[int] = set()
    for partition in partitions:
        edge = set(partition.inputs)
        todo = list(partition.outputs)
        while todo:
            place = maker.get(todo.pop())
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
