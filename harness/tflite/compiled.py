"""The custom operators with which vendors' compilers replace the operators they map."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

EDGETPU = "edgetpu-custom-op"
DISPATCH = "DISPATCH_OP"
"""The operator that every vendor's compiler behind ai-edge-litert's aot writes."""

COMPILED_FOR: Mapping[str, str] = {EDGETPU: "edgetpu", DISPATCH: "npu"}
"""Target by custom operator."""


def compiled_ops(operators: Mapping[str, int]) -> int:
    """Count the compiled operators among a file's operators (name to count)."""
    return sum(operators.get(name, 0) for name in COMPILED_FOR)


_STAMP = "LiteRtStamp"
"""The metadata of a file that ai-edge-litert's aot compiled: the vendor and the chip, each filled up
with zeros."""

_MAX_STAMP_BYTES = 4_096


def stamped_chips(path: Path) -> tuple[str, ...]:
    """Return the chips that a file was compiled for, such as `Qualcomm SM8650`; empty if none.

    Raises RecipeError if the file cannot be read.
    """
    from harness.tflite import flatbuffer

    found = []
    with flatbuffer.reading(path.read_bytes(), path) as reader:
        model = reader.model
        for index in range(reader.length(model.MetadataLength())):
            entry = model.Metadata(index)
            if flatbuffer.text(entry.Name()) != _STAMP:
                continue
            raw = bytes(reader.buffer(entry.Buffer())[:_MAX_STAMP_BYTES])
            parts = [part.decode("ascii", "replace").strip() for part in raw.split(b"\0") if part]
            if len(parts) > 1 and all(part.isprintable() for part in parts):
                found.append(f"{parts[0]} {parts[1]}"[:100])
    return tuple(found)
