"""Who runs a model: the runtime's own CPU path, or the module of the order's accelerator.

A backend has two verbs. `load(order, runtime, path)` returns what speaks like a runtime's Interpreter (input
and output details, set_tensor, get_tensor, allocate_tensors, invoke, whose end is the end of the work). `told(interpreter)`
says after an inference what ran where: the fields of harness.types.Delegation that it knows.
"""

from typing import Any, Dict

import graph
from wire import AgentFault


class Cpu:
    """The runtime as it is, with XNNPACK where it makes it; the parent adds what its log says."""

    def load(self, order: Dict[str, Any], runtime: Any, path: str) -> Any:
        """Return the interpreter."""
        return runtime.interpreter(model_path=path, num_threads=order["threads"])

    def told(self, interpreter: Any) -> Dict[str, Any]:
        """Return what the graph shows."""
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
    reason = "the target {} is not served by this agent on this device: no delegate for it is named"
    raise AgentFault("unsupported", reason.format(target))
