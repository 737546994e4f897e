"""Choose the backend of an order: the runtime's own CPU path, or the module of its accelerator.

A backend has two verbs. `load(order, runtime, path)` returns an object with the interface of a runtime's
Interpreter (input and output details, set_tensor, get_tensor, allocate_tensors, and invoke, which returns
when the work is done). `delegation(interpreter)` returns, after an inference, the fields of
harness.types.Delegation that the backend knows.
"""

from typing import Any, Dict

import graph
from wire import AgentFault


class Cpu:
    """The runtime's own CPU path, with or without XNNPACK; the parent adds the facts of its log."""

    def load(self, order: Dict[str, Any], runtime: Any, path: str) -> Any:
        """Return the interpreter."""
        return runtime.interpreter(model_path=path, num_threads=order["threads"])

    def delegation(self, interpreter: Any) -> Dict[str, Any]:
        """Return the delegation that the graph shows."""
        return graph.delegation(interpreter)


def of(order: Dict[str, Any]) -> Any:
    """Return the backend of an order's target; raises AgentFault (unsupported)."""
    target = order.get("target")
    if order.get("delegate"):
        import external

        return external.External()
    if target == "gpu":
        import gpu

        return gpu.Gpu()
    if target == "xnnpack":
        return Cpu()
    reason = "this agent cannot run the target {} on this device: no delegate for it is named"
    raise AgentFault("unsupported", reason.format(target))
