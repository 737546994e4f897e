"""The lab: make devices, log in to them, and end them all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Self

from harness.types import Device

from . import arm, machine, ssh_server, subnets, x86
from .box import Box
from .device import Hosted, LabDevice
from .faults import Cable
from .rooted import Rooted

_X86_BOOT_SECONDS, _BOARD_BOOT_SECONDS, _MACHINE_BOOT_SECONDS = 10.0, 60.0, 60.0


@dataclass(slots=True)
class Lab:
    """Devices that end with the block, also after an error or Ctrl-C."""

    folder: Path
    """Created with keys and the devices' layers; deleted at the end."""
    devices: list[LabDevice] = field(default_factory=list)
    _key: Path = field(init=False)

    def __enter__(self) -> Self:
        """Make the folder and the client's key."""
        self.folder.mkdir(mode=0o700, parents=True)
        self._key = ssh_server.client_key(self.folder)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End every device and delete the folder."""
        for device in list(self.devices):
            self.remove(device)
        shutil.rmtree(self.folder)

    def remove(self, device: LabDevice) -> None:
        """End a device and delete its files."""
        self.devices.remove(device)
        device.switch_off()
        device.box.subnet.give_back()
        shutil.rmtree(self.folder / device.name)

    def x86_hosts(self, names: Sequence[str]) -> list[Hosted]:
        """Start x86 hosts, all at once."""
        hosts = [self._x86_host(name) for name in names]
        for host in hosts:
            host.begin_boot()
        for host in hosts:
            host.finish_boot()
        return hosts

    def board(self, name: str, kind: arm.Kind, *, runtime: bool = True) -> Hosted:
        """Start an ARM board, with a TFLite runtime or without."""
        rooted = arm.rooted(self.folder / name, name, kind, runtime=runtime)
        board = self._add(
            name,
            rooted,
            profile=kind.profile,
            python=arm.PYTHON,
            inside=arm.inside(kind),
            environment=kind.environment,
            tags=("emulated",),
            boot_seconds=_BOARD_BOOT_SECONDS,
        )
        board.power_on()
        return board

    def machine(self, name: str) -> machine.Machine:
        """Boot a whole machine."""
        folder = self.folder / name
        disks = machine.disks(folder, name)
        host_key = ssh_server.set_up(disks.layer, self._public_key, {})
        disks.make()
        subnet = subnets.take()
        box = Box(machine.spec(name, disks.own), subnet, folder / "log")
        made = machine.Machine(
            entry=self._entry(
                name,
                address=subnet.device,
                host_key=host_key,
                profile=machine.PROFILE,
                python=machine.PYTHON,
                tags=("emulated",),
            ),
            box=box,
            cable=Cable(box),
            boot_seconds=_MACHINE_BOOT_SECONDS,
            before_boot=lambda: None,
        )
        self.devices.append(made)
        made.power_on()
        return made

    def _x86_host(self, name: str) -> Hosted:
        rooted = x86.rooted(self.folder / name, name)
        return self._add(
            name, rooted, profile=x86.PROFILE, python=x86.PYTHON, outside=x86.outside()
        )

    def _add(
        self,
        name: str,
        rooted: Rooted,
        *,
        profile: str,
        python: str,
        outside: str = "",
        inside: str = "",
        environment: Mapping[str, str] = MappingProxyType({}),
        tags: tuple[str, ...] = (),
        boot_seconds: float = _X86_BOOT_SECONDS,
    ) -> Hosted:
        """Make a device from a root; it is off."""
        spec = rooted.spec(name, outside=outside, inside=inside)
        host_key = ssh_server.set_up(rooted.layer, self._public_key, environment)
        subnet = subnets.take()
        box = Box(spec, subnet, rooted.folder / "log")
        device = Hosted(
            entry=self._entry(
                name,
                address=subnet.device,
                host_key=host_key,
                profile=profile,
                python=python,
                tags=tags,
            ),
            box=box,
            cable=Cable(box),
            boot_seconds=boot_seconds,
            root=rooted.root,
            before_boot=rooted.new_boot_id,
        )
        self.devices.append(device)
        return device

    @property
    def _public_key(self) -> Path:
        return self._key.with_suffix(".pub")

    def _entry(
        self,
        name: str,
        *,
        address: str,
        host_key: str,
        profile: str,
        python: str,
        tags: tuple[str, ...],
    ) -> Device:
        # One file per device: an address is reused after its device is removed.
        known_hosts = self.folder / name / "known_hosts"
        known_hosts.write_text(f"{address} {host_key}\n")
        return Device(
            name=name,
            profile=profile,
            address=f"ssh://{ssh_server.USER}@{address}",
            tags=("lab", *tags),
            transport_options={"identity": str(self._key), "known_hosts": str(known_hosts)},
            dialect_options={"python": python},
        )
