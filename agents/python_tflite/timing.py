"""Time inferences: warm-up and samples (docs/measurement.md, step 4).

Between two samples there is nothing but the clock, three stores and two comparisons; all state is
in preallocated arrays of machine numbers.
"""

import math
import resource
import time
from array import array
from typing import Any, Callable, Dict, List, Optional, Tuple

WINDOW = 20
STEADY = 0.02
DRIFT = 0.02
MAX_SAMPLES = 1_000_000
"""A bound on memory (16 bytes a sample); reached only by tiny models with a long dose."""

_SPARE = 64
_LEAST_THIRD = 3
Numbers = Any
Storage = Tuple[Any, Any]


def warm_up(invoke: Callable[[], None], dose: Dict[str, Any]) -> Tuple[Dict[str, Any], int]:
    """Invoke until warm; returns {inferences, seconds, steady} and the last window's median, ns.

    At least `warmup_min_inferences` and `warmup_seconds`. From there on it ends as soon as the
    medians of the last two windows of 20 differ by at most 2 %. The caps end it unsteady:
    `warmup_max_seconds`, and `warmup_max_inferences` counted from where the minimum was reached
    (0.5 s of a 50 us model are 10,000 inferences, so that a count from the start would end every
    fast model's warm-up before its minimum). A model so slow that the cap of seconds comes before
    two windows are full is judged by the halves of what there is.
    """
    clock = time.perf_counter_ns
    window = array("q", bytes(8 * WINDOW))
    slow = array("q", bytes(8 * 2 * WINDOW))
    start = now = clock()
    enough_ns = start + int(dose["warmup_seconds"] * 1e9)
    cap_ns = start + int(dose["warmup_max_seconds"] * 1e9)
    least, most = dose["warmup_min_inferences"], dose["warmup_max_inferences"]
    done = extra = 0
    before = last = None  # type: Optional[float]
    steady = False
    while True:
        if now >= enough_ns and done >= least:
            steady = _agree(before, last)
            if steady or now >= cap_ns or extra >= most:
                break
            extra += 1
        begin = clock()
        invoke()
        now = clock()
        window[done % WINDOW] = now - begin
        if done < len(slow):
            slow[done] = now - begin
        done += 1
        if done % WINDOW == 0:
            before, last = last, median(window)
    if not steady and done < 2 * WINDOW:
        steady = _agree(median(slow[: done // 2]), median(slow[done // 2 : done]))
    seen = last if last is not None else median(slow[:done])
    warmup = {"inferences": done, "seconds": (now - start) / 1e9, "steady": steady}
    return warmup, max(1, int(seen or 1))


def _agree(before: Optional[float], last: Optional[float]) -> bool:
    return before is not None and last is not None and abs(last - before) <= STEADY * before


def measure(
    invoke: Callable[[], None], dose: Dict[str, Any], inner: int, expected_ns: int, threads: int
) -> Dict[str, Any]:
    """Sample `invoke`; returns the columns and what accompanied them.

    Until at least `min_inferences` and `min_seconds`, and at most `max_seconds` (the sample under
    way is finished). `expected_ns` is one inference's time: storage is sized by it. cpu_share is
    thread time over wall time with one thread, and process time over wall time and threads with
    more (the runtime's pool works outside this thread).
    """
    samples = math.ceil(dose["min_inferences"] / inner)
    room = max(samples, int(dose["min_seconds"] * 1e9 / (expected_ns * inner)))
    room = min(MAX_SAMPLES, room + room // 2 + _SPARE)
    at, taken = array("q", bytes(8 * room)), array("q", bytes(8 * room))
    loop = _sample_each if inner == 1 else _sample_batches
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    cpu_clock = time.thread_time_ns if threads == 1 else time.process_time_ns
    cpu, wall = cpu_clock(), time.perf_counter_ns()
    count = loop(invoke, (at, taken), samples, dose, inner)
    cpu, wall = cpu_clock() - cpu, time.perf_counter_ns() - wall
    del at[count:], taken[count:]
    drift = _drift(taken)
    flags = []
    if drift is not None and abs(drift) > DRIFT:
        flags.append("drift")
    if count == MAX_SAMPLES:
        flags.append("sample_cap")
    return {
        "at": at,
        "taken": taken,
        "drift": drift,
        "cpu_share": cpu / (wall * threads),
        "involuntary_switches": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches,
        "inferences": count * inner,
        "flags": flags,
    }


def _sample_each(
    invoke: Callable[[], None], storage: Storage, least: int, dose: Dict[str, Any], _inner: int
) -> int:
    at, taken = storage
    clock = time.perf_counter_ns
    room = len(at)
    count = 0
    start = clock()
    enough, cap = start + int(dose["min_seconds"] * 1e9), start + int(dose["max_seconds"] * 1e9)
    while True:
        begin = clock()
        invoke()
        end = clock()
        at[count] = begin
        taken[count] = end - begin
        count += 1
        if (count >= least and end >= enough) or end >= cap:
            return count
        if count == room:
            room = _grow(storage)
            if count == room:
                return count


def _sample_batches(
    invoke: Callable[[], None], storage: Storage, least: int, dose: Dict[str, Any], inner: int
) -> int:
    """As _sample_each, with `inner` inferences between two clock reads."""
    at, taken = storage
    clock = time.perf_counter_ns
    room = len(at)
    count = 0
    batch = range(inner)
    start = clock()
    enough, cap = start + int(dose["min_seconds"] * 1e9), start + int(dose["max_seconds"] * 1e9)
    while True:
        begin = clock()
        for _ in batch:
            invoke()
        end = clock()
        at[count] = begin
        taken[count] = end - begin
        count += 1
        if (count >= least and end >= enough) or end >= cap:
            return count
        if count == room:
            room = _grow(storage)
            if count == room:
                return count


def _grow(storage: Storage) -> int:
    """Double the storage, up to the bound; between two samples, so outside what is timed."""
    room = len(storage[0])
    more = min(room, MAX_SAMPLES - room)
    for column in storage:
        column.frombytes(bytes(8 * more))
    return room + more


def repeat(action: Callable[[], None], times: int) -> Tuple[Numbers, Numbers]:
    """Time `action` this often; returns when each began and what it took, ns."""
    at, taken = array("q"), array("q")
    for _ in range(times):
        begin = time.perf_counter_ns()
        action()
        taken.append(time.perf_counter_ns() - begin)
        at.append(begin)
    return at, taken


def median(values: Numbers) -> Optional[float]:
    """Return the median, or None of nothing."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if not ordered:
        return None
    return float(ordered[half]) if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _drift(taken: Numbers) -> Optional[float]:
    """Return ln(median of the last third / median of the first third); None under 9 samples."""
    third = len(taken) // 3
    first, last = median(taken[:third]), median(taken[len(taken) - third :])
    if third < _LEAST_THIRD or not first or not last:
        return None
    return math.log(last / first)


def columns(
    series: str, at: Numbers, values: "List[float] | Numbers", count: int
) -> Dict[str, Any]:
    """Name the columns of a series; `count` is how many inferences each value averages."""
    return {"series": series, "at": at, "value": array("d", values), "count": count}
