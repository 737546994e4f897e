"""One launch: a new process that runs one order and answers once, on its own pipe.

Kinds: `timed` and `memory` run the model (never both in one process), `bare` only imports the runtime,
`infer` answers with outputs. There are few imports, because every module is resident while memory is
measured.
"""

import contextlib
import ctypes
import errno
import gc
import json
import os
import signal
import sys
import time
from typing import Any, Callable, Dict, List, Set, Tuple

import arrays
import backends
import digests
import disk
import runtimes
from wire import AgentFault, write_line

_PR_SET_PDEATHSIG = 1
_MEMORY_INFERENCES = 5
_SET_INPUT_REPEATS = 30
_MAX_INFER = 64
_REFUSALS = (RuntimeError, ValueError, SystemError)


class Model:
    """A loaded model with its inputs set."""

    def __init__(self, order: Dict[str, Any], runtime: runtimes.Runtime) -> None:
        """Load and allocate, timed as `load_ns`; raises AgentFault."""
        path = os.path.join(order["workdir"], "blobs", order["digest"])
        # This also reads the file into the page cache: load_ns is for a cold process, not a cold disk.
        if digests.of_file(path) != order["digest"]:
            # Otherwise the next `have` would report it as complete.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
            reason = "the file {} was damaged on the device; it was deleted, send it again"
            raise AgentFault("transfer_failed", reason.format(path))
        before = _threads()
        begin = time.perf_counter_ns()
        self.backend = backends.of(order)
        self.interpreter = _call(runtime, "load", self.backend.load, order, runtime, path)
        try:
            _call(runtime, "prepare", self.interpreter.allocate_tensors)
        except AgentFault as fault:
            raise _allocation_fault(self.interpreter, fault) from fault
        # Excludes the search for a GPU, and its attempt to take a model that it refuses as a whole.
        spent_ns = getattr(self.backend, "spent_ns", 0)
        self.load_ns = time.perf_counter_ns() - begin - spent_ns
        _pin_threads(order.get("processors") or [], _threads() - before)
        self._runtime = runtime
        self.inputs = self.interpreter.get_input_details()

    def random_inputs(self, order: Dict[str, Any]) -> List[Tuple[int, Any]]:
        """Return an array for every input, by tensor index."""
        limits = order.get("limits") or {}
        made = []
        for place, entry in enumerate(self.inputs):
            limit = limits.get(entry["name"])
            value = arrays.fill(tuple(entry["shape"]), entry["dtype"], order["seed"] + place, limit)
            made.append((entry["index"], value))
        return made

    def set_inputs(self, values: List[Tuple[int, Any]]) -> None:
        """Copy the inputs in."""
        for index, value in values:
            self.interpreter.set_tensor(index, value)

    def call(self, phase: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call the runtime; its exceptions become `rejected`."""
        return _call(self._runtime, phase, function, *arguments)

    def first(self) -> int:
        """Run the first inference; returns its time in ns."""
        begin = time.perf_counter_ns()
        self.call("invoke", self.interpreter.invoke)
        return time.perf_counter_ns() - begin


def _call(
    runtime: runtimes.Runtime,
    phase: str,
    function: Callable[..., Any],
    *arguments: Any,
    **named: Any,
) -> Any:
    try:
        return function(*arguments, **named)
    except _REFUSALS as error:
        raise _refusal(runtime, phase, error) from error


def _refusal(runtime: runtimes.Runtime, phase: str, error: Exception) -> AgentFault:
    problem = runtimes.numpy_problem(runtime)
    if problem is not None:
        return AgentFault("no_runtime", problem)
    refusal = "{} {} refused the model at {}: {}".format(
        runtime.name, runtime.version, phase, error
    )
    if "edgetpu-custom-op" in str(error):
        reason = "the file is compiled for an Edge TPU and no Edge TPU delegate is loaded here; "
        return AgentFault("unsupported", reason + refusal)
    return AgentFault("rejected", refusal)


def _allocation_fault(interpreter: Any, fault: AgentFault) -> AgentFault:
    """Return out_of_memory if a tensor exceeds the limit; the runtime does not report that cause."""
    import resource

    np = arrays.numpy()
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    limit = sys.maxsize if limit == resource.RLIM_INFINITY else limit
    largest = 0
    for entry in interpreter.get_tensor_details():
        one = int(np.prod(entry["shape"], dtype=np.int64)) * np.dtype(entry["dtype"]).itemsize
        largest = max(largest, one)
    if largest < limit:
        return fault
    reason = "a tensor of the file takes {} bytes, and the process may use {} in total; {}"
    return AgentFault("out_of_memory", reason.format(largest, limit, fault.reason))


def timed(order: Dict[str, Any], runtime: runtimes.Runtime) -> Dict[str, Any]:
    """Load, run the first inference, warm up and take samples; then read the delegation.

    The outputs are compared before the warm-up and after the samples, outside of what is timed.
    """
    import repeating
    import timing

    model = Model(order, runtime)
    values = model.random_inputs(order)
    model.call("input", model.set_inputs, values)
    first_ns = model.first()
    dose, inner, threads = order["dose"], order["inner_loop"], order["threads"]
    scenario = dose.get("scenario", "single")
    if scenario not in timing.SCENARIOS or (scenario == "stream" and inner > 1):
        reason = "this agent does not support scenario {!r} with {} inferences per sample"
        raise AgentFault("unsupported", reason.format(scenario, inner))
    invoke = model.interpreter.invoke
    first = repeating.outputs(model.interpreter)
    model.first()
    second = repeating.outputs(model.interpreter)
    gc.collect()
    gc.disable()
    warmup, expected_ns = model.call("invoke", timing.warm_up, invoke, dose)
    measured = model.call("invoke", timing.measure, invoke, dose, inner, expected_ns, threads)
    gc.enable()
    at, taken = timing.repeat(lambda: model.set_inputs(values), _SET_INPUT_REPEATS)
    each = [value / inner for value in measured["taken"]] if inner > 1 else measured["taken"]
    series = [
        timing.columns("latency", measured["at"], each, inner),
        timing.columns("set_input", at, taken, 1),
    ]
    model.first()
    last = repeating.outputs(model.interpreter)
    drifted = [repeating.FLAG] if repeating.drifted(first, second, last) else []
    stream = {}
    if scenario == "stream":
        begun, served = measured["service"]
        series.append(timing.columns("service", begun, served, 1))
        stream["missed"] = measured["missed"]
    return {
        **stream,
        "load_ns": model.load_ns,
        "first_ns": first_ns,
        "warmup": warmup,
        "inner_loop": inner,
        "inferences": measured["inferences"],
        "window": measured["window"],
        "drift": measured["drift"],
        # With an accelerator the CPU only waits, so its share means nothing.
        "cpu_share": measured["cpu_share"] if order["target"] == "xnnpack" else None,
        "involuntary_switches": measured["involuntary_switches"],
        "flags": measured["flags"] + drifted + ([] if warmup["steady"] else ["unsteady"]),
        "delegation": model.backend.delegation(model.interpreter),
        "series": series,
    }


def memory(order: Dict[str, Any], runtime: runtimes.Runtime) -> Dict[str, Any]:
    """Load and run a few inferences, then read this process's memory."""
    flags = _reset_peak()
    model = Model(order, runtime)
    model.call("input", model.set_inputs, model.random_inputs(order))
    first_ns = model.first()
    from array import array

    began = array("q")
    took = array("d")
    for _ in range(_MEMORY_INFERENCES):
        start = time.perf_counter_ns()
        model.call("invoke", model.interpreter.invoke)
        took.append(time.perf_counter_ns() - start)
        began.append(start)
    series = _memory_series()
    # Not a latency: it only shows whether one inference is long enough for a sample of its own.
    series.append({"series": "pilot", "at": began, "value": took, "count": 1})
    return {
        "load_ns": model.load_ns,
        "first_ns": first_ns,
        "inferences": _MEMORY_INFERENCES + 1,
        "flags": flags,
        "delegation": model.backend.delegation(model.interpreter),
        "series": series,
    }


def bare(_order: Dict[str, Any], _runtime: runtimes.Runtime) -> Dict[str, Any]:
    """Read the memory of a process with the runtime and no model."""
    flags = _reset_peak()
    return {"inferences": 0, "flags": flags, "delegation": None, "series": _memory_series()}


def infer(order: Dict[str, Any], runtime: runtimes.Runtime) -> Dict[str, Any]:
    """Run the model on each of `n` samples; returns every output stacked, by tensor name."""
    count, entries = order["n"], order["inputs"]
    if not isinstance(count, int) or not 0 < count <= _MAX_INFER or not isinstance(entries, list):
        raise AgentFault(
            "protocol", "infer needs n from 1 to {} and a list of inputs".format(_MAX_INFER)
        )
    blobs = os.path.join(order["workdir"], "blobs")
    given = {str(entry.get("name")): arrays.decode(entry, blobs) for entry in entries}
    model = Model(order, runtime)
    matched = _match(model, given, count)
    details = model.interpreter.get_output_details()
    rows: List[List[Any]] = [[] for _ in details]
    for place in range(count):
        for detail, value in matched:
            one = value[place].reshape(tuple(detail["shape"]))
            model.call("input", model.interpreter.set_tensor, detail["index"], one)
        model.call("invoke", model.interpreter.invoke)
        for row, detail in zip(rows, details):
            row.append(_sample(model.interpreter.get_tensor(detail["index"])))
    stacked = {d["name"]: arrays.numpy().stack(row) for row, d in zip(rows, details)}
    return {"outputs": arrays.encode(stacked, os.path.join(order["workdir"], "out"))}


def _sample(value: Any) -> Any:
    """Return a copy of one sample of an output, without the batch dimension of 1."""
    return (value[0] if value.shape[:1] == (1,) else value).copy()


def _match(model: Model, given: Dict[str, Any], count: int) -> List[Tuple[Dict[str, Any], Any]]:
    """Pair the file's inputs with the given arrays: by tensor name, signature name or order."""
    details = model.inputs
    if len(given) != len(details):
        reason = "the model takes {} inputs ({}), but got {} ({})".format(
            len(details), ", ".join(d["name"] for d in details), len(given), ", ".join(given)
        )
        raise AgentFault("rejected", reason)
    names = [detail["name"] for detail in details]
    if set(given) != set(names):
        names = _signature_names(model.interpreter, details) or list(given)
        if set(given) != set(names):
            names = list(given)
    pairs = []
    for detail, name in zip(details, names):
        value = given[name]
        one = arrays.numpy().prod(detail["shape"], dtype="int64")
        if (
            value.dtype.newbyteorder("=") != detail["dtype"]
            or value.shape[:1] != (count,)
            or value.size != count * one
        ):
            reason = "input {} takes {} samples of shape {} and type {}, but got shape {} and type {}".format(
                name,
                count,
                list(detail["shape"]),
                arrays.numpy().dtype(detail["dtype"]),
                list(value.shape),
                value.dtype,
            )
            raise AgentFault("rejected", reason)
        pairs.append((detail, value))
    return pairs


def _signature_names(interpreter: Any, details: List[Dict[str, Any]]) -> List[str]:
    """Return the name of each input in the only signature, or an empty list."""
    signatures = interpreter.get_signature_list()
    if len(signatures) != 1:
        return []
    runner = interpreter.get_signature_runner(next(iter(signatures)))
    by_index = {entry["index"]: name for name, entry in runner.get_input_details().items()}
    return [by_index.get(detail["index"], "") for detail in details]


def _reset_peak() -> List[str]:
    """Reset VmHWM, so that the peak of the import does not count; returns a flag if that fails."""
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return ["peak_not_reset"]
    return []


def _memory_series() -> List[Dict[str, Any]]:
    """Return peak_rss, pss and private_dirty of this process in bytes, if they are known."""
    from array import array

    found = {}
    sources = (
        ("/proc/self/status", "VmHWM:", "peak_rss"),
        ("/proc/self/smaps_rollup", "Pss:", "pss"),
        ("/proc/self/smaps_rollup", "Private_Dirty:", "private_dirty"),
    )
    now = time.perf_counter_ns()
    for path, key, series in sources:
        try:
            with open(path) as file:
                lines = [line.split() for line in file if line.startswith(key)]
        except OSError:
            continue
        if lines:
            found[series] = int(lines[0][1]) * 1024
    return [
        {"series": name, "at": array("q", [now]), "value": array("d", [value]), "count": 1}
        for name, value in found.items()
    ]


_KINDS = {"timed": timed, "memory": memory, "bare": bare, "infer": infer}


def run(order: Dict[str, Any]) -> Dict[str, Any]:
    """Carry out an order; raises AgentFault."""
    kind = order.get("kind")
    if kind not in _KINDS:
        raise AgentFault(
            "unsupported", "this agent does not support launches of kind {!r}".format(kind)
        )
    backends.of(order)
    pinning = _pin(order.get("processors") or [])
    runtime = runtimes.load(order.get("runtime"))
    answer = _KINDS[kind](order, runtime)
    if "series" in answer:
        answer["flags"] = answer["flags"] + pinning
        answer["runtime"] = "{} {}".format(runtime.name, runtime.version)
        answer.update(_packed(answer.pop("series"), os.path.join(order["workdir"], "out")))
    return answer


def _pin(processors: List[int]) -> List[str]:
    """Pin this process to these processors, before the runtime makes threads that inherit it.

    Returns a flag if the system refuses, as for numbers outside a container's share.
    """
    if not processors:
        return []
    try:
        os.sched_setaffinity(0, processors)
    except (OSError, ValueError, TypeError):
        return ["unpinned"]
    return []


def _threads() -> Set[int]:
    """Return the threads of this process; empty if the system does not list them."""
    try:
        return set(map(int, os.listdir("/proc/self/task")))
    except OSError:
        return set()


def _pin_threads(processors: List[int], made: Set[int]) -> None:
    """Pin the main thread and each thread of the runtime to its own processor.

    Otherwise the scheduler may leave two of them on one processor for a whole launch, which is then
    as slow as one thread.
    """
    if not made or len(made) != len(processors) - 1:
        return
    with contextlib.suppress(OSError, ValueError, TypeError):
        for thread, processor in zip([0, *sorted(made)], processors):
            os.sched_setaffinity(thread, [processor])


def _packed(series: List[Dict[str, Any]], folder: str) -> Dict[str, Any]:
    """Return `columns`, each {series, n, count, at, value}; large ones in one file of out/.

    The file holds per series the at_ns (int64) and then the values (float64), little-endian, in the
    order of `columns`.
    """
    columns = [
        {"series": one["series"], "n": len(one["at"]), "count": one["count"]} for one in series
    ]
    if sys.byteorder == "big":
        for one in series:
            one["at"].byteswap()
            one["value"].byteswap()
    raw = [(one["at"].tobytes(), one["value"].tobytes()) for one in series]
    if sum(len(at) + len(value) for at, value in raw) > arrays.INLINE_BYTES:
        data = b"".join(at + value for at, value in raw)
        return {"columns": columns, "blob": arrays.keep(data, folder), "bytes": len(data)}
    for column, (at, value) in zip(columns, raw):
        column.update(at=arrays.to_text(at), value=arrays.to_text(value))
    return {"columns": columns}


def _die_with(parent: int) -> None:
    """Make the kernel kill this process when the agent dies."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def main(argv: List[str]) -> int:
    """Run the order on stdin; the answer goes to the descriptor argv[0], argv[1] is the agent."""
    descriptor = int(argv[0])
    os.set_inheritable(descriptor, False)  # noqa: FBT003
    _die_with(int(argv[1]))
    order = json.loads(sys.stdin.buffer.read().decode("utf-8"))
    try:
        answer = run(order)
    except AgentFault as fault:
        answer = {"error": {"kind": fault.kind, "reason": fault.reason}}
    except MemoryError as error:
        reason = "the launch ran out of memory: {}".format(error or "MemoryError")
        answer = {"error": {"kind": "out_of_memory", "reason": reason}}
    except OSError as error:
        found = disk.fault(error, "the launch failed", os.path.join(order["workdir"], "out"))
        kind = "out_of_memory" if error.errno == errno.ENOMEM else found.kind
        answer = {"error": {"kind": kind, "reason": found.reason}}
    write_line(descriptor, answer)
    sys.stderr.flush()
    # Skips the runtime's destructors: the answer does not need them.
    os._exit(0)
