"""Time inferences: warm-up and samples (docs/measurement.md, one timed launch and scenarios).

Between two samples there are only the clock, three stores and two comparisons. All state is in
preallocated arrays of machine numbers.
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
"""Limits memory (16 bytes per sample); only tiny models with a long dose reach it."""

SCENARIOS = ("single", "stream", "offline", "sustained")
SUSTAINED_SAMPLES = 200_000
"""Per sustained launch; when full, every other sample is dropped and half as many are kept."""

_SPIN_NS = 500_000
"""A wait ends with a busy loop of this length: a sleep ends late by timer slack and wake-up."""

_SPARE = 64
_MIN_THIRD = 3
Numbers = Any
Storage = Tuple[Any, Any]
Loop = Callable[[Callable[[], None], Storage, int, Dict[str, Any], int], int]


def warm_up(invoke: Callable[[], None], dose: Dict[str, Any]) -> Tuple[Dict[str, Any], int]:
    """Invoke until warm; returns {inferences, seconds, steady} and the last window's median, ns.

    It takes at minimum `warmup_min_inferences` and `warmup_seconds`. Then it ends as soon as the medians
    of the last two windows of 20 differ by at most 2 %. Two caps end it unsteady:
    `warmup_max_seconds`, and `warmup_max_inferences` counted from the end of the minimum (0.5 s of a
    50 us model are 10,000 inferences, so a count from the start would end every fast model's warm-up
    before its minimum). If the cap of seconds comes before two windows are full, as for a slow model,
    the two halves of the inferences are compared instead.
    """
    clock = time.perf_counter_ns
    window = array("q", bytes(8 * WINDOW))
    slow = array("q", bytes(8 * 2 * WINDOW))
    start = now = clock()
    enough_ns = start + int(dose["warmup_seconds"] * 1e9)
    cap_ns = start + int(dose["warmup_max_seconds"] * 1e9)
    minimum, maximum = dose["warmup_min_inferences"], dose["warmup_max_inferences"]
    done = extra = 0
    before = last = None  # type: Optional[float]
    steady = False
    while True:
        if now >= enough_ns and done >= minimum:
            steady = _agree(before, last)
            if steady or now >= cap_ns or extra >= maximum:
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
    """Sample `invoke` in the dose's scenario; returns the columns and the facts of the sampling.

    It takes at minimum `min_inferences` and `min_seconds`, and at most `max_seconds` (a started sample
    is finished); a sustained launch takes its minutes. `expected_ns`, the time of one inference, sets
    the size of the storage. cpu_share is thread time over wall time with one thread, and process time
    over wall time and threads with more (the runtime's pool works outside this thread); a stream has
    none. A stream's `at` and `taken` count from the scheduled starts, its `service` from the actual
    ones.
    """
    scenario = dose.get("scenario", "single")
    samples = math.ceil(dose["min_inferences"] / inner)
    if scenario == "stream":
        capacity = max(samples, math.ceil(dose["min_seconds"] * 1e3 / dose["period_ms"]))
        capacity = samples = min(MAX_SAMPLES, capacity)
        loop = _sample_stream  # type: Loop
    elif scenario == "sustained":
        capacity, loop = SUSTAINED_SAMPLES, _sample_sustained
    else:
        capacity = max(samples, int(dose["min_seconds"] * 1e9 / (expected_ns * inner)))
        capacity = min(MAX_SAMPLES, capacity + capacity // 2 + _SPARE)
        loop = _sample_each if inner == 1 else _sample_batches
    at, taken = array("q", bytes(8 * capacity)), array("q", bytes(8 * capacity))
    switches = resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    cpu_clock = time.thread_time_ns if threads == 1 else time.process_time_ns
    # perf_counter is CLOCK_MONOTONIC on Linux, as the agent's own stamps are.
    cpu, start_ns = cpu_clock(), time.perf_counter_ns()
    count = loop(invoke, (at, taken), samples, dose, inner)
    cpu, end_ns = cpu_clock() - cpu, time.perf_counter_ns()
    del at[count:], taken[count:]
    flags = ["sample_cap"] if len(at) == MAX_SAMPLES else []
    flags += ["thinned"] if count > len(at) else []
    stream = {}  # type: Dict[str, Any]
    if scenario == "stream":
        stream["service"] = (at, taken)
        at, taken, late, left = _from_schedule(at, taken, dose["period_ms"], samples)
        stream["missed"] = late + left
        flags += ["backlog"] if left else []
    drift = _drift(taken)
    if drift is not None and abs(drift) > DRIFT:
        flags.append("drift")
    return {
        **stream,
        "at": at,
        "taken": taken,
        "window": {"start_ns": start_ns, "end_ns": end_ns},
        "drift": drift,
        "cpu_share": None if stream else cpu / ((end_ns - start_ns) * threads),
        "involuntary_switches": resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw - switches,
        "inferences": count * inner,
        "flags": flags,
    }


def _sample_each(
    invoke: Callable[[], None], storage: Storage, minimum: int, dose: Dict[str, Any], _inner: int
) -> int:
    at, taken = storage
    clock = time.perf_counter_ns
    capacity = len(at)
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
        if (count >= minimum and end >= enough) or end >= cap:
            return count
        if count == capacity:
            capacity = _grow(storage)
            if count == capacity:
                return count


def _sample_batches(
    invoke: Callable[[], None], storage: Storage, minimum: int, dose: Dict[str, Any], inner: int
) -> int:
    """Do as _sample_each, with `inner` inferences between two clock reads."""
    at, taken = storage
    clock = time.perf_counter_ns
    capacity = len(at)
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
        if (count >= minimum and end >= enough) or end >= cap:
            return count
        if count == capacity:
            capacity = _grow(storage)
            if count == capacity:
                return count


def _sample_stream(
    invoke: Callable[[], None], storage: Storage, frames: int, dose: Dict[str, Any], _inner: int
) -> int:
    """Do as _sample_each, but start no frame before its time; the schedule is never shifted.

    A late frame starts at once. Sampling ends after `frames`, or at max_seconds.
    """
    at, taken = storage
    clock, sleep = time.perf_counter_ns, time.sleep
    period = _period_ns(dose["period_ms"])
    count = 0
    due = start = clock()
    cap = start + int(dose["max_seconds"] * 1e9)
    while True:
        left = due - clock() - _SPIN_NS
        if left > 0:
            sleep(left / 1e9)
        while clock() < due:
            pass
        begin = clock()
        invoke()
        end = clock()
        at[count] = begin
        taken[count] = end - begin
        count += 1
        due = at[0] + count * period
        if count == frames or end >= cap:
            return count


def _from_schedule(
    at: Numbers, taken: Numbers, period_ms: float, frames: int
) -> Tuple[Numbers, Numbers, int, int]:
    """Return the frames' scheduled starts, latencies, and the numbers of late and unstarted frames.

    The first frame starts the schedule. A late frame ended more than a period after its scheduled
    start. An unstarted frame never ran, though its period was over at the end (max_seconds).
    """
    period = _period_ns(period_ms)
    due = array("q", range(at[0], at[0] + len(at) * period, period))
    latency = array("q", (begin + took - start for begin, took, start in zip(at, taken, due)))
    late = sum(value > period for value in latency)
    over = min(frames, (at[-1] + taken[-1] - at[0] - 1) // period)
    return due, latency, late, max(0, over - len(at))


def _period_ns(period_ms: float) -> int:
    return max(1, int(period_ms * 1e6))


def _sample_sustained(
    invoke: Callable[[], None], storage: Storage, _minimum: int, dose: Dict[str, Any], inner: int
) -> int:
    """Do as _sample_each, for the dose's minutes; returns the number of samples, kept or not.

    Every sample is kept until the storage is full. Then every other one is dropped, whatever its
    value, and from then on only every second one is kept, and so on: kept samples are evenly spaced.
    """
    at, taken = storage
    clock = time.perf_counter_ns
    call, capacity = invoke, len(at)
    batch = range(inner)

    def several() -> None:
        for _ in batch:
            invoke()

    if inner > 1:
        call = several
    seen = count = 0
    stride = 1
    enough = clock() + int(dose["sustained_minutes"] * 60e9)
    while True:
        begin = clock()
        call()
        end = clock()
        if seen % stride == 0:
            at[count] = begin
            taken[count] = end - begin
            count += 1
        seen += 1
        if end >= enough:
            del at[count:], taken[count:]
            return seen
        if count == capacity:
            count, stride = capacity // 2, 2 * stride
            for column in storage:
                column[:count] = column[::2]


def _grow(storage: Storage) -> int:
    """Double the storage, up to MAX_SAMPLES; called between two samples, so it is not timed."""
    capacity = len(storage[0])
    more = min(capacity, MAX_SAMPLES - capacity)
    for column in storage:
        column.frombytes(bytes(8 * more))
    return capacity + more


def repeat(action: Callable[[], None], times: int) -> Tuple[Numbers, Numbers]:
    """Time `action` `times` times; returns the start and the duration of each, ns."""
    at, taken = array("q"), array("q")
    for _ in range(times):
        begin = time.perf_counter_ns()
        action()
        taken.append(time.perf_counter_ns() - begin)
        at.append(begin)
    return at, taken


def median(values: Numbers) -> Optional[float]:
    """Return the median, or None without values."""
    ordered = sorted(values)
    half = len(ordered) // 2
    if not ordered:
        return None
    return float(ordered[half]) if len(ordered) % 2 else (ordered[half - 1] + ordered[half]) / 2


def _drift(taken: Numbers) -> Optional[float]:
    """Return ln(median of the last third / median of the first third); None under 9 samples."""
    third = len(taken) // 3
    first, last = median(taken[:third]), median(taken[len(taken) - third :])
    if third < _MIN_THIRD or not first or not last:
        return None
    return math.log(last / first)


def columns(
    series: str, at: Numbers, values: "List[float] | Numbers", count: int
) -> Dict[str, Any]:
    """Return the columns of a series; `count` is the number of inferences per value."""
    return {"series": series, "at": at, "value": array("d", values), "count": count}
