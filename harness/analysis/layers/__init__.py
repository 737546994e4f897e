"""Time per operator of a measured file, and the difference between two.

Two sources: the vendor's benchmark_model where the user has that binary (tool.py, tool_log.py), else
truncated graphs of the kept file (truncate.py, estimate.py), which is an estimate and says so.
docs/layers.md says what each can and cannot tell.
"""

from __future__ import annotations

from harness.analysis.layers.operators import Layers, OperatorTime, Subject

__all__ = ["Layers", "OperatorTime", "Subject"]
