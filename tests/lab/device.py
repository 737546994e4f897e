"""A device of the lab: its entry of the farm, its power switch, and its faults."""

from __future__ import annotations

import os
import shlex
import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.devices.transports.ssh.options import SshOptions
from harness.types import Device

from . import ssh_server
from .box import Box
from .faults import Cable
from .tools import LabError, own_namespace, run


@dataclass(slots=True)
class LabDevice(ABC):
    """A device that runs, or ran until its power was cut."""

    entry: Device
    """Its entry of farm.toml."""
    box: Box
    cable: Cable
    boot_seconds: float
    """Maximum time until its sshd answers."""
    before_boot: Callable[[], None]

    @property
    def name(self) -> str:
        """Its name, in the farm and on itself."""
        return self.entry.name

    # --- power ---------------------------------------------------------------------------------

    def power_on(self) -> None:
        """Boot and wait for its sshd; raises LabError."""
        self.begin_boot()
        self.finish_boot()

    def begin_boot(self) -> None:
        """First half of `power_on`, for several devices at once."""
        self.before_boot()
        self.box.begin()

    def finish_boot(self) -> None:
        """Second half of `power_on`."""
        self.box.finish()
        try:
            self.wait_for_ssh()
        except BaseException:
            self.box.switch_off()
            raise

    def power_cut(self) -> None:
        """Pull its plug: every process ends at once, and the network reports nothing.

        Its disk keeps what was written to it; `power_on` boots from that.
        """
        self.cable.down()
        self.cable.cut()
        self.box.kill()

    def switch_off(self) -> None:
        """End it as fast as possible."""
        self.cable.cut()
        self.box.switch_off()

    def wait_for_ssh(self) -> None:
        """Wait until its sshd answers; raises LabError past the deadline."""
        try:
            ssh_server.wait_for(self.box.subnet.device, self.boot_seconds)
        except LabError as error:
            output = self.box.log.read_text(errors="replace")[-3000:]
            raise LabError(f"{self.name}: {error}; its log ends with: {output}") from error

    def recover(self) -> None:
        """Make it healthy again: powered, no fault of the network, its sshd running."""
        if not self.box.pid:
            self.power_on()
        if self.cable.faulty:
            self.heal()
        if not self._answers():
            self.sshd_start()

    def _answers(self) -> bool:
        try:
            ssh_server.wait_for(self.box.subnet.device, 0.5)
        except LabError:
            return False
        return True

    # --- network -------------------------------------------------------------------------------

    def link_down(self) -> None:
        """Pull the network cable: silence, no refusal."""
        self.cable.down()

    def link_up(self) -> None:
        """Plug it in again."""
        self.cable.up()

    def loss(self, percent: float) -> None:
        """Lose this share of the packets, each way."""
        self.cable.loss(percent)

    def rate(self, mbit: float) -> None:
        """Limit the rate to this many Mbit/s, each way."""
        self.cable.rate(mbit)

    def delay(self, milliseconds: float) -> None:
        """Delay each packet by this time, each way."""
        self.cable.delay(milliseconds)

    def reset(self) -> int:
        """Cut every open TCP connection; returns how many there were."""
        return self.cable.reset()

    def heal(self) -> None:
        """Remove every fault of the network."""
        self.cable.heal()

    # --- processes -----------------------------------------------------------------------------

    @abstractmethod
    def processes(self) -> dict[int, str]:
        """List its processes: process id to name."""

    @abstractmethod
    def commands(self) -> dict[int, str]:
        """List its processes: process id, as `processes` counts, to its command line."""

    @abstractmethod
    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process of `commands`; no effect if it has ended."""

    @abstractmethod
    def kill(self, name: str) -> int:
        """Kill every process of this name (SIGKILL); returns how many there were."""

    @abstractmethod
    def as_root(self, argv: Sequence[str]) -> str:
        """Run a command as root of the device; returns what it printed, raises LabError."""

    @abstractmethod
    def files(self, folder: str) -> dict[str, bytes]:
        """Read every file under a folder, by its path in it; empty if there is no folder."""

    @abstractmethod
    def of_user(self) -> set[str]:
        """List the files that belong to its user, by their absolute names."""

    @abstractmethod
    def sshd_start(self) -> None:
        """Start the SSH server again."""

    def sshd_kill(self) -> None:
        """Kill the SSH server and every connection of it."""
        if not self.kill("sshd"):
            raise LabError(f"{self.name}: no sshd runs")

    def ssh(self, *argv: str, user: str = ssh_server.USER) -> str:
        """Run a command with the ordinary `ssh`; returns what it printed, raises LabError."""
        return run([*self.ssh_command(user), shlex.join(argv)])

    def ssh_command(self, user: str = ssh_server.USER) -> list[str]:
        """Return the `ssh` call that logs in without the user's configuration."""
        options = [
            "-F/dev/null",
            f"-i{SshOptions.of(self.entry).identity}",
            f"-oUserKnownHostsFile={SshOptions.of(self.entry).known_hosts}",
            "-oIdentitiesOnly=yes",
            "-oBatchMode=yes",
        ]
        return ["ssh", *options, f"{user}@{self.box.subnet.device}"]


