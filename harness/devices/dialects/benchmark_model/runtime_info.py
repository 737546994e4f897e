"""Read which operator ran where from the file of `--model_runtime_info_output_file`.

Source: LiteRT tflite/profiling/proto/model_runtime_info.proto and model_runtime_info.cc: a file has
a subgraph per graph of the model, with its original nodes, the delegate's nodes that replace some of
them, and the execution plan. A node that was replaced has the id of the delegate's node.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from harness.devices.delegation.evidence import RUNTIME_INFO
from harness.devices.dialects.benchmark_model import wire
from harness.devices.dialects.benchmark_model.wire import MalformedMessage, WireMessage
from harness.types import Delegation

SUBGRAPHS, NODES, PLAN, SUBGRAPH_TYPE = 2, 3, 4, 5
NODE_ID, NODE_NAME, DETAILS, REPLACED_BY = 1, 2, 8, 9
DELEGATE_NAME, REPLACED = 1, 2
DELEGATE_SUBGRAPH = 2

_CPU = "xnnpack"
_MAX_NAME = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class RuntimePlacement:
    """One operator of the model and the delegate that took it."""

    subgraph: int
    node: int
    operator: str
    delegate: str | None
    """The delegate's name in the runtime (`TfLiteGpuDelegateV2`); None for the runtime's own kernel."""


def read(data: bytes) -> tuple[RuntimePlacement, ...]:
    """Return every operator of the model with its placement.

    Raises MalformedMessage if the file is not of this format or contradicts itself.
    """
    found: list[RuntimePlacement] = []
    graphs = wire.parse(data).messages(SUBGRAPHS)
    if not graphs:
        raise MalformedMessage("it has no subgraph")
    for number, graph in enumerate(graphs):
        if graph.integer(SUBGRAPH_TYPE) == DELEGATE_SUBGRAPH:
            continue  # a delegate's own operators, which are no operators of the model
        found += _graph(number, graph)
    if not found:
        raise MalformedMessage("it has no operator")
    return tuple(found)


def _graph(number: int, graph: WireMessage) -> list[RuntimePlacement]:
    nodes = {_id(node): node for node in graph.messages(NODES)}
    delegates: dict[int, str] = {}
    taken: dict[int, int] = {}
    for identity, node in nodes.items():
        details = node.message(DETAILS)
        if details is None:
            continue
        delegates[identity] = (details.text(DELEGATE_NAME) or "unnamed")[:_MAX_NAME]
        for one in details.integers(REPLACED):
            taken[one] = identity
    plan = set(graph.integers(PLAN))
    unknown = (set(taken) | plan) - set(nodes)
    if unknown:
        raise MalformedMessage(f"node {min(unknown)} of subgraph {number} is not in the file")
    found = []
    for identity, node in sorted(nodes.items()):
        if identity in delegates:
            continue
        replaced_by = node.integer(REPLACED_BY)
        owner = replaced_by if replaced_by is not None else taken.get(identity)
        if owner is not None and owner not in delegates:
            raise MalformedMessage(f"node {identity} was replaced by {owner}, which is no delegate")
        if owner is None and plan and identity not in plan:
            raise MalformedMessage(f"node {identity} was not replaced and is not executed")
        found.append(
            RuntimePlacement(
                subgraph=number,
                node=identity,
                operator=(node.text(NODE_NAME) or "unnamed")[:_MAX_NAME],
                delegate=None if owner is None else delegates[owner],
            )
        )
    return found


def _id(node: WireMessage) -> int:
    found = node.integer(NODE_ID)
    if found is None:
        raise MalformedMessage("a node has no id")
    return found


def partitions(data: bytes) -> Mapping[str, int]:
    """Count the partitions of each delegate, by its name in the runtime."""
    found: Counter[str] = Counter()
    for graph in wire.parse(data).messages(SUBGRAPHS):
        for node in graph.messages(NODES):
            details = node.message(DETAILS)
            if details is not None and graph.integer(SUBGRAPH_TYPE) != DELEGATE_SUBGRAPH:
                found[(details.text(DELEGATE_NAME) or "unnamed")[:_MAX_NAME]] += 1
    return found


def delegation(data: bytes, target: str) -> Delegation:
    """Return the delegation of a target from the file; raises MalformedMessage.

    On the CPU the delegate is XNNPACK. For an accelerator, operators on XNNPACK count as left.
    """
    placed, counted = read(data), partitions(data)
    on_cpu = target == "xnnpack"

    def is_wanted(name: str | None) -> bool:
        return name is not None and (_CPU in name.lower()) == on_cpu

    done = [one for one in placed if is_wanted(one.delegate)]
    left = sorted({one.operator for one in placed if not is_wanted(one.delegate)})
    names = sorted({one.delegate for one in done if one.delegate})
    return Delegation(
        delegate=target if done else "none",
        delegated_ops=len(done),
        total_ops=len(placed),
        partitions=sum(count for name, count in counted.items() if is_wanted(name)),
        left=tuple(left),
        evidence=f"{RUNTIME_INFO}: {len(done)} of {len(placed)} operators on "
        f"{', '.join(names).replace(';', ',') or 'no delegate'}",
    )
