"""Inspect a .tflite file: its content, and the operators that this host's delegate takes.

inspect.inspect(Path("model.tflite")).operators
"""

from __future__ import annotations

import gzip
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from harness import decoding
from harness.devices.delegation import GraphNode, graph_walk
from harness.errors import HarnessError
from harness.optimize import workers
from harness.tflite import compiled, flatbuffer, payload, structure
from harness.tflite.flatbuffer import FileFacts, Signature
from harness.tflite.structure import Layer
from harness.types import DEFAULT_HOST, Delegation, HostLimits, Tensor

_PACK_SECONDS_PER_MB = 20.0
"""Added to the deadline of packing, whose time depends on the size alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightGroup:
    """The weights of one dtype."""

    dtype: str
    tensors: int
    elements: int
    bytes: int
    zeros: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """Everything that `edge-harness inspect` reports on a file."""

    path: Path
    digest: str
    size_bytes: int
    size_gzip_bytes: int
    size_zstd_bytes: int | None
    """At level 19; null if zstandard is not installed."""
    description: str
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    signatures: tuple[Signature, ...]
    operators: Mapping[str, int]
    custom: tuple[str, ...]
    compiled_for: tuple[str, ...]
    """The chips for whose NPU the file is compiled, such as `Qualcomm SM8650`."""
    weights: tuple[WeightGroup, ...]
    layers: tuple[Layer, ...]
    """Every constant of two dimensions or more that an operator computes with."""
    sparsity: float | None
    delegation: Delegation | None
    """The operators that this host's runtime gives to its default delegate; null with `reason`."""
    reason: str | None = None
    """Why this host's runtime could not open the file."""

    def plain(self) -> dict[str, Any]:
        """Return the inspection as JSON-able values."""
        return {
            **asdict(self),
            "path": str(self.path),
            "layers": [layer.plain() for layer in self.layers],
        }


def inspect(path: Path, limits: HostLimits = DEFAULT_HOST) -> Inspection:
    """Inspect a .tflite file in a child process.

    Raises RecipeError if the file cannot be read within the limits.
    """
    order = {"path": str(path)}
    with workers.Pool(1, limits) as pool:
        plain = pool.do("inspect", order, stage="reading it", file=str(path))
        found = decoding.decode(Inspection, plain)
        try:
            opened = pool.do("delegation", order, stage="loading it", file=str(path))
            return replace(found, delegation=delegated(opened["nodes"]))
        except HarnessError as error:
            return replace(found, reason=str(error))


def packed(path: Path, old: Path | None, limits: HostLimits = DEFAULT_HOST) -> dict[str, Any]:
    """Return the file's size in each codec, and as a delta to `old`, as JSON-able values.

    Raises PayloadError if a file cannot be read.
    """
    megabytes = sum(one.stat().st_size for one in (path, old) if one and one.exists()) / 1e6
    chosen = replace(limits, seconds=limits.seconds + _PACK_SECONDS_PER_MB * megabytes)
    order = {"path": str(path), "old": str(old) if old else None}
    return dict(workers.once("pack", order, limits=chosen, stage="packing it", file=str(path)))


def contents(path: Path) -> Inspection:
    """Read a file's content without a runtime; in a worker, because a stranger's file may be huge.

    Raises RecipeError if it cannot be read.
    """
    facts = flatbuffer.read(path)
    data = path.read_bytes()
    return Inspection(
        path=path,
        digest=facts.digest,
        size_bytes=facts.size_bytes,
        size_gzip_bytes=len(gzip.compress(data, 9, mtime=0)),
        size_zstd_bytes=len(payload.get("zstd").pack(data))
        if payload.is_installed("zstd")
        else None,
        description=facts.description,
        inputs=facts.inputs,
        outputs=facts.outputs,
        signatures=facts.signatures,
        operators=facts.operators,
        custom=facts.custom,
        compiled_for=compiled.stamped_chips(path),
        weights=_groups(facts),
        layers=structure.parse(data, path),
        sparsity=facts.sparsity,
        delegation=None,
    )


def delegated(nodes: Sequence[Mapping[str, Any]]) -> Delegation:
    """Return the delegation on this host, read from the runtime's nodes."""
    read = [
        GraphNode(op=node["op"], inputs=tuple(node["inputs"]), outputs=tuple(node["outputs"]))
        for node in nodes
    ]
    return graph_walk(read, where="on this host (ai_edge_litert)")


def _groups(facts: FileFacts) -> tuple[WeightGroup, ...]:
    return tuple(
        WeightGroup(
            dtype=dtype,
            tensors=len(chosen),
            elements=sum(weight.elements for weight in chosen),
            bytes=sum(weight.bytes for weight in chosen),
            zeros=sum(weight.zeros for weight in chosen),
        )
        for dtype in sorted({weight.dtype for weight in facts.weights})
        if (chosen := [weight for weight in facts.weights if weight.dtype == dtype])
    )
