"""Two files' operators side by side, paired by type and name, and their time differences."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.layers.operators import WITHIN_NOISE, Layers, OperatorTime
from harness.printable import counted

Pairing = tuple[OperatorTime | None, OperatorTime | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two subjects with their operators paired in the order of execution."""

    a: Layers
    b: Layers
    pairs: tuple[Pairing, ...]

    def plain(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {
            "a": str(self.a.subject),
            "b": str(self.b.subject),
            "whole_difference_us": (self.b.whole_ns - self.a.whole_ns) / 1e3,
            "operators": self.rows(),
            "remarks": list(self.remarks()),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row per pair; `difference_us` is B - A, null if one side has no operator."""
        return [_row(a, b) for a, b in self.pairs]

    def remarks(self) -> tuple[str, ...]:
        """Return the facts that make the two hard to compare."""
        remarks = []
        if self.a.source != self.b.source:
            remarks.append(
                f"A is from {self.a.source}, B from {self.b.source}: not the same measure"
            )
        if self.a.subject.device != self.b.subject.device:
            remarks.append(f"A ran on {self.a.subject.device}, B on {self.b.subject.device}")
        alone = sum(a is None or b is None for a, b in self.pairs)
        if alone:
            remarks.append(
                f"only in one of the two: {alone} of {counted(len(self.pairs), 'operator')}"
            )
        return tuple(remarks)


def difference(a: Layers, b: Layers) -> Difference:
    """Pair two files' operators by type and name, then by type, in the order of execution.

    The others stay unpaired: operators that a recipe added or removed, and those that the other file
    has in a group.
    """
    return Difference(a=a, b=b, pairs=tuple(_paired(a.operators, b.operators, [_exact, _type])))


def _exact(one: OperatorTime) -> object:
    return one.type, one.name


def _type(one: OperatorTime) -> object:
    return one.type


def _paired(
    a: Sequence[OperatorTime],
    b: Sequence[OperatorTime],
    keys: Sequence[Callable[[OperatorTime], object]],
) -> list[Pairing]:
    """Pair the longest common runs by the first key, and the operators between by the next key."""
    if not keys or not a or not b:
        return [*((one, None) for one in a), *((None, one) for one in b)]
    key = keys[0]
    matcher = difflib.SequenceMatcher(
        None, [key(one) for one in a], [key(one) for one in b], autojunk=False
    )
    pairs: list[Pairing] = []
    for tag, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        if tag == "equal":
            pairs += zip(a[a_from:a_to], b[b_from:b_to], strict=True)
        else:
            pairs += _paired(a[a_from:a_to], b[b_from:b_to], keys[1:])
    return pairs


def _row(a: OperatorTime | None, b: OperatorTime | None) -> dict[str, Any]:
    one = a or b
    assert one is not None
    row: dict[str, Any] = {
        "a": None if a is None else _positions(a),
        "b": None if b is None else _positions(b),
        "type": one.type,
        "a_us": None if a is None else a.ns / 1e3,
        "b_us": None if b is None else b.ns / 1e3,
        "difference_us": None,
        "plus_minus_us": None,
        "flags": [],
        "name": one.name,
    }
    if a is None or b is None:
        return row
    row["difference_us"] = (b.ns - a.ns) / 1e3
    if a.half_width_ns is not None and b.half_width_ns is not None:
        half = math.hypot(a.half_width_ns, b.half_width_ns)
        row["plus_minus_us"] = half / 1e3
        row["flags"] = [WITHIN_NOISE] if abs(b.ns - a.ns) <= half else []
    return row


def _positions(one: OperatorTime) -> str:
    return str(one.first) if one.first == one.last else f"{one.first}-{one.last}"
