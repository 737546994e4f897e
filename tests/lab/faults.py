"""Faults of a device's cable: down, loss, rate, delay, cut connections."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from .box import Box
from .tools import LabError, run

_RELAY = Path(__file__).with_name("relay.py")
_BURST = "32kbit"
_QUEUE = "400ms"


@dataclass(slots=True)
class Cable:
    """The cable between the machine and a box, with its faults; `heal` removes them all."""

    box: Box
    faulty: bool = False
    """Whether a fault is present."""
    _relay: subprocess.Popen[str] | None = field(default=None, repr=False)

    def down(self) -> None:
        """Pull the plug: silence both ways, no refusal."""
        self.faulty = True
        # At the device's end, or the machine would look for another way to the device.
        self._set("down")

    def up(self) -> None:
        """Plug it in again."""
        self._set("up")

    def loss(self, percent: float) -> None:
        """Lose this share of the packets, at random, each way (netem is not in every kernel)."""
        self.faulty = True
        share = f"numgen random mod 1000 < {round(percent * 10)} counter drop"
        self.box.in_network(
            ["nft", "-f", "-"],
            "table inet lab\ndelete table inet lab\ntable inet lab {\n"
            f' chain in {{\n  type filter hook input priority -300;\n  iifname != "lo" {share};\n }}\n'
            f' chain out {{\n  type filter hook output priority -300;\n  oifname != "lo" {share};\n }}\n'
            "}\n",
        )

    def rate(self, mbit: float) -> None:
        """Limit the rate to this many Mbit/s, each way."""
        self.faulty = True
        shape = f"root tbf rate {round(mbit * 1000)}kbit burst {_BURST} latency {_QUEUE}".split()
        run(["tc", "qdisc", "replace", "dev", self.box.subnet.interface, *shape])
        self.box.in_network(["tc", "qdisc", "replace", "dev", "eth0", *shape])

    def delay(self, milliseconds: float) -> None:
        """Delay each packet by this time, each way; open connections stay."""
        self.faulty = True
        self._end_relay()
        subnet = self.box.subnet
        argv = [sys.executable, "-I", "-S", str(_RELAY), str(self.box.pid), self._tunnel]
        self._relay = subprocess.Popen(
            [*argv, str(milliseconds / 1000)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._relay.stdout is not None
        if self._relay.stdout.readline() != "up\n":
            raise LabError(f"no delay for {self.box.spec.hostname}: the relay does not start")
        self._set("up")
        run(["ip", "link", "set", self._tunnel, "up"])
        late = ["dev", self._tunnel, "src", subnet.machine]
        run(["ip", "route", "replace", subnet.device, *late])

    def reset(self) -> int:
        """Cut every open TCP connection of the device; returns how many there were."""
        killed = self.box.in_network(["ss", "-HKtn", "state", "established"])
        return len(killed.splitlines())

    def heal(self) -> None:
        """Remove every fault."""
        self._end_relay()
        self.up()
        for argv in (
            ["nft", "flush", "ruleset"],
            ["sh", "-c", "tc qdisc show dev eth0 | grep -q tbf && tc qdisc del dev eth0 root || :"],
        ):
            self.box.in_network(argv)
        here = self.box.subnet.interface
        if "tbf" in run(["tc", "qdisc", "show", "dev", here]):
            run(["tc", "qdisc", "delete", "dev", here, "root"])
        self.faulty = False

    def cut(self) -> None:
        """End the relay beside the box; the cable itself ends with the box."""
        self._end_relay()
        self.faulty = False

    @property
    def _tunnel(self) -> str:
        return f"{self.box.subnet.interface}late"

    def _set(self, state: str) -> None:
        """Switch the device's end on or off; with a delay, packets use the relay instead."""
        self.box.in_network(["ip", "link", "set", "eth0", state])
        if not self._relay:
            return
        self.box.in_network(["ip", "link", "set", "late0", state])
        if state == "up":
            subnet = self.box.subnet
            late = ["dev", "late0", "src", subnet.device]
            self.box.in_network(["ip", "route", "replace", subnet.machine, *late])

    def _end_relay(self) -> None:
        relay, self._relay = self._relay, None
        if relay is None:
            return
        assert relay.stdin is not None
        assert relay.stdout is not None
        # Its interfaces and their routes end with it.
        relay.stdin.close()
        relay.wait(10.0)
        relay.stdout.close()
