"""Read the delegation from the log of the vendor's benchmark_model, on a terminal or in a phone's log.

Messages: LiteRT tools/benchmark/benchmark_tflite_model.cc and core/subgraph.cc; tensorflow issue 43541. The
tool also prints a latency if the requested delegate took no operator, so only the lines about delegation
count. "Created delegate" is not one of them.
"""

from __future__ import annotations

import re

from harness.types import Delegation

_WHOLE = re.compile(r"Explicitly applied .{1,80} delegate, and the model graph will be completely")
_PART = re.compile(
    r"Explicitly applied .{1,80} delegate, and the model graph will be partially executed by the "
    r"delegate w/ (\d{1,9}) delegate kernels"
)
_NOTHING = re.compile(
    r"Though .{1,80} delegate is explicitly applied, the model graph will not be executed"
)
_FALLBACK = "Disallowed CPU fallback detected"
_REPLACED = re.compile(
    r"Replacing (\d{1,9})(?: out of (\d{1,9}))? node\(s\) with delegate \(([^)\n]{1,80})\) node"
)
_ON_GPU = re.compile(
    r"\b(\d{1,9}) operations will run on the GPU, and the remaining (\d{1,9}) operations will run on the CPU"
)
_UNSUPPORTED = "not supported by GPU delegate:"
_NAME = re.compile(r"(?:^|[ :])([A-Z][A-Z0-9_]{0,80}): ")
_MAX_LINE_CHARACTERS = 400
"""Characters per line that are searched."""

_CPU = "XNNPack"


def read(log: str, delegate: str) -> Delegation:
    """Return the delegation of `delegate` (a target's name); without evidence if the log has none."""
    replaced = [
        (int(taken), int(total) if total else None)
        for taken, total, name in _REPLACED.findall(log)
        if _CPU.lower() not in name.lower()
    ]
    taken = sum(count for count, _ in replaced) if replaced else None
    total = next((known for _, known in replaced if known is not None), None)
    on_gpu = _ON_GPU.search(log)
    if on_gpu is not None:
        taken, total = int(on_gpu.group(1)), sum(map(int, on_gpu.groups()))
    part = _PART.search(log)
    message = next(
        (found.group(0) for one in (_NOTHING, _PART, _WHOLE) if (found := one.search(log))), None
    )
    if message is None and _FALLBACK in log:
        message = _FALLBACK
    if _NOTHING.search(log):
        return Delegation(
            delegate="none", delegated_ops=0, total_ops=total, evidence=_evidence(message)
        )
    fully = None
    if part is not None or _FALLBACK in log:
        fully = False
    elif _WHOLE.search(log):
        fully = True
    if message is None and taken is not None:
        message = f"{taken} of {total if total is not None else 'all'} operators replaced"
    return Delegation(
        delegate=delegate,
        delegated_ops=taken if total is not None else None,
        total_ops=total,
        partitions=int(part.group(1)) if part is not None else None,
        left=_left(log),
        evidence=_evidence(message),
        fully=fully,
    )


def _left(log: str) -> tuple[str, ...]:
    """Return the operators that a GPU delegate lists as not supported, one per line."""
    _, _, after = log.partition(_UNSUPPORTED)
    found = []
    for line in after.splitlines()[1:]:
        name = _NAME.search(line[:_MAX_LINE_CHARACTERS])
        if name is None:
            break
        found.append(name.group(1))
    return tuple(sorted(found))


def _evidence(message: str | None) -> str:
    return "" if message is None else f"benchmark_model log: {message.replace(';', ',')}"
