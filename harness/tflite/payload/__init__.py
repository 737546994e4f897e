"""Packed models for the transfer to a device: codecs by name, deltas, and a report of sizes.

The agent has its own unpacker (agents/python_tflite/unpack.py), because no package of this project
is installed on a device.
"""

from __future__ import annotations

from harness.tflite.payload.codecs import Codec, get, is_installed, names
from harness.tflite.payload.report import PayloadReport, payload_report

__all__ = ["Codec", "PayloadReport", "get", "is_installed", "names", "payload_report"]
