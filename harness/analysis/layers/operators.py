"""A measured file, the times of its operators, and all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from harness.types import Cell, Dose, Variant

GAP_LIMIT = 0.10
"""A larger gap between the operators' sum and the whole is a remark."""

TOOL, ESTIMATE = "benchmark_model", "truncated graphs"
WITHIN_NOISE, NEGATIVE, SEVERAL = "within_noise", "negative", "several"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A measured file of a stored run."""

    run: str
    model: str
    recipe: str
    target: str
    device: str
    threads: int
    path: Path
    """The copy that the run keeps."""
    digest: str
    stored_p50_ns: float | None = None
    """The run's p50; null if it has none that is comparable."""

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """Identity across runs."""
        return self.model, self.recipe, self.target, self.device, self.threads

    def cell(self, label: str, dose: Dose, *, path: Path, digest: str, seed: int = 0) -> Cell:
        """Return the cell of one file to time: this one or a part of it, named by `label`."""
        variant = Variant(
            model=self.model,
            recipe=self.recipe,
            target=self.target,
            path=path,
            digest=digest,
            size_bytes=path.stat().st_size,
        )
        return Cell(
            model=self.model,
            recipe=f"{self.recipe} {label}",
            target=self.target,
            device=self.device,
            threads=self.threads,
            variant=variant,
            dose=dose,
            seed=seed,
        )

    def __str__(self) -> str:
        """Write model, recipe, device, threads and run."""
        threads = f", {self.threads} threads" if self.threads > 1 else ""
        return f"{self.model} {self.recipe} on {self.device}{threads} ({self.run})"


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorTime:
    """The time of one operator, or of neighbours that cannot be separated."""

    first: int
    """Position in the order of execution, from 0."""
    last: int
    type: str
    """`CONV_2D`; several are joined by ` + `."""
    name: str
    """Name of the tensor that the last operator makes."""
    ns: float
    """Time per inference; an estimate may be negative, which is noise."""
    half_width_ns: float | None = None
    """Half-width of the 95 % interval over launches; null under three launches."""
    flags: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The operator times of one file in the order of execution, and the time of the whole file."""

    subject: Subject
    source: str
    operators: tuple[OperatorTime, ...]
    whole_ns: float
    """Time of the whole file by the same source, in launches of the same session."""
    whole_is: str
    """The statistic of `whole_ns`."""
    launches: int
    """Launches per file."""
    notes: tuple[str, ...] = ()
    inside: tuple[OperatorTime, ...] = ()
    """A delegate's own operators; their time is already in `operators`."""

    @property
    def estimate(self) -> bool:
        """Whether the times are differences of truncated graphs."""
        return self.source == ESTIMATE

    @property
    def sum_ns(self) -> float:
        """Sum of all operators."""
        return sum(operator.ns for operator in self.operators)

    def remarks(self) -> tuple[str, ...]:
        """Return a remark if the sum is over 10 % off the whole or the stored p50, and the notes."""
        remarks = []
        for what, reference in (
            (f"the whole model ({self.whole_is})", self.whole_ns),
            ("the p50 that the run stored", self.subject.stored_p50_ns),
        ):
            gap = gap_of(self.sum_ns, reference)
            if gap is not None and reference is not None and abs(gap) > GAP_LIMIT:
                remarks.append(
                    f"the operators' sum, {self.sum_ns / 1e6:.4g} ms, is {gap:+.0%} off {what}, "
                    f"{reference / 1e6:.4g} ms"
                )
        return (*remarks, *self.notes)

    def plain(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
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
    """Return a row per operator, with its share of `total_ns` if that is given."""
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
