"""One child process of the agent: started, watched, ended, and what became of it in words.

The child's answer comes on a pipe of its own; whatever it or the runtime prints goes to another,
kept as a bounded log. The child is in a process group of its own and dies with the agent
(child.py asks the kernel for that).
"""

import json
import os
import signal
import sys
import time
import zlib
from contextlib import suppress
from typing import Any, Dict, List, Optional

import sysfs
from wire import MAX_LINE_BYTES, AgentFault

_CHUNK = 1 << 16
_LOG_PART = 8192
_TAIL = 1500
_GPU_TAIL = 400
_TOLD_LINES = 4
_MEMORY_WORDS = (
    "bad_alloc",
    "MemoryError",
    "Cannot allocate memory",
    "out of memory",
    "Memory allocation still failed",  # OpenBLAS, which numpy brings
)


class Log:
    """The beginning and the end of what a child printed; the middle is forgotten."""

    def __init__(self) -> None:
        """Hold nothing yet."""
        self._first = bytearray()
        self._last = bytearray()

    def add(self, data: bytes) -> None:
        """Append."""
        room = _LOG_PART - len(self._first)
        self._first += data[:room]
        self._last += data[room:] if room > 0 else data
        del self._last[:-_LOG_PART]

    def text(self) -> str:
        """Return what is kept."""
        return (self._first + self._last).decode("utf-8", "replace")


class Job:
    """A running child."""

    def __init__(self, role: str, order: Dict[str, Any], spool: str, pad: int = 0) -> None:
        """Start `<this zip> role` with the order on its stdin.

        `spool` is a folder for the order on its way; `pad` bytes are added to the environment, so
        that the stack lies elsewhere in every launch. Raises OSError.
        """
        self._killed: Optional[AgentFault] = None
        self.log = Log()
        self.log_open = True
        self._result = bytearray()
        self._on_gpu = order.get("target") == "gpu"
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

    def read_result(self) -> bool:
        """Take what the child answered; False when it has ended."""
        data = os.read(self.result_fd, _CHUNK)
        self._result += data
        if len(self._result) > 2 * MAX_LINE_BYTES:
            self.kill("crashed", "the launch answered more than 2 MiB and was killed")
        return bool(data)

    def read_log(self) -> bool:
        """Take what the child printed; False when there is no more for now."""
        try:
            data = os.read(self.log_fd, _CHUNK)
        except BlockingIOError:
            return False
        self.log.add(data)
        self.log_open = bool(data)
        return self.log_open

    def kill(self, kind: str, reason: str) -> None:
        """End the child at once; `finish` then answers with this kind and reason."""
        if self._killed is None:
            self._killed = AgentFault(kind, reason)
        self._end_group()

    def finish(self) -> Dict[str, Any]:
        """Reap the child and return its answer, with `wall_ns` from its start to its exit.

        Raises AgentFault: the child's own, or what its end says.
        """
        # Its end of the answer is closed, so it is all but gone: this ends what it started.
        self._end_group()
        _, status = os.waitpid(self.pid, 0)
        wall_ns = time.monotonic_ns() - self.started_ns
        while self.read_log():
            pass
        self._close()
        answer = self._answer()
        if self._killed is not None or answer is None:
            raise self._fault(status)
        if "error" in answer:
            error = answer["error"]
            raise self._explained(AgentFault(error["kind"], error["reason"]))
        answer["wall_ns"] = wall_ns
        return answer

    def abandon(self) -> None:
        """End the child and forget it."""
        self._end_group()
        os.waitpid(self.pid, 0)
        self._close()

    def _end_group(self) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _close(self) -> None:
        os.close(self.result_fd)
        os.close(self.log_fd)

    def _answer(self) -> Optional[Dict[str, Any]]:
        if not self._result.endswith(b"\n"):
            return None
        answer = json.loads(self._result.decode("utf-8"))
        return answer if isinstance(answer, dict) else None

    def _explained(self, fault: AgentFault) -> AgentFault:
        """Add the reason that a GPU's runtime only prints, and tell a missing adapter from a bad model."""
        log = self.log.text()
        words = [line for line in log.splitlines() if line.startswith(("ERROR: ", "Warning: "))]
        if not self._on_gpu or not words:
            return fault
        kind = "unsupported" if "No adapters found" in log else fault.kind
        return AgentFault(kind, "; ".join([fault.reason, *words[-_TOLD_LINES:]]))

    def _fault(self, status: int) -> AgentFault:
        # A GPU's runtime tells of itself at length; a driver's last words are the last.
        tail = self.log.text().strip()[-_GPU_TAIL if self._on_gpu else -_TAIL :]
        words = "; its last words: " + tail if tail else ""
        if self._killed is not None:
            return AgentFault(self._killed.kind, self._killed.reason + words)
        if os.WIFSIGNALED(status):
            return self._signalled(os.WTERMSIG(status), words)
        reason = "the launch ended with exit code {} and no answer".format(os.WEXITSTATUS(status))
        kind = "out_of_memory" if any(word in words for word in _MEMORY_WORDS) else "crashed"
        return AgentFault(kind, reason + words)

    def _signalled(self, number: int, words: str) -> AgentFault:
        name = signal.Signals(number).name if number in set(signal.Signals) else str(number)
        reason = "the launch was killed by {}".format(name)
        if number == signal.SIGKILL and sysfs.oom_kills() > self._oom_before:
            reason += " while the kernel's count of out-of-memory kills rose"
            return AgentFault("out_of_memory", reason + words)
        if number == signal.SIGKILL:
            reason += " (often the out-of-memory killer)"
        kind = "out_of_memory" if any(word in words for word in _MEMORY_WORDS) else "crashed"
        return AgentFault(kind, reason + words)


def pad_bytes(order: Dict[str, Any]) -> int:
    """Return the launch's padding of the environment, 0-4095, from the order's seed and place."""
    key = "{}-{}-{}".format(order.get("seed"), order.get("block"), order.get("position"))
    return zlib.crc32(key.encode()) % 4096


def _spooled(order: Dict[str, Any], folder: str) -> int:
    """Return a descriptor to read the order from: a pipe would block on a child that hangs."""
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
