"""Start, watch and end one child process of the agent, and explain how it ended.

The child's answer arrives on its own pipe. Its output and the runtime's go to another pipe and are kept
as a log of limited size. The child has its own process group and dies with the agent (child.py asks the
kernel for that). The end of the child counts, not that of its pipes: a daemon that it started may keep
them open.
"""

import json
import os
import signal
import sys
import time
import zlib
from contextlib import suppress
from typing import Any, Dict, List, Optional, Set

import sysfs
from leftovers import MARK
from wire import MAX_LINE_BYTES, AgentFault, refuse_constant

_CHUNK = 1 << 16
_ENVELOPE_BYTES = 1 << 16
"""What the agent itself adds to the child's answer fits this."""
_LOG_PART = 8192
_TAIL = 1500
_GPU_TAIL = 400
_ERROR_LINES = 4
_MAX_READS = 256
"""A daemon may go on writing while the rest of the child's output is read."""
_EXIT_SECONDS = 1.0
"""How long a child may take to end after it closed its answer's pipe."""
_EXIT_CHECK_SECONDS = 0.002
_MEMORY_ERRORS = (
    "bad_alloc",
    "MemoryError",
    "Cannot allocate memory",
    "out of memory",
    "Memory allocation still failed",  # OpenBLAS, which numpy brings
)


class Log:
    """The beginning and the end of a child's output, without the middle."""

    def __init__(self) -> None:
        """Start empty."""
        self._first = bytearray()
        self._last = bytearray()

    def add(self, data: bytes) -> None:
        """Append."""
        space = _LOG_PART - len(self._first)
        self._first += data[:space]
        self._last += data[space:] if space > 0 else data
        del self._last[:-_LOG_PART]

    def text(self) -> str:
        """Return the text that is kept."""
        return (self._first + self._last).decode("utf-8", "replace")


