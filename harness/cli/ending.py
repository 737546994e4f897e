"""The ways in which the process ends, each with its exit code: docs/exit_codes.md has the table.

    raise SystemExit(ending.run(program, owns_process=True))

This module guards everything else, also the imports of the command. So it imports only what Python's
own start has imported or what is built in.
"""

from __future__ import annotations

import errno
import io
import os
import select
import signal
import stat
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import IO, Any

DONE, NO, INCONCLUSIVE, INVALID_INPUT, AWAY, INTERNAL_ERROR = 0, 1, 2, 3, 4, 70
HUNG_UP, INTERRUPTED, CLOSED_PIPE, TERMINATED = 129, 130, 141, 143

GRACE_SECONDS = 6.0
"""Time from a signal to the end of the process. CI runners kill after 7 s or more."""

_AGAIN_SECONDS = 0.02
_IMPORTING = ("_frozen_importlib", "importlib._bootstrap")
"""The module that imports modules; it has the second name once importlib is imported."""

_SIGNALS = {
    signal.SIGINT: "interrupted",
    signal.SIGTERM: "stopped by SIGTERM",
    signal.SIGHUP: "stopped by SIGHUP",
}
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_STDOUT, _STDERR = 1, 2


Handler = Callable[[int, FrameType | None], Any] | int | None


class Ended(KeyboardInterrupt):
    """The process must end: a signal arrived, or its output cannot be written.

    It is handled as Ctrl-C is: whatever is open is closed, and notes say how to go on.
    """

    def __init__(self, code: int, why: str = "") -> None:
        """Take the exit code, and the reason that is printed; nothing is printed without one."""
        super().__init__(why)
        self.code = code


class _State:
    """What ended this process, and what a message after the time is up says."""

    cause: Ended | None = None
    is_signal = False
    """Whether a signal ends the process."""
    is_held = False
    """Whether signals wait: the command has not started."""
    pending: int | None = None
    """A signal that waits."""
    is_finishing = False
    advice = ""
    wakeup: int | None = None
    """The end of a pipe that gets a byte per signal."""
    before: dict[int, Handler] = {}  # noqa: RUF012 - replaced, never changed
    """The signal handlers of the caller."""
    owns_process = False
    is_guarded = False


def cause() -> Ended | None:
    """Return what ends this process; None if nothing does."""
    return _State.cause


def advise(text: str) -> None:
    """Set the line that is printed if the process is ended before it could print its notes."""
    _State.advice = text


def hold() -> None:
    """Let signals wait until `deliver`, for the time that a command needs to start."""
    _State.is_held = True


def deliver() -> None:
    """Let signals end the process from here on; raises Ended if one has arrived."""
    _State.is_held = False
    if _State.pending is not None and not (_State.is_signal or _State.is_finishing):
        _end_by(_State.pending)


def guard_exit() -> None:
    """Let only this module choose the exit code of this process.

    OpenBLAS calls C's `exit(1)` if there is no memory, and 1 is a verdict of a gate. C runs the last
    registered handler first, so :func:`run` can replace this code by registering its own.
    """
    if _State.owns_process and not _State.is_guarded:
        _State.is_guarded = _exit_with(INTERNAL_ERROR)


def _exit_with(code: int) -> bool:
    """Let every exit of this process end with this code; return whether the system can do it."""
    import ctypes  # numpy imports it too

    try:
        libc = ctypes.CDLL(None)
        return not libc.__cxa_atexit(libc._exit, ctypes.c_void_p(code), None)  # noqa: SLF001 - C's name
    except (OSError, AttributeError):
        return False


def run(program: Callable[[], int], *, owns_process: bool) -> int:
    """Run the program and return the exit code; does not return after a signal.

    What the program raises has a code too: 3 for memory or a disk that is full, else 70. A caller
    that does not own the process, such as a test, keeps its streams and signal handlers.
    """
    _State.owns_process = owns_process
    _State.cause, _State.is_signal, _State.is_finishing, _State.advice = None, False, False, ""
    _State.is_held, _State.pending = False, None
    try:
        _begin()
        code = program()
    except BaseException as error:  # noqa: BLE001 - the last handler of the process
        code = _failed(error)
    return _finish(code)


# --- the start ----------------------------------------------------------------------------------


