"""Two files' operators side by side: which is which, and the difference of their times."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.analysis.layers.operators import WITHIN_NOISE, Layers, OperatorTime

Pairing = tuple[OperatorTime | None, OperatorTime | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """Two subjects, their operators lined up in the order of execution."""

    a: Layers
    b: Layers
    pairs: tuple[Pairing, ...]

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        return {
            "a": str(self.a.subject),
            "b": str(self.b.subject),
            "whole_difference_us": (self.b.whole_ns - self.a.whole_ns) / 1e3,
            "operators": self.rows(),
            "remarks": list(self.remarks()),
        }

    def rows(self) -> list[dict[str, Any]]:
        """Return a row for each pair; `difference_us` is B - A, null where one side has none."""
        return [_row(a, b) for a, b in self.pairs]

    def remarks(self) -> tuple[str, ...]:
        """Say what makes the two hard to compare."""
        said = []
        if self.a.source != self.b.source:
            said.append(f"A is from {self.a.source}, B from {self.b.source}: not the same measure")
        if self.a.subject.device != self.b.subject.device:
            said.append(f"A ran on {self.a.subject.device}, B on {self.b.subject.device}")
        alone = sum(a is None or b is None for a, b in self.pairs)
        if alone:
            said.append(f"{alone} of {len(self.pairs)} operators are only in one of the two")
        return tuple(said)


def difference(a: Layers, b: Layers) -> Difference:
    """Line two files' operators up: by type and name, then by type, keeping the order.

    What is left over stands alone: an operator that a recipe added or took away, or one that the
    other file has in a group.
    """
    return Difference(a=a, b=b, pairs=tuple(_lined(a.operators, b.operators, [_exact, _type])))


def _exact(one: OperatorTime) -> object:
    return one.type, one.name


def _type(one: OperatorTime) -> object:
    return one.type


def _lined(
    a: Sequence[OperatorTime],
    b: Sequence[OperatorTime],
    keys: Sequence[Callable[[OperatorTime], object]],
) -> list[Pairing]:
    """Pair the longest common runs by the first key, what is between them by the next."""
    if not keys or not a or not b:
        return [*((one, None) for one in a), *((None, one) for one in b)]
    key = keys[0]
    matcher = difflib.SequenceMatcher(
        None, [key(one) for one in a], [key(one) for one in b], autojunk=False
    )
    pairs: list[Pairing] = []
    for word, a_from, a_to, b_from, b_to in matcher.get_opcodes():
        if word == "equal":
            pairs += zip(a[a_from:a_to], b[b_from:b_to], strict=True)
        else:
            pairs += _lined(a[a_from:a_to], b[b_from:b_to], keys[1:])
    return pairs


def _row(a: OperatorTime | None, b: OperatorTime | None) -> dict[str, Any]:
    one = a or b
    assert one is not None
    row: dict[str, Any] = {
        "a": None if a is None else _place(a),
        "b": None if b is None else _place(b),
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


def _place(one: OperatorTime) -> str:
    return str(one.first) if one.first == one.last else f"{one.first}-{one.last}"
