"""What is asked about and what is answered: a subject, and the times of its operators."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

GAP_LIMIT = 0.10
"""The operators' sum may differ from the whole by this much before it is said."""

TOOL, ESTIMATE = "benchmark_model", "truncated graphs"
WITHIN_NOISE, NEGATIVE, SEVERAL = "within_noise", "negative", "several"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """One measured file of a stored run: what its operators' times are asked of."""

    run: str
    model: str
    recipe: str
    target: str
    device: str
    threads: int
    path: Path
    """The file as the run kept it."""
    digest: str
    stored_p50_ns: float | None = None
    """What the run says of it; null where it has no number."""

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What makes it the same question in another run."""
        return self.model, self.recipe, self.target, self.device, self.threads

    def __str__(self) -> str:
        """Write it for a person."""
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"{self.model} {self.recipe} on {self.device}{threads} ({self.run})"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """The time of one operator, or of neighbours that could not be told apart."""

    first: int
    """Position in the order of execution, from 0."""
    last: int
    type: str
    """`CONV_2D`; several are joined by ` + `."""
    name: str
    """Of the tensor that the last of them makes."""
    ns: float
    """Time of one inference spent here; an estimate may be negative, which is noise."""
    half_width_ns: float | None = None
    """Of the 95 % interval over launches; null under three."""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The operators of one subject in the order of execution, against the whole."""

    subject: Subject
    source: str
    operators: tuple[OperatorTime, ...]
    whole_ns: float
    """The whole file by the same source, in launches of the same session."""
    whole_is: str
    """What statistic that is."""
    launches: int
    """Of each file that was measured."""
    notes: tuple[str, ...] = ()
    inside: tuple[OperatorTime, ...] = ()
    """What a delegate says of its own operators; their time is already in `operators`."""

    @property
    def estimate(self) -> bool:
        """Whether the times are differences of truncated graphs."""
        return self.source == ESTIMATE

    @property
    def sum_ns(self) -> float:
        """All operators together."""
        return sum(operator.ns for operator in self.operators)

    def remarks(self) -> tuple[str, ...]:
        """Say where the sum misses the whole or the stored p50 by over 10 %, and the notes."""
        said = []
        for what, reference in (
            (f"the whole model ({self.whole_is})", self.whole_ns),
            ("the p50 that the run stored", self.subject.stored_p50_ns),
        ):
            gap = gap_of(self.sum_ns, reference)
            if gap is not None and reference is not None and abs(gap) > GAP_LIMIT:
                said.append(
                    f"the operators' sum, {self.sum_ns / 1e6:.4g} ms, is {gap:+.0%} off {what}, "
                    f"{reference / 1e6:.4g} ms"
                )
        return (*said, *self.notes)

    def plain(self) -> dict[str, Any]:
        """Return it as plain data, for JSON."""
        subject = asdict(self.subject)
        subject["path"] = str(self.subject.path)
        return {
            **subject,
            "source": self.source,
            "estimate": self.estimate,
            "launches": self.launches,
            "whole_ns": self.whole_ns,
            "whole_is": self.whole_is,
            "sum_ns": self.sum_ns,
            "gap": gap_of(self.sum_ns, self.whole_ns),
            "gap_to_stored": gap_of(self.sum_ns, self.subject.stored_p50_ns),
            "remarks": list(self.remarks()),
            "operators": rows(self.operators, self.sum_ns),
            "inside": rows(self.inside, None),
        }


def gap_of(total: float, reference: float | None) -> float | None:
    """Return total / reference - 1; None without a reference above 0."""
    return total / reference - 1 if reference else None


def rows(operators: Sequence[OperatorTime], total_ns: float | None) -> list[dict[str, Any]]:
    """Return a row for each operator, with its share of `total_ns` where that is given."""
    return [
        {
            "operators": f"{one.first}-{one.last}" if one.last > one.first else str(one.first),
            "type": one.type,
            "us": one.ns / 1e3,
            "plus_minus_us": None if one.half_width_ns is None else one.half_width_ns / 1e3,
            "share": one.ns / total_ns if total_ns else None,
            "flags": list(one.flags),
            "name": one.name,
        }
        for one in operators
    ]
