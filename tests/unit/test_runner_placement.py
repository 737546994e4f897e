"""Which operator ran where, from the file of --model_runtime_info_output_file."""

from __future__ import annotations

import pytest
from ai_edge_litert import model_runtime_info_pb2 as proto
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.devices.delegation import kinds
from harness.devices.dialects.benchmark_model import endings, runtime_info
from harness.devices.dialects.benchmark_model.endings import RunEnding
from harness.devices.dialects.benchmark_model.programs import RunnerProgram
from harness.devices.dialects.benchmark_model.wire import MalformedMessage
from harness.errors import AgentError


def details(
    operators: tuple[str, ...], taken: dict[str, tuple[int, ...]], *, kind: int = 1
) -> bytes:
    """Return a file of the vendor's own generated code: delegates take operators by number."""
    made = proto.ModelRuntimeDetails()
    graph = made.subgraphs.add()
    graph.subgraph_id, graph.subgraph_type = 0, kind
    owner = {one: len(operators) + at for at, ids in enumerate(taken.values()) for one in ids}
    for number, name in enumerate(operators):
        node = graph.nodes.add()
        node.id, node.name = number, name
        if number in owner:
            node.delegated_to_node_id = owner[number]
    for at, (name, ids) in enumerate(taken.items()):
        node = graph.nodes.add()
        node.id, node.name = len(operators) + at, name
        node.delegate_node_details.delegate_name = name.partition("#")[0]
        node.delegate_node_details.tflite_node_ids_replaced.extend(ids)
    left = [one for one in range(len(operators)) if one not in owner]
    graph.execution_plan.extend([*left, *range(len(operators), len(operators) + len(taken))])
    return made.SerializeToString()


NET = ("CONV_2D", "CUSTOM_OP", "CONV_2D", "SOFTMAX")
GPU = "TfLiteGpuDelegateV2"
XNNPACK = "TfLiteXNNPackDelegate"


def test_every_operator_has_its_delegate() -> None:
    found = runtime_info.read(details(NET, {f"{GPU}#1": (0,), f"{GPU}#2": (2, 3)}))
    assert [(one.operator, one.delegate) for one in found] == [
        ("CONV_2D", GPU),
        ("CUSTOM_OP", None),
        ("CONV_2D", GPU),
        ("SOFTMAX", GPU),
    ]


def test_what_xnnpack_took_is_left_for_an_accelerator_and_done_on_the_cpu() -> None:
    data = details(NET, {GPU: (0,), XNNPACK: (2, 3)})
    gpu = runtime_info.delegation(data, "gpu")
    assert (gpu.delegate, gpu.delegated_ops, gpu.total_ops, gpu.partitions) == ("gpu", 1, 4, 1)
    assert gpu.left == ("CONV_2D", "CUSTOM_OP", "SOFTMAX")
    assert kinds(gpu.evidence) == ("model_runtime_info",)
    cpu = runtime_info.delegation(data, "xnnpack")
    assert (cpu.delegate, cpu.delegated_ops) == ("xnnpack", 2)
    nothing = runtime_info.delegation(details(NET, {}), "gpu")
    assert (nothing.delegate, nothing.delegated_ops) == ("none", 0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "no subgraph"),
        (b"\x12\x00", "no operator"),
        (details(NET, {GPU: (9,)}), "node 9"),
        (details(NET, {GPU: (0,)})[:-3], "after the message|in the file|executed"),
        (details(NET, {GPU: (0,)}, kind=2), "no operator"),
    ],
)
def test_a_file_of_another_format_is_named(data: bytes, why: str) -> None:
    with pytest.raises(MalformedMessage, match=why):
        runtime_info.read(data)


def test_a_node_that_neither_runs_nor_was_replaced_is_a_contradiction() -> None:
    made = proto.ModelRuntimeDetails.FromString(details(NET, {GPU: (0,)}))
    del made.subgraphs[0].execution_plan[0]
    with pytest.raises(MalformedMessage, match="not replaced and is not executed"):
        runtime_info.read(made.SerializeToString())


def test_the_launch_has_both_kinds_of_evidence_and_refuses_a_file_it_cannot_read() -> None:
    log = (
        "Explicitly applied GPU delegate, and the model graph will be completely executed by the delegate.\n"
        "count=2 first=5 curr=6 min=5 max=6 avg=5.5 std=0 p5=5 median=6 p95=6\n"
        "Inference timings in us: Init: 1, First inference: 5, Warmup (avg): 5, Inference (avg): 5.5\n"
    )
    program = RunnerProgram(kind="tflite")

    def read(info: bytes) -> endings.RunResult:
        ending = RunEnding(code=0, late=False, log=log, info=info)
        return endings.read(ending, program, "gpu", "phone", "setup")

    found = read(details(NET, {GPU: (0, 1, 2, 3)})).delegation
    assert kinds(found.evidence) == ("model_runtime_info", "benchmark_model log")
    assert found.fully is True
    with pytest.raises(AgentError, match="unknown format"):
        read(b"\xff\xff")


@settings(deadline=None)
@given(
    st.binary(max_size=100)
    | st.tuples(st.integers(0, 90), st.binary(min_size=1, max_size=3)).map(
        lambda c: (d := details(NET, {GPU: (0,)}))[: c[0]] + c[1] + d[c[0] + len(c[1]) :]
    )
)
def test_any_bytes_are_a_placement_or_refused(data: bytes) -> None:
    for target in ("gpu", "xnnpack"):
        try:
            found = runtime_info.delegation(data, target)
        except MalformedMessage:
            continue
        assert found.delegated_ops is not None
        assert found.total_ops is not None
        assert found.delegated_ops <= found.total_ops
