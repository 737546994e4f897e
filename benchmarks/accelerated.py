"""Ask the runtime twice what its CPU path takes of a model: `accelerated.py FILE...`.

A line a file: operators delegated by the graph walk, of all, and what CompiledModel's
is_fully_accelerated says; none for a file that CompiledModel does not take.
"""

from __future__ import annotations

import sys
from pathlib import Path

from ai_edge_litert.compiled_model import CompiledModel
from ai_edge_litert.hardware_accelerator import HardwareAccelerator
from ai_edge_litert.interpreter import Interpreter

from harness.devices.delegation import GraphNode, graph_walk


def main() -> None:
    for name in sys.argv[1:]:
        interpreter = Interpreter(name)
        interpreter.allocate_tensors()
        nodes = [
            GraphNode(
                op=one["op_name"],
                inputs=tuple(int(i) for i in one["inputs"] if i >= 0),
                outputs=tuple(int(i) for i in one["outputs"] if i >= 0),
            )
            for one in interpreter._get_ops_details()  # noqa: SLF001 - the only door to the graph
        ]
        walked = graph_walk(nodes)
        try:
            model = CompiledModel.from_file(name, HardwareAccelerator.CPU)
        except RuntimeError:  # variables in the file: only the Interpreter takes it
            continue
        fully = model.is_fully_accelerated()
        print(walked.delegated_ops, walked.total_ops, int(fully), Path(name).name)


main()
