"""Two ends of a tunnel with a delay queue between them: `relay.py PID INTERFACE DELAY_SECONDS`.

One end is INTERFACE here, the other `late0` in the network of process PID. Prints `up`; ends with
its stdin.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque

_SET_INTERFACE, _TUN, _BARE_PACKETS = 0x400454CA, 0x0001, 0x1000
_NEW_NETWORK = 0x40000000
_LONGEST, _AT_ONCE, _QUEUED = 65536, 64, 20_000


def _open_end(name: str) -> int:
    end = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    request = struct.pack("16sH22x", name.encode(), _TUN | _BARE_PACKETS)
    fcntl.ioctl(end, _SET_INTERFACE, request)
    return end


def _enter(network: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(network, _NEW_NETWORK) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _carry(here: int, peer: int, delay: float) -> None:
    """Move packets both ways, each `delay` seconds after it came, until stdin ends."""
    waiting: dict[int, deque[tuple[float, bytes]]] = {here: deque(), peer: deque()}
    while True:
        due = [queue[0][0] for queue in waiting.values() if queue]
        wait = max(0.0, min(due) - time.monotonic()) if due else None
        ready, _, _ = select.select([0, here, peer], [], [], wait)
        if 0 in ready:
            return
        for source in ready:
            queue = waiting[peer if source == here else here]
            for _ in range(_AT_ONCE):
                try:
                    packet = os.read(source, _LONGEST)
                except OSError:  # nothing more, or the end is down
                    break
                if len(queue) < _QUEUED:
                    queue.append((time.monotonic() + delay, packet))
        now = time.monotonic()
        for end, queue in waiting.items():
            while queue and queue[0][0] <= now:
                _, packet = queue.popleft()
                try:
                    os.write(end, packet)
                except OSError:  # the end is down: the packet is lost, as on a cable
                    continue


def main(argv: list[str]) -> int:
    """Make both ends and relay packets."""
    process, name, delay = argv
    own = os.open("/proc/self/ns/net", os.O_RDONLY)
    other = os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
    if os.fstat(own).st_ino == os.fstat(other).st_ino:
        return 1  # the process is not in a network of its own
    here = _open_end(name)
    _enter(other)
    peer = _open_end("late0")
    _enter(own)
    os.write(1, b"up\n")
    _carry(here, peer, float(delay))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
