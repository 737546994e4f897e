"""What travels to a device instead of a model: codecs by name, deltas, and what each would take.

The agent has an unpacker of its own (agents/python_tflite/unpack.py): it runs where nothing of
ours can be installed.
"""

from __future__ import annotations

from harness.tflite.payload.codecs import Codec, get, is_installed, names
from harness.tflite.payload.report import PayloadReport, payload_report

__all__ = ["Codec", "PayloadReport", "get", "is_installed", "names", "payload_report"]