def _begin() -> None:
    closed = [fd for fd in range(3) if _is_closed(fd)]
    for fd in closed:
        # Otherwise the next file that is opened would get this number, and a library's message.
        _open_null(fd)
    _replace_streams(closed)
    _handle_signals()
    if why := _why_unwritable(closed=_STDOUT in closed):
        _end(INVALID_INPUT, f"stdout cannot be written: {why}; nothing was done")


def _is_closed(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:
        return True
    return False


def _open_null(fd: int) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    if null != fd:
        os.dup2(null, fd)
        os.close(null)


def _replace_streams(closed: list[int]) -> None:
    """Replace stdout and stderr by streams that say what cannot be written."""
    if 0 in closed or sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115, PTH123 - for the whole process
    for fd, name in ((_STDOUT, "stdout"), (_STDERR, "stderr")):
        now: IO[str] | None = getattr(sys, name)
        if now is None or (_State.owns_process and _number(now) == fd):
            setattr(sys, name, _stream(fd, now))


def _number(stream: IO[str]) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _stream(fd: int, before: IO[str] | None) -> io.TextIOWrapper:
    if isinstance(before, io.TextIOWrapper):
        before.flush()
        return io.TextIOWrapper(
            io.BufferedWriter(_OutputFile(fd)),
            encoding=before.encoding,
            errors=before.errors,
            newline="\n",
            line_buffering=before.line_buffering,
            write_through=before.write_through,
        )
    return io.TextIOWrapper(
        io.BufferedWriter(_OutputFile(fd)), encoding="utf-8", errors="backslashreplace"
    )


class _OutputFile(io.FileIO):
    """Stdout or stderr. A write that fails ends the process; later ones are dropped.

    Messages that a full disk or a closed stderr does not take are dropped: they are not the result.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd, "w", closefd=False)
        self._is_broken = False

    def write(self, data: Any) -> int:  # noqa: ANN401 - anything with bytes
        if self._is_broken:
            return len(data)
        try:
            while (written := super().write(data)) is None:
                select.select([], [self], [])  # another program made the pipe non-blocking
        except OSError as error:
            self._is_broken = True
            if error.errno == errno.EPIPE:
                _end(CLOSED_PIPE)
            if self.fileno() == _STDOUT:
                _end(INVALID_INPUT, f"stdout cannot be written: {error.strerror}")
            return len(data)
        return written


def _why_unwritable(*, closed: bool) -> str | None:
    """Return why nothing can be written to stdout; None if that is not known before it is tried."""
    if closed:
        return "it is closed"
    kind = os.fstat(_STDOUT).st_mode
    try:
        if stat.S_ISREG(kind) or stat.S_ISCHR(kind):
            os.write(_STDOUT, b"")
    except OSError as error:
        return "it is not open for writing" if error.errno == errno.EBADF else error.strerror
    if stat.S_ISREG(kind):
        disk = os.fstatvfs(_STDOUT)
        if disk.f_blocks and not (disk.f_bavail if os.geteuid() else disk.f_bfree):
            return os.strerror(errno.ENOSPC)
    return None


# --- signals ------------------------------------------------------------------------------------


def _handle_signals() -> None:
    """Raise Ended for SIGINT, SIGTERM and SIGHUP, unless the parent made this process ignore them."""
    if threading.current_thread() is not threading.main_thread():
        return
    reader, _State.wakeup = os.pipe()
    os.set_blocking(_State.wakeup, False)
    signal.set_wakeup_fd(_State.wakeup, warn_on_full_buffer=False)
    threading.Thread(target=_limit_ending, args=(reader,), name="ending", daemon=True).start()
    _State.before = {number: signal.getsignal(number) for number in _SIGNALS}
    for number, handler in _State.before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, _on_signal)


def _forget_wakeup() -> None:
    """Keep the signals of a forked process from its parent."""
    if threading.current_thread() is threading.main_thread():
        signal.set_wakeup_fd(-1)


os.register_at_fork(after_in_child=_forget_wakeup)


def _on_signal(number: int, frame: FrameType | None) -> None:
    """End the process once; what a second signal interrupted would be left half done.

    A signal waits for the end of an import: native modules abort, or drop what is raised in them.
    """
    if _State.is_signal or _State.is_finishing:
        return
    if _State.is_held or _is_importing(frame):
        _State.pending = _State.pending or number
    else:
        _end_by(number)


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_globals.get("__name__") in _IMPORTING:
            return True
        frame = frame.f_back
    return False


def _end_by(number: int) -> None:
    _State.is_signal = True
    _end(128 + number, _SIGNALS[signal.Signals(number)])


def _end(code: int, why: str = "") -> None:
    """Raise Ended; the first cause has the exit code."""
    ended = Ended(code, why)
    _State.cause = _State.cause or ended
    raise ended


def _limit_ending(reader: int) -> None:
    """After a signal, end the process when its time is up, whatever it waits for.

    Until then, send a signal that waits for the end of an import again.
    """
    number = 0
    while number not in _SIGNALS or signal.getsignal(number) is not _on_signal:
        data = os.read(reader, 1)
        if not data:
            os.close(reader)
            return
        number = data[0]
    deadline = time.monotonic() + GRACE_SECONDS
    main = threading.main_thread().ident
    while time.monotonic() < deadline:
        time.sleep(_AGAIN_SECONDS)
        if _State.pending and main and not (_State.is_signal or _State.is_held):
            signal.pthread_kill(main, _State.pending)
    code = _State.cause.code if _State.cause else 128 + number
    late = f"edge-harness: a part had not ended {GRACE_SECONDS:g} s after the signal"
    _write_error("\n".join([late, *filter(None, [_State.advice]), ""]))
    _kill_children()
    os._exit(code)


def _kill_children() -> None:
    """Kill the processes of a search; all others end when their stdin closes."""
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing is not None:
        for child in multiprocessing.active_children():
            child.kill()


# --- the end ------------------------------------------------------------------------------------


def _failed(error: BaseException) -> int:
    """Print what no handler of the program took, and return its exit code."""
    if isinstance(error, Ended):
        return error.code
    if isinstance(error, KeyboardInterrupt):
        _write_error("edge-harness: interrupted\n")
        return INTERRUPTED
    if isinstance(error, SystemExit) and not error.code:
        return DONE
    code, text = described(error)
    _write_error(f"edge-harness: {text}\n")
    return code


def described(error: BaseException) -> tuple[int, str]:
    """Return the exit code and the line of an error that is not ours: 3 for the user's machine."""
    if isinstance(error, MemoryError):
        return INVALID_INPUT, (
            "not enough memory on this host; end other programs, or raise its limit (ulimit -v)"
        )
    if isinstance(error, OSError) and error.errno in _FULL:
        place = (
            f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, str | bytes) else ""
        )
        return INVALID_INPUT, f"{place}cannot be written: {error.strerror}"
    return INTERNAL_ERROR, (
        f"internal error: {type(error).__name__}: {error}\n"
        "(--debug shows the traceback; please report it)"
    )


