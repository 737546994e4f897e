"""Operator times from truncated graphs: the difference of neighbouring prefixes, an estimate.

Every prefix and the whole file have launches of their own, interleaved in mirrored blocks
(measure/blocks.py), in one session of the device. The time of an operator is the p50 of the prefix
that ends with it minus the p50 of the prefix before; p50 is the median of the launches' medians, as
in a row. The interval is Student's t over the differences per block: a block has one launch of every
prefix, so the state of the device in that block affects both sides of a difference.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness import stats
from harness.analysis.layers.operators import (
    ESTIMATE,
    NEGATIVE,
    SEVERAL,
    WITHIN_NOISE,
    Layers,
    OperatorTime,
    Subject,
)
from harness.errors import HarnessError, LeaseError, TransportError
from harness.events import Emit, MeasuringStarted, ignore
from harness.measure import blocks
from harness.measure.bench import Bench, launch_of
from harness.measure.sessions import Session
from harness.optimize import workers
from harness.printable import counted
from harness.tflite.truncate import MAX_PREFIXES, Prefix
from harness.types import Cell, Dose, Profile

LAUNCHES = 4
"""Two mirrored pairs of blocks: enough for an interval, and 64 prefixes take minutes."""

WHOLE = "whole"

_CAVEAT = (
    "an estimate: differences of truncated graphs. A delegate compiles every prefix separately, so "
    "fusing and partitions can differ from the whole; the first operator includes the cost of a call"
)


def short_dose(launches: int = LAUNCHES) -> Dose:
    """Return the dose per prefix: short launches, because there are many prefixes."""
    return Dose(
        launches=launches,
        min_inferences=30,
        min_seconds=0.05,
        max_seconds=3.0,
        warmup_seconds=0.1,
        warmup_max_seconds=3.0,
        memory_launches=0,
    )


@dataclass(slots=True, kw_only=True)
class _Piece:
    """A file to time: a prefix or the whole file."""

    cell: Cell
    prefix: Prefix | None
    """None for the whole file."""
    medians: dict[int, float] = field(default_factory=dict)
    """Median latency per block, ns."""
    delegated: tuple[int | None, int | None] = (None, None)
    loops: int = 1
    refused: str | None = None


def measure(
    subjects: Sequence[Subject],
    session: Session,
    folder: Path,
    *,
    launches: int = LAUNCHES,
    at_most: int = MAX_PREFIXES,
    seed: int = 0,
    profile: Profile | None = None,
    emit: Emit = ignore,
) -> list[Layers]:
    """Estimate the operator times of files on one device; all files share the blocks.

    `folder` takes the cut files, `at_most` of them per file; `profile` names the delegate libraries
    of accelerators. `emit` gets a MeasuringStarted, a LaunchStarted per launch, and the other events
    of a bench. If the runtime refuses a prefix, its operators are counted with the next one and a
    note says so.

    Raises the errors of the whole file's launches, RecipeError for a file that cannot be cut, and
    TransportError if the device is lost for good.
    """
    dose = short_dose(launches)
    pieces = [
        _pieces(subject, f"#{number}", folder, at_most, _Settings(dose=dose, seed=seed))
        for number, subject in enumerate(subjects)
    ]
    every = [piece for share in pieces for piece in share]
    total = sum(1 + piece.cell.dose.launches for piece in every)
    emit(MeasuringStarted(cells=tuple(piece.cell for piece in every), launches=total))
    with Bench(session=session, emit=emit, profile=profile) as bench:
        _measure(every, bench, seed)
    return [_layers(subject, share) for subject, share in zip(subjects, pieces, strict=True)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Settings:
    dose: Dose
    seed: int


def _pieces(
    subject: Subject, mark: str, folder: Path, at_most: int, settings: _Settings
) -> list[_Piece]:
    """Cut the file and write the prefixes; the whole file comes last. `mark` identifies the subject."""

    def cell(part: str, path: Path, digest: str) -> Cell:
        return subject.cell(
            f"{mark} {part}", settings.dose, path=path, digest=digest, seed=settings.seed
        )

    pieces = []
    order = {"path": str(subject.path), "at_most": at_most, "workdir": str(folder)}
    cut = workers.once("prefixes", order, stage="cutting it", file=str(subject.path))
    for plain in cut["prefixes"]:
        digest = plain.pop("digest")
        path = folder / f"{digest}.tflite"
        prefix = Prefix(**{**plain, "data": b""})
        pieces.append(_Piece(cell=cell(f"0-{prefix.last}", path, digest), prefix=prefix))
    pieces.append(_Piece(cell=cell(WHOLE, subject.path, subject.digest), prefix=None))
    return pieces


def _measure(pieces: Sequence[_Piece], bench: Bench, seed: int) -> None:
    variants = [blocks.built(piece.cell) for piece in pieces]
    bench.bring({variant.digest: variant.path for variant in variants})
    by_id = {piece.cell.id: piece for piece in pieces}
    for piece in pieces:
        _attempt(bench, piece, _pilot)
    for turn in blocks.schedule([piece.cell for piece in pieces], seed):
        piece = by_id[turn.cell.id]
        if piece.refused is None:
            _attempt(bench, piece, functools.partial(_timed, turn))


def _attempt(bench: Bench, piece: _Piece, action: Callable[[Bench, _Piece], None]) -> None:
    """Make one launch; a prefix that cannot run is left out, but the whole file must run."""
    try:
        bench.recovering(lambda: action(bench, piece), launch_of(piece.cell))
    except (TransportError, LeaseError):
        raise
    except HarnessError as error:
        if piece.prefix is None:
            raise
        piece.refused = f"{error.kind}: {error}"
        bench.recover(error)


def _pilot(bench: Bench, piece: _Piece) -> None:
    piece.loops = blocks.inner_loop(bench.pilot(piece.cell, blocks.pilot(piece.cell)))


def _timed(turn: blocks.Turn, bench: Bench, piece: _Piece) -> None:
    launch = bench.launch(piece.cell, blocks.order(turn, loops=piece.loops))
    latencies = [
        value for part in launch.samples if part.series == "latency" for value in part.value
    ]
    piece.medians[turn.block] = stats.median(latencies)
    piece.delegated = (launch.delegation.delegated_ops, launch.delegation.total_ops)


# --- from launches to times --------------------------------------------------------------------


def _layers(subject: Subject, pieces: Sequence[_Piece]) -> Layers:
    whole = pieces[-1]
    kept = [piece for piece in pieces[:-1] if piece.refused is None]
    operators = []
    before: _Piece | None = None
    uncounted: list[Prefix] = []
    for piece in pieces[:-1]:
        assert piece.prefix is not None
        uncounted.append(piece.prefix)
        if piece.refused is None:
            operators.append(_operator(uncounted, piece, before))
            before, uncounted = piece, []
    if uncounted:
        operators.append(_operator(uncounted, whole, before))
    return Layers(
        subject=subject,
        source=ESTIMATE,
        operators=tuple(operators),
        whole_ns=_p50(whole),
        whole_is="p50 of the whole file, measured in the same blocks",
        launches=len(whole.medians),
        notes=(*_notes(pieces, kept, whole), *_noise(operators)),
    )


def _p50(piece: _Piece) -> float:
    return stats.median(list(piece.medians.values()))


def _operator(added: Sequence[Prefix], piece: _Piece, before: _Piece | None) -> OperatorTime:
    if before is None:
        ns, differences = _p50(piece), list(piece.medians.values())
    else:
        ns = _p50(piece) - _p50(before)
        shared = piece.medians.keys() & before.medians.keys()
        differences = [piece.medians[block] - before.medians[block] for block in sorted(shared)]
    half = half_width(differences)
    flags = []
    if len(added) > 1 or " + " in added[-1].type:
        flags.append(SEVERAL)
    if ns < 0:
        flags.append(NEGATIVE)
    if half is not None and abs(ns) <= half:
        flags.append(WITHIN_NOISE)
    return OperatorTime(
        first=added[0].first,
        last=added[-1].last,
        type=" + ".join(prefix.type for prefix in added),
        name=added[-1].name,
        ns=ns,
        half_width_ns=half,
        flags=tuple(flags),
    )


def half_width(differences: Sequence[float], confidence: float = 0.95) -> float | None:
    """Return t((1 + confidence) / 2, n - 1) s / sqrt(n), Student's; None under three values.

    It works on the linear scale, because a difference of two times can be negative.
    """
    count = len(differences)
    if count < stats.MIN_LAUNCHES_FOR_INTERVAL:
        return None
    deviation = statistics.stdev(differences)
    return stats.t_quantile((1 + confidence) / 2, count - 1) * deviation / math.sqrt(count)


def _notes(pieces: Sequence[_Piece], kept: Sequence[_Piece], whole: _Piece) -> tuple[str, ...]:
    notes = [_CAVEAT]
    reasons: dict[str, list[str]] = defaultdict(list)
    for piece in pieces:
        if piece.refused is not None and piece.prefix is not None:
            reasons[piece.refused].append(f"0-{piece.prefix.last}")
    notes += [
        f"prefixes {', '.join(names)} did not run ({reason}); counted with the next"
        for reason, names in reasons.items()
    ]
    worse = [one for one in kept if _not_delegated(one) > _not_delegated(whole)]
    if worse:
        names = ", ".join(f"0-{one.prefix.last}" for one in worse if one.prefix)
        notes.append(
            f"more operators stay outside the delegate in the prefixes {names} than in the whole: "
            "their times are too high"
        )
    return tuple(notes)


def _noise(operators: Sequence[OperatorTime]) -> tuple[str, ...]:
    noisy = sum(WITHIN_NOISE in one.flags for one in operators)
    if not noisy:
        return ()
    text = (
        f"within noise here: {noisy} of {counted(len(operators), 'operator')}; use a quieter device, more "
        "--launches or coarser groups (--at-most)"
    )
    return (text,)


def _not_delegated(piece: _Piece) -> int:
    delegated, total = piece.delegated
    return 0 if delegated is None or total is None else total - delegated
