"""Why a delegate leaves an operator to the CPU, and what to change: a table of known messages.

Each entry has the source of its message. The first entry that matches a line counts; a line that
matches none is shown as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cause:
    """A message of a delegate, and the change that avoids it."""

    pattern: str
    """A regular expression that is searched in a line."""
    change: str
    source: str


CAUSES: tuple[Cause, ...] = (
    Cause(
        r"Max version supported: (\d+)\. Requested version (\d+)",
        "the operator is newer than the delegate: use a newer program, or convert it without the new "
        "feature (a TRANSPOSE_CONV of version 4 has a fused activation)",
        "tflite/delegates/gpu/common/model_builder_helper.cc",
    ),
    Cause(
        r"INT64",
        "convert with 32-bit indices (tf.int32 in the model): GPU delegates take no 64-bit integers",
        "logs of GPU delegates: `ADD: Tensor type(INT64) is not supported`, `CAST: Input type INT32 to "
        "INT64`",
    ),
    Cause(
        r"bad input dims size|dimensions must be less than 5",
        "reshape to at most 4 dimensions before this operator",
        'logs of GPU delegates: `RESHAPE: Tensor "..." has bad input dims size: 5.`',
    ),
    Cause(
        r"Can't parse inputs with const tensors",
        "make the constant operand an input, or compute this operator when the model is converted",
        "logs of GPU delegates: `GREATER_EQUAL: Can't parse inputs with const tensors.`",
    ),
    Cause(
        r"dynamic-sized tensor|static-sized tensors",
        "fix the shape of the input: `shape` of the model in the plan",
        "tflite/core/subgraph.cc: `Attempting to use a delegate that only supports static-sized tensors "
        "with a graph that has dynamic-sized tensors`",
    ),
    Cause(
        r"Operation is not supported",
        "replace the operator by ones that the delegate has, or move it to the start or end of the "
        "model, where it makes no further partition",
        "tensorflow#43541; tflite/delegates/gpu/common/model_builder.cc",
    ),
    Cause(
        r"No adapters found|Can not open OpenCL library",
        "the device has no driver for this API: set another `gpu_backend` in delegate_options",
        "tflite/delegates/gpu/cl/opencl_wrapper.cc; docs/gpu.md",
    ),
    Cause(
        r"Disallowed CPU fallback detected",
        "remove require_full_delegation from delegate_options, to see which operators are left",
        "tflite/tools/benchmark/benchmark_tflite_model.cc",
    ),
)


def change_for(line: str) -> str | None:
    """Return what to change for a delegate's message; None if the table does not have it."""
    found = next((one for one in CAUSES if re.search(one.pattern, line)), None)
    return found.change if found else None


_LEFT = re.compile(r"^(?:ERROR: )?(?P<op>[A-Z][A-Z0-9_]{1,80}): (?P<why>.{1,400})$")


def left_behind(lines: Iterable[str]) -> dict[str, str]:
    """Return each operator that a log lists as left, with the log's cause and the change.

    The lists start with `Following operations are not supported by GPU delegate:` and have a line
    per operator.
    """
    found: dict[str, str] = {}
    inside = False
    for line in lines:
        if "not supported by" in line and line.rstrip().endswith(":"):
            inside = True
            continue
        if not line.strip():
            continue
        match = _LEFT.match(line.strip()) if inside else None
        if match is None:
            inside = False
            continue
        change = change_for(match["why"])
        text = match["why"].strip().rstrip(".")
        found.setdefault(match["op"], f"{text}; {change}" if change else text)
    return found