@dataclass(slots=True)
class Hosted(LabDevice):
    """A device whose processes run on the machine, with its own root, namespaces and layer."""

    root: Path
    """Mount point of its root, in its own mounts."""

    def processes(self) -> dict[int, str]:
        """List its processes: the machine's process id to the name."""
        return self.box.processes()

    def kill(self, name: str) -> int:
        """Kill every process of this name (SIGKILL), and wait until they have ended."""
        victims = [pid for pid, called in self.processes().items() if called == name]
        for pid in victims:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 5.0
        while set(victims) & set(self.processes()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return len(victims)

    def commands(self) -> dict[int, str]:
        """List its processes: the machine's process id to its command line."""
        found = {}
        for pid in self.processes():
            with suppress(OSError):
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
                found[pid] = command.replace(b"\0", b" ").decode(errors="replace")
        return found

    def signal(self, pid: int, number: int) -> None:
        """Send a signal to a process of `commands`; no effect if it has ended."""
        with suppress(ProcessLookupError):
            os.kill(pid, number)

    def files(self, folder: str) -> dict[str, bytes]:
        """Read every file under a folder, by its path in it; empty if there is no folder."""
        top = self.path(folder)
        return {str(path.relative_to(top)): path.read_bytes() for path in _files(top)}

    def of_user(self) -> set[str]:
        """List the files that belong to its user, by their absolute names."""
        layer = self.box.log.with_name("layer")
        tops = {layer: "/", **{self.path(name): name for name in ("/tmp", "/run", "/dev/shm")}}
        return {
            str(Path(name) / path.relative_to(top))
            for top, name in tops.items()
            for path in _files(top)
            if path.lstat().st_uid == ssh_server.USER_ID
        }

    def as_root(self, argv: Sequence[str]) -> str:
        """Run a command as root of the device; returns what it printed, raises LabError."""
        os.close(own_namespace(self.box.pid, "mnt"))
        enter = ["nsenter", f"--target={self.box.pid}", "--all", "--", "chroot", str(self.root)]
        return run([*enter, *argv])

    def sshd_start(self) -> None:
        """Start the SSH server again; it does not restart by itself."""
        self.box.start_program()
        self.wait_for_ssh()

    def path(self, name: str) -> Path:
        """Return the machine's path of a file of the running device, given its absolute name."""
        return Path(f"/proc/{self.box.pid}/root{self.root}{name}")


def _files(top: Path) -> Iterator[Path]:
    """Yield the plain files under a folder while the device runs."""
    for folder, _, names in os.walk(top):
        for name in names:
            path = Path(folder, name)
            if path.is_file() and not path.is_symlink():
                yield path