def _finish(code: int) -> int:
    """Flush the output and return the exit code; after a signal, end the process."""
    _State.is_finishing = True
    if _State.pending is not None and _State.cause is None:
        _State.is_signal = True
        _State.cause = Ended(128 + _State.pending, _SIGNALS[signal.Signals(_State.pending)])
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Ended:
            pass  # the cause is known now
        except (OSError, ValueError):
            code = code or INVALID_INPUT
    if _State.cause is not None:
        code = _State.cause.code
        _print_cause(_State.cause)
    if _State.is_signal:
        _leave(code)
    _release_signals()
    if _State.is_guarded:
        _exit_with(code)
    return code


def _release_signals() -> None:
    """Let a signal end what is left of this process; a caller that goes on gets its handlers back."""
    if _State.wakeup is None:
        return
    for number, handler in _State.before.items():
        if signal.getsignal(number) is _on_signal:
            signal.signal(number, signal.SIG_DFL if _State.owns_process else handler)
    signal.set_wakeup_fd(-1)
    os.close(_State.wakeup)
    _State.wakeup = None


def _print_cause(ended: Ended) -> None:
    """Print why the process ends, and the notes: how to go on."""
    lines = [f"edge-harness: {ended}"] if str(ended) else []
    lines += getattr(ended, "__notes__", [])
    with suppress(Ended, OSError, ImportError, MemoryError):
        from harness.printable import clean_lines

        sys.stderr.write("".join(f"{clean_lines(line)}\n" for line in lines))
        sys.stderr.flush()


def _leave(code: int) -> None:
    """End the process now: a thread that waits for a device would keep it."""
    import atexit

    try:
        atexit._run_exitfuncs()  # noqa: SLF001 - what os._exit leaves out
    finally:
        os._exit(code)


def _write_error(text: str) -> None:
    with suppress(OSError):
        os.write(_STDERR, text.encode("utf-8", "backslashreplace"))
