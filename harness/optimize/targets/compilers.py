"""The vendors' compilers by name; apart from what calls them, so that a step is listed without it."""

from __future__ import annotations

from collections.abc import Mapping

EDGETPU_COMPILER = "edgetpu_compiler"

PACKAGES: Mapping[str, str | None] = {
    "qualcomm": "ai-edge-litert-sdk-qualcomm",
    "mediatek": "ai-edge-litert-sdk-mediatek",
    "google_tensor": "ai-edge-litert-sdk-google-tensor",
    "intel_openvino": "ai-edge-litert-sdk-intel",
    "samsung": None,
}
"""Vendors that ai-edge-litert knows, and the package that brings each one's compiler."""
