"""A box: processes with their own users, network, name, mounts and process ids, and one cable.

The machine keeps one end of the cable. Nothing of a box outlives its process 1: the kernel then
removes its network, its mounts and all of its processes, even if the lab was killed.
"""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from .subnets import Subnet
from .tools import LabError, own_namespace, run

_INIT = Path(__file__).with_name("init.py")
_SECONDS = 20.0
_IDS = "0 0 65536\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """The parts of a box."""

    hostname: str
    program: Sequence[str]
    outside: str = ""
    """Shell script, run as root of the machine in the box's mounts, before its user namespace exists."""
    inside: str = ""
    """Shell script, run as root of the box."""


@dataclass(slots=True)
class Box:
    """A box that can be switched on and off."""

    spec: Spec
    subnet: Subnet
    log: Path
    """The output of its program."""
    pid: int = 0
    """Process 1, as a process id of the machine; 0 while the box is off."""
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _network: int = field(default=-1, repr=False)
    """The box's network namespace, as an open file; -1 while it has none of its own.

    A process id would not do: before the process has left the machine's network, and after another
    process got its number, faults would be made in the network of the machine.
    """

    def switch_on(self) -> None:
        """Make the namespaces, plug the cable in, start the program; raises LabError."""
        self.begin()
        self.finish()

    def begin(self) -> None:
        """First half of `switch_on`; several boxes start faster if all begin before one finishes."""
        self.switch_off()
        spec = self.log.with_name("spec.json")
        spec.write_text(json.dumps(asdict(self.spec)))
        argv = [sys.executable, "-I", "-S", str(_INIT), str(spec)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                argv,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                bufsize=0,
            )

    def finish(self) -> None:
        """Second half of `switch_on`."""
        assert self._process is not None
        try:
            self._expect("unshared")
            outer = self._process.pid
            self._network = own_namespace(outer, "net")
            for kind in ("uid_map", "gid_map"):
                Path(f"/proc/{outer}/{kind}").write_text(_IDS)
            self._plug(outer)
            self._continue()
            self.pid = int(self._expect("pid").split()[1])
            self._expect("ready")
            self.start_program()
        except BaseException:
            self.switch_off()
            raise

    def start_program(self) -> None:
        """Start the program, also if it runs already."""
        self._continue()

    def kill(self) -> None:
        """Kill every process at once; the cable stays, without a peer."""
        pid, self.pid = self.pid, 0
        if pid:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def switch_off(self) -> None:
        """Kill every process at once and remove the cable; no effect if the box is off."""
        self.kill()
        network, self._network = self._network, -1
        if network >= 0:
            os.close(network)
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        for pipe in (process.stdin, process.stdout):
            if pipe:
                pipe.close()
        process.wait(_SECONDS)
        # The kernel removes the cable with the box's network, some milliseconds later.
        with suppress(LabError):
            run(["ip", "link", "delete", self.subnet.interface])

    def in_network(self, argv: Sequence[str], stdin: str = "") -> str:
        """Run a program of the machine in the box's network; returns what it printed."""
        if self._network < 0:
            raise LabError(f"{self.spec.hostname} has no network: it is not switched on")
        return run(["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._network}", "--", *argv], stdin)

    def processes(self) -> dict[int, str]:
        """List the processes of the box except its first: process id of the machine to name."""
        first = self._alive()
        namespace = Path(f"/proc/{first}/ns/pid").readlink()
        found = {}
        for folder in Path("/proc").iterdir():
            if not folder.name.isdigit() or int(folder.name) == first:
                continue
            # A process may end while it is read.
            with suppress(OSError):
                if (folder / "ns" / "pid").readlink() == namespace:
                    found[int(folder.name)] = (folder / "comm").read_text().strip()
        return found

    def _alive(self) -> int:
        if not self.pid:
            raise LabError(f"{self.spec.hostname} is switched off")
        return self.pid

    def _plug(self, outer: int) -> None:
        """Connect the machine's network and that of the process `outer` with a cable."""
        here = self.subnet.interface
        if Path(f"/sys/class/net/{here}").exists():  # left by a lab that was just killed
            with suppress(LabError):
                run(["ip", "link", "delete", here])
        run(
            ["ip", "-batch", "-"],
            f"link add {here} type veth peer name eth0 netns {outer}\n"
            f"address add {self.subnet.machine}/30 dev {here}\nlink set {here} up\n",
        )
        self.in_network(
            ["ip", "-batch", "-"],
            f"link set lo up\naddress add {self.subnet.device}/30 dev eth0\nlink set eth0 up\n",
        )

    def _continue(self) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(b".")

    def _expect(self, keyword: str) -> str:
        """Read the line that starts with this keyword; raises LabError with the end of the box's log."""
        assert self._process is not None
        assert self._process.stdout is not None
        line, deadline = b"", time.monotonic() + _SECONDS
        while not line.endswith(b"\n"):
            left = max(0.0, deadline - time.monotonic())
            byte = b""
            if select.select([self._process.stdout], [], [], left)[0]:
                byte = self._process.stdout.read(1)
            if not byte:
                break
            line += byte
        if not line.startswith(keyword.encode()):
            output = self.log.read_text(errors="replace")[-1000:]
            raise LabError(f"{self.spec.hostname} does not start ({line!r}): {output}")
        return line.decode()
