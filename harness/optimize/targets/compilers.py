"""The vendors' compilers by name; a separate module, so that listing the steps imports no compiler code."""

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
"""The vendors of ai-edge-litert, and the package of each vendor's compiler."""
