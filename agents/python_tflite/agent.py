"""The agent's own process: it reads requests, keeps files and starts one child at a time.

It sleeps in poll() while a child measures and imports only the standard library. The end of its stdin
ends it and the child.
"""

import os
import select
import signal
import sys
import time
from collections import deque
from typing import Any, Callable, Deque, Dict, List, Optional, Tuple

import digests
import facts
import job as jobs
import lease as leases
import leftovers
import sysfs
import unpack
import wire
from wire import AgentFault
from workdir import OLD_SECONDS, Workdir

_MAX_WAITING = 64
_HELLO_SECONDS = 120.0
_IDLE_SECONDS = 900.0
_MIN_DISK_BYTES_PER_SECOND = 1e6
_MAX_REASON_CHARACTERS = 16_000
_WRONG_SHAPE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What reading or repeating a launch's answer raises if child.py did not write it."""
_XNNPACK_LINE = "tensorflow lite xnnpack delegate"


class Agent:
    """The agent of one connection: its requests, work folder, lease and child."""

    def __init__(self, requests: int, answers: int, archive: str) -> None:
        """Start idle; `archive` is this zip, `<workdir>/agents/<digest>.zip`."""
        self._lines = wire.Lines(requests)
        self._requests = requests
        self._answers = answers
        self._digest = os.path.basename(archive)[: -len(".zip")]
        self._workdir = Workdir(os.path.dirname(os.path.dirname(os.path.abspath(archive))))
        self._lease = leases.Lease(facts.identity())
        self._leftovers = leftovers.Leftovers(self._workdir.root)
        self._waiting: Deque[Dict[str, Any]] = deque()
        self._arrived_ns = 0
        self._ending = False
        self._job: Optional[jobs.Job] = None
        self._job_id: Any = None
        self._job_digest: Optional[str] = None
        self._deadline = 0.0
        self._finish: Callable[[Dict[str, Any]], Dict[str, Any]] = lambda answer: answer
        self._verbs: Dict[str, Callable[[Any, Dict[str, Any]], None]] = {
            "hello": self._hello,
            "clock": self._clock,
            "have": self._have,
            "commit": self._commit,
            "launch": self._launch,
            "infer": self._infer,
            "clean": self._clean,
            "bye": self._bye,
        }

    def run(self) -> None:
        """Answer requests until `bye` or the end of stdin."""
        try:
            while not self._ending:
                if self._job is None and self._waiting:
                    self._dispatch(self._waiting.popleft())
                    continue
                self._turn()
        finally:
            if self._job is not None:
                self._job.abandon()
            self._release()

    def _turn(self) -> None:
        """Wait for the next request or output of the child, and handle it.

        The agent ends after a long time without requests, with or without a lease: the controller or
        the connection is gone, and the end of stdin may never arrive.
        """
        poll = select.poll()
        poll.register(self._requests, select.POLLIN)
        job = self._job
        wait = leases.LIFE_SECONDS if self._lease.epoch else _IDLE_SECONDS
        if job is not None:
            poll.register(job.result_fd, select.POLLIN)
            if job.exit_fd is not None:
                poll.register(job.exit_fd, select.POLLIN)
            if job.log_open:
                poll.register(job.log_fd, select.POLLIN)
            wait = min(leases.CHECK_SECONDS, max(0.0, self._deadline - time.monotonic()))
        ready = {descriptor for descriptor, _ in poll.poll(int(wait * 1000) + 1)}
        if self._requests in ready:
            self._read()
        if job is not None:
            self._watch(job, ready)
        elif not ready:
            self._ending = True

    def _watch(self, job: jobs.Job, ready: "set[int]") -> None:
        if job.log_fd in ready:
            job.read_log()
        if (job.result_fd in ready and not job.read_result()) or job.ended():
            self._conclude(job)
        elif time.monotonic() >= self._deadline:
            job.kill("silent", "no answer before the deadline of the order; the launch was killed")
        else:
            fault = self._lease.lost()
            if fault is not None:
                job.kill(fault.kind, fault.reason + "; the launch was killed")

    def _conclude(self, job: jobs.Job) -> None:
        self._job = None
        digest, self._job_digest = self._job_digest, None
        try:
            try:
                answer = job.finish()
            finally:
                # Without the lease, marked processes may be another user's launch.
                if self._lease.epoch:
                    self._leftovers.look(job.pid, job.held_pipes)
            answer = self._finish(answer)
            # A measurement after the lease was lost does not count.
            self._lease.confirm()
            self._result(self._job_id, **answer)
        except AgentFault as fault:
            self._error(self._job_id, self._workdir.explained(fault, digest))
        except _WRONG_SHAPE as error:
            self._error(self._job_id, jobs.unreadable(error))

    def _read(self) -> None:
        if not self._lines.fill():
            self._ending = True
            return
        self._arrived_ns = time.monotonic_ns()
        while True:
            try:
                line = self._lines.take()
                if line is None:
                    return
                self._accept(wire.parse(line))
            except AgentFault as fault:  # noqa: PERF203 - an invalid line affects only itself
                self._error(None, fault)

    def _accept(self, request: Dict[str, Any]) -> None:
        """Answer `cancel` and `lease` at once; queue every other request."""
        request["received_ns"] = time.time_ns()
        request["arrived_ns"] = self._arrived_ns
        at_once = {"cancel": self._cancel, "lease": self._on_lease}.get(str(request.get("verb")))
        if at_once is not None:
            at_once(request)
        elif len(self._waiting) >= _MAX_WAITING:
            self._error(request.get("id"), AgentFault("protocol", "too many requests are waiting"))
        else:
            self._waiting.append(request)

    def _dispatch(self, request: Dict[str, Any]) -> None:
        identity, self._job_digest = request.get("id"), None
        try:
            self._verb(wire.verb(request))(identity, request)
        except AgentFault as fault:
            self._error(identity, fault)
        except OSError as error:
            self._error(identity, self._workdir.fault(error, str(request.get("verb"))))

    def _verb(self, verb: str) -> Callable[[Any, Dict[str, Any]], None]:
        if verb not in self._verbs:
            known = ", ".join(self._known())
            raise AgentFault("protocol", "unknown verb {!r} (known: {})".format(verb, known))
        return self._verbs[verb]

    def _known(self) -> List[str]:
        return sorted([*self._verbs, "cancel", "lease"])

    def _start(self, identity: Any, job: jobs.Job, seconds: float) -> None:
        self._job, self._job_id = job, identity
        self._deadline = time.monotonic() + seconds
        self._write({"id": identity, "event": "progress", "stage": "started", "pid": job.pid})

    # --- verbs ---------------------------------------------------------------------------------

    def _hello(self, identity: Any, request: Dict[str, Any]) -> None:
        job = jobs.Job("probe", {}, self._spool(), self._leftovers.mark())
        self._start(identity, job, _HELLO_SECONDS)
        # Done while the child imports the runtime.
        known = facts.gather()
        known["free_bytes"] = self._workdir.free_bytes()

        def finish(answer: Dict[str, Any]) -> Dict[str, Any]:
            known["runtimes"] = answer["runtimes"]
            known["extra"]["runtime_problems"] = answer["problems"]
            return {
                "v": wire.VERSION,
                "agent": self._digest,
                "verbs": self._known(),
                "facts": known,
                "received_ns": request["received_ns"],
                "answered_ns": time.time_ns(),
            }

        self._finish = finish

    def _clock(self, identity: Any, request: Dict[str, Any]) -> None:
        """Answer with both times; a wait behind a launch is then not part of the round trip."""
        arrived_ns = request["arrived_ns"]
        self._result(identity, arrived_ns=arrived_ns, answered_ns=time.monotonic_ns())

    def _have(self, identity: Any, request: Dict[str, Any]) -> None:
        wanted = _digests(request, "digests")
        present = [digest for digest in wanted if self._workdir.has(digest)]
        self._result(identity, have=present, unpacks=unpack.known())

    def _commit(self, identity: Any, request: Dict[str, Any]) -> None:
        self._lease.check(request.get("epoch"))
        digest = _digests({"digests": [request.get("digest")]}, "digests")[0]
        codec, promised = _packing(request)
        # The agent reads no renewals while it checks a large file on a slow card.
        work = self._workdir.arrived(request.get("part")) + promised
        self._lease.renew(leases.LIFE_SECONDS + work / _MIN_DISK_BYTES_PER_SECOND)
        try:
            size, arrived = self._workdir.commit(digest, request.get("part"), codec, promised)
        finally:
            self._lease.renew()
        self._result(identity, digest=digest, bytes=size, arrived=arrived)

    def _clean(self, identity: Any, request: Dict[str, Any]) -> None:
        older = request.get("older_seconds", OLD_SECONDS)
        if not isinstance(older, (int, float)) or not 0 <= older < 10**10:
            raise AgentFault("protocol", "older_seconds must be a number, 0 or more")
        removed = self._workdir.clean(_digests(request, "out"), older)
        self._result(identity, removed=removed)

    def _launch(self, identity: Any, request: Dict[str, Any]) -> None:
        order = self._order(request)
        before, left = sysfs.covariates(), self._leftovers.alive()
        job = jobs.Job("child", order, self._spool(), self._leftovers.mark(), jobs.pad_bytes(order))
        self._start(identity, job, order["timeout_seconds"])

        def finish(answer: Dict[str, Any]) -> Dict[str, Any]:
            answer["before"], answer["after"] = before, sysfs.covariates()
            answer["left_running"] = sorted({*left, *self._leftovers.alive()})
            answer["kernel"] = os.uname().release
            answer["usable_cores"] = len(os.sched_getaffinity(0))
            if "window" in answer:
                process = (job.started_ns, job.started_ns + answer["wall_ns"])
                answer["window"]["process_start_ns"], answer["window"]["process_end_ns"] = process
            answer["delegation"] = _delegation(answer["delegation"], job.log.text())
            return {"launch": answer}

        self._finish = finish

    def _infer(self, identity: Any, request: Dict[str, Any]) -> None:
        order = self._order(request)
        order["kind"] = "infer"
        order["n"], order["inputs"] = request.get("n"), request.get("inputs")
        job = jobs.Job("child", order, self._spool(), self._leftovers.mark())
        self._start(identity, job, order["timeout_seconds"])
        self._finish = lambda answer: {key: answer[key] for key in ("outputs", "wall_ns")}

    def _on_lease(self, request: Dict[str, Any]) -> None:
        try:
            answer = self._leased(request)
        except AgentFault as fault:
            self._error(request.get("id"), fault)
            return
        if answer is not None:
            self._result(request.get("id"), **answer)

    def _leased(self, request: Dict[str, Any]) -> Optional[Dict[str, Any]]:
        """Take, renew, drop or look; a renewal has no answer, since no thread may be reading."""
        action, token, holder = (request.get(key) for key in ("action", "token", "holder"))
        if not leases.is_token(token):
            raise AgentFault("protocol", "a lease needs a token of 8 to 64 letters and digits")
        if action == "take":
            return self._lease.take(str(token), str(holder))
        if action == "look":
            return self._lease.look(str(token))
        if action == "drop":
            self._release()
            return {}
        if action == "renew":
            self._lease.renew()
            return None
        raise AgentFault("protocol", "the action of a lease must be take, renew, drop or look")

    def _cancel(self, request: Dict[str, Any]) -> None:
        running = self._job is not None and self._job_id == request.get("target")
        if self._job is not None and running:
            self._job.kill("cancelled", "the launch was cancelled")
        self._result(request.get("id"), cancelled=running)

    def _bye(self, identity: Any, _request: Dict[str, Any]) -> None:
        self._ending = True
        self._result(identity)

    # --- helpers -------------------------------------------------------------------------------

    def _release(self) -> None:
        """End what launches left running, while the lease is still held; then release it."""
        if self._lease.epoch and self._lease.lost() is None:
            self._leftovers.end()
        self._lease.drop()

    def _order(self, request: Dict[str, Any]) -> Dict[str, Any]:
        self._lease.check(request.get("epoch"))
        order = request.get("order")
        if not isinstance(order, dict):
            raise AgentFault("protocol", "a launch needs an order")
        seconds = order.get("timeout_seconds")
        if not isinstance(seconds, (int, float)) or not 0 < seconds < 10**6:
            raise AgentFault("protocol", "timeout_seconds must be a number over 0")
        if order.get("kind") != "bare":
            digest = _digests({"digests": [order.get("digest")]}, "digests")[0]
            if not self._workdir.has(digest):
                reason = "the file {} is not on this device; send it first".format(digest)
                raise AgentFault("transfer_failed", reason)
            self._job_digest = digest
        order["workdir"] = self._workdir.root
        return order

    def _spool(self) -> str:
        return os.path.join(self._workdir.root, "out")

    def _result(self, identity: Any, **fields: Any) -> None:
        note = self._lease.take_note()
        if note is not None:
            fields["lease_note"] = note
        self._write(dict({"id": identity, "event": "result"}, **fields))

    def _error(self, identity: Any, fault: AgentFault) -> None:
        reason, half = fault.reason, _MAX_REASON_CHARACTERS // 2
        if len(reason) > _MAX_REASON_CHARACTERS:
            reason = "{} ... {}".format(reason[:half], reason[-half:])
        self._write({"id": identity, "event": "error", "kind": fault.kind, "reason": reason})

    def _write(self, answer: Dict[str, Any]) -> None:
        wire.write_line(self._answers, answer)


