"""Process 1 of a device, in namespaces of its own. Run as `python -I -S init.py SPEC` by box.py.

SPEC is a JSON file: `hostname`, `program` (argv), `outside` and `inside` (shell scripts, run as root of
the machine before, and as root of the device after the namespaces are made). It prints
`unshared`, then, after a byte on stdin, `pid N` and `ready`. Each further byte on stdin starts the
program again. The end of stdin ends the device, so that it never outlives its creator. If process 1
is killed, the process outside stays and keeps the dead network.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

_NEW_MOUNTS, _NEW_UTS, _NEW_IPC = 0x00020000, 0x04000000, 0x08000000
_NEW_USER, _NEW_PIDS, _NEW_NETWORK = 0x10000000, 0x20000000, 0x40000000


def _unshare(namespaces: int) -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(namespaces) != 0:
        code = ctypes.get_errno()
        raise OSError(code, "unshare: " + os.strerror(code))


def _print_line(line: str) -> None:
    os.write(1, line.encode() + b"\n")


def _shell(script: str) -> None:
    subprocess.run(["sh", "-euc", script], check=True, stdin=subprocess.DEVNULL, stdout=2)


def _supervise(program: list[str]) -> None:
    """Start the program on each byte of stdin, reap ended processes, end with stdin."""
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if 0 in ready:
            if not os.read(0, 1):
                return
            subprocess.Popen(program, stdin=subprocess.DEVNULL, stdout=2, start_new_session=True)
        if wake in ready:
            os.read(wake, 4096)
        _reap()


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        return


def main(spec: dict[str, object]) -> int:
    """Make the namespaces and run as their process 1; returns the exit code of the process outside."""
    program = spec["program"]
    assert isinstance(program, list)
    _unshare(_NEW_MOUNTS)
    _shell(f"mount --make-rprivate /\n{spec['outside']}")
    # The root of a new user namespace could not make the mounts above.
    _unshare(_NEW_USER | _NEW_MOUNTS | _NEW_NETWORK | _NEW_UTS | _NEW_IPC | _NEW_PIDS)
    _print_line("unshared")
    if not os.read(0, 1):
        return 1
    pid = os.fork()
    if pid:
        _print_line(f"pid {pid}")
        ended = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        while ended < 0 and os.read(0, 1):
            pass
        return ended
    socket.sethostname(str(spec["hostname"]))
    _shell(str(spec["inside"]))
    _print_line("ready")
    _supervise(program)
    return 0


if __name__ == "__main__":
    sys.exit(main(json.loads(Path(sys.argv[1]).read_bytes())))
