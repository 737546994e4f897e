"""Time per operator of a measured file, and the difference between two.

There are two sources: the vendor's benchmark_model if the user has that binary (tool.py,
tool_log.py), else truncated graphs of the kept file (harness/tflite/truncate.py, estimate.py). The
second is an estimate and is marked as one. docs/layers.md has the limits of both.
"""

from __future__ import annotations

from harness.analysis.layers.operators import Layers, OperatorTime, Subject

__all__ = ["Layers", "OperatorTime", "Subject"]