def _digests(request: Dict[str, Any], key: str) -> List[str]:
    values = request.get(key, [])
    if not isinstance(values, list) or not all(digests.is_digest(value) for value in values):
        raise AgentFault("protocol", "{} must be sha256 digests in hexadecimal".format(key))
    return values


def _packing(request: Dict[str, Any]) -> Tuple[Optional[str], int]:
    """Return the codec of a part, None if it is not packed, and its promised unpacked size."""
    codec, promised = request.get("codec"), request.get("bytes", 0)
    if codec is not None and codec not in unpack.known():
        known = ", ".join(unpack.known())
        raise AgentFault("protocol", "unknown codec {!r} (known: {})".format(codec, known))
    if type(promised) is not int or promised < 0:
        raise AgentFault("protocol", "bytes must be a whole number, 0 or more")
    return codec, promised


def _delegation(graph: Optional[Dict[str, Any]], log: str) -> Optional[Dict[str, Any]]:
    """Combine the facts of the graph and of the runtime's log; None without a model.

    XNNPACK may be missing without an error, so each kind of evidence is named. An accelerator's
    backend has already set all fields.
    """
    if graph is not None and "adapters" in graph:
        import gpu

        return gpu.read(graph, log)
    if graph is None or "delegate" in graph:
        return graph
    lines = jobs.lines_with(log, _XNNPACK_LINE)
    evidence = []
    if graph.get("total_ops") is not None:
        evidence.append("graph walk")
    if lines:
        evidence.append("log: " + lines[0])
    made = bool(lines) or bool(graph.get("partitions"))
    return dict(graph, delegate="xnnpack" if made else "none", evidence="; ".join(evidence))


def main() -> int:
    """Reserve stdin and stdout for the protocol, then run the agent."""
    sys.stdout = sys.stderr
    requests, answers = os.dup(0), os.dup(1)
    # Output of native code, and a child that reads stdin, must not reach the protocol.
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(2, 1)
    # A Ctrl-C in the controller's terminal is for the controller alone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        Agent(requests, answers, sys.argv[0]).run()
    except AgentFault as fault:
        wire.write_line(
            answers, {"id": None, "event": "error", "kind": fault.kind, "reason": fault.reason}
        )
        return 1
    except BrokenPipeError:
        return 0
    return 0