class Job:
    """A running child."""

    def __init__(
        self, role: str, order: Dict[str, Any], spool: str, mark: str, pad: int = 0
    ) -> None:
        """Start `<this zip> role` with the order on its stdin.

        `spool` is a folder for the order's temporary file, `mark` names the agent (leftovers). `pad` bytes are added to the environment,
        so that the stack has another address in every launch. Raises OSError.
        """
        self._killed: Optional[AgentFault] = None
        self._closed_early = False
        self.log = Log()
        self.log_open = True
        self.held_pipes: Set[str] = set()
        """The pipes that another process keeps open after the child's end, as `pipe:[1234]`."""
        self._result = bytearray()
        self._on_gpu = order.get("target") == "gpu"
        self.exit_fd: Optional[int] = None
        """Readable when the child has ended; None on an old kernel, where `ended` is asked."""
        self._oom_before = sysfs.oom_kills()
        order_fd = _spooled(order, spool)
        self.result_fd, result_end = os.pipe()
        self.log_fd, log_end = os.pipe()
        os.set_blocking(self.log_fd, False)
        os.set_inheritable(result_end, True)  # noqa: FBT003
        argv = [sys.executable, sys.argv[0], role, str(result_end), str(os.getpid())]
        actions = [(os.POSIX_SPAWN_DUP2, order_fd, 0)]
        actions += [(os.POSIX_SPAWN_DUP2, log_end, 1), (os.POSIX_SPAWN_DUP2, log_end, 2)]
        environment = dict(os.environ, EDGE_HARNESS_PAD="x" * pad)
        environment[MARK] = mark
        self.started_ns = time.monotonic_ns()
        try:
            self.pid = os.posix_spawn(
                sys.executable, argv, environment, file_actions=actions, setpgroup=0
            )
        except OSError:
            self._close()
            raise
        finally:
            for descriptor in (order_fd, result_end, log_end):
                os.close(descriptor)
        self.exit_fd = _pidfd(self.pid)

    def ended(self) -> bool:
        """Return whether the child itself has ended; it is not reaped."""
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def read_result(self) -> bool:
        """Read the child's answer; returns False at its end."""
        data = os.read(self.result_fd, _CHUNK)
        self._result += data
        if len(self._result) > MAX_LINE_BYTES - _ENVELOPE_BYTES:
            self.kill("crashed", "the launch's answer is over 1 MiB; the launch was killed")
        return bool(data)

    def read_log(self) -> bool:
        """Read the child's output; returns False if there is none for now."""
        try:
            data = os.read(self.log_fd, _CHUNK)
        except BlockingIOError:
            return False
        self.log.add(data)
        self.log_open = bool(data)
        return self.log_open

    def kill(self, kind: str, reason: str) -> None:
        """Kill the child; `finish` then raises this kind and reason."""
        if self._killed is None:
            self._killed = AgentFault(kind, reason)
        self._end_group()

    def finish(self) -> Dict[str, Any]:
        """Reap the child and return its answer, with `wall_ns` from its start to its exit.

        Raises AgentFault: the child's own error, or the reason of its end.
        """
        # The child closed its answer and is about to end, unless a library closed the pipe.
        until = time.monotonic() + _EXIT_SECONDS
        while not self.ended() and self._killed is None and time.monotonic() < until:
            time.sleep(_EXIT_CHECK_SECONDS)
        self._closed_early = not self.ended()
        self._end_group()  # also the child's own child processes
        _, status = os.waitpid(self.pid, 0)
        wall_ns = time.monotonic_ns() - self.started_ns
        self._drain()
        self._close()
        answer = self._answer(status)
        if self._killed is not None or answer is None:
            raise self._fault(status)
        if "error" in answer:
            error = answer["error"]
            raise self._explained(AgentFault(error["kind"], error["reason"]))
        answer["wall_ns"] = wall_ns
        return answer

    def abandon(self) -> None:
        """Kill the child without reading its answer."""
        self._end_group()
        os.waitpid(self.pid, 0)
        self._close()

    def _drain(self) -> None:
        """Read what is in the pipes, and note those that another process keeps open."""
        os.set_blocking(self.result_fd, False)
        reads = iter(range(_MAX_READS))
        try:
            result_open = True
            while result_open and next(reads, None) is not None:
                result_open = self.read_result()
        except BlockingIOError:
            pass
        while self.read_log() and next(reads, None) is not None:
            pass
        held = [(self.result_fd, result_open), (self.log_fd, self.log_open)]
        self.held_pipes = {
            "pipe:[{}]".format(os.fstat(fd).st_ino) for fd, is_open in held if is_open
        }

    def _end_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _close(self) -> None:
        for descriptor in (self.result_fd, self.log_fd, self.exit_fd):
            if descriptor is not None:
                os.close(descriptor)

    def _answer(self, status: int) -> Optional[Dict[str, Any]]:
        """Return the child's answer, None without one; raises AgentFault if it cannot be read.

        A library in the child's process may write to the pipe, too.
        """
        if not self._result:
            return None
        try:
            return _parsed(self._result.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            if status:
                return None  # the way in which the child ended says more
            raise unreadable(error) from error

    def _explained(self, fault: AgentFault) -> AgentFault:
        """Add the error lines that a GPU's runtime prints; a missing adapter is `unsupported`."""
        log = self.log.text()
        errors = [line for line in log.splitlines() if line.startswith(("ERROR: ", "Warning: "))]
        if not self._on_gpu or not errors:
            return fault
        kind = "unsupported" if "No adapters found" in log else fault.kind
        return AgentFault(kind, "; ".join([fault.reason, *errors[-_ERROR_LINES:]]))

    def _fault(self, status: int) -> AgentFault:
        # A GPU's runtime prints many lines about itself; a driver's own message is at the end.
        tail = self.log.text().strip()[-_GPU_TAIL if self._on_gpu else -_TAIL :]
        output_end = "; end of its output: " + tail if tail else ""
        if self._killed is not None:
            return AgentFault(self._killed.kind, self._killed.reason + output_end)
        if os.WIFSIGNALED(status):
            return self._signalled(os.WTERMSIG(status), output_end)
        reason = "the launch ended with exit code {} and no answer".format(os.WEXITSTATUS(status))
        kind = "out_of_memory" if any(one in output_end for one in _MEMORY_ERRORS) else "crashed"
        return AgentFault(kind, reason + output_end)

    def _signalled(self, number: int, output_end: str) -> AgentFault:
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        reason = "the launch was killed by {}".format(name)
        if number == signal.SIGKILL and sysfs.oom_kills() > self._oom_before:
            reason += " while the kernel's count of out-of-memory kills rose"
            return AgentFault("out_of_memory", reason + output_end)
        if number == signal.SIGKILL and self._closed_early:
            reason = "the launch closed its answer's pipe without an answer and went on, so the agent ended it"
        elif number == signal.SIGKILL:
            reason += " (often the out-of-memory killer)"
        kind = "out_of_memory" if any(one in output_end for one in _MEMORY_ERRORS) else "crashed"
        return AgentFault(kind, reason + output_end)


def unreadable(error: Exception) -> AgentFault:
    """Return the fault for an answer that the child did not write, or not alone."""
    reason = "the launch's answer cannot be read: {}: {}".format(type(error).__name__, error)
    return AgentFault("crashed", reason)


def _parsed(text: str) -> Dict[str, Any]:
    """Return the answer; raises ValueError or RecursionError if it is not as child.py writes it."""
    answer = json.loads(text, parse_constant=refuse_constant)
    if not isinstance(answer, dict) or not text.endswith("\n"):
        raise ValueError("it is not one line with a JSON object")
    if "error" in answer:
        error = answer["error"]
        known = isinstance(error, dict) and (error.get("kind"), error.get("reason"))
        if not known or not all(isinstance(one, str) for one in known):
            raise ValueError("its error has no kind and reason")
    return answer


def pad_bytes(order: Dict[str, Any]) -> int:
    """Return the size of the launch's padding, 0-4095 bytes, from the order's seed and position."""
    key = "{}-{}-{}".format(order.get("seed"), order.get("block"), order.get("position"))
    return zlib.crc32(key.encode()) % 4096


def _pidfd(pid: int) -> Optional[int]:
    """Return a descriptor that is readable when the process ends (Linux 5.3, Python 3.9), or None."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _spooled(order: Dict[str, Any], folder: str) -> int:
    """Return a descriptor to read the order from: a pipe would block if the child hangs."""
    path = os.path.join(folder, ".order-{}".format(os.getpid()))
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    os.unlink(path)
    view = memoryview(json.dumps(order).encode("ascii"))
    while view:
        view = view[os.write(descriptor, view) :]
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def lines_with(log: str, needle: str) -> List[str]:
    """Return the lines of a log that contain `needle` (lower case), whatever their case."""
    return [line.strip() for line in log.splitlines() if needle in line.lower()]
