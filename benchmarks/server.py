"""A real OpenSSH server on loopback for the figures that need one."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.common import NotAsked
from harness.demo import loopback_sshd as sshd
from harness.types import Device


@contextmanager
def device(folder: Path, extra: str = sshd.SFTP) -> Iterator[Device]:
    """Start the server below `folder`; gives a device that nothing was ever copied to.

    `extra` is the start of its configuration; without the SFTP line files travel by commands.
    """
    if not sshd.available():
        raise NotAsked("OpenSSH's server is not installed (apt-get install openssh-server)")
    home = folder / "server"
    home.mkdir(parents=True)
    with sshd.loopback_sshd(home, extra) as server:
        yield Device(
            name="loopback",
            profile=f"linux_{platform.machine()}",
            address=server.uri,
            transport_options={
                "identity": str(server.identity),
                "known_hosts": str(server.known_hosts),
            },
            # Its Python stands for the device's own: it has a runtime.
            dialect_options={"python": sys.executable, "workdir": str(folder / "device")},
        )


@contextmanager
def farm_file(folder: Path) -> Iterator[Path]:
    """Start the server; gives a farm.toml whose device `loopback` it is."""
    with device(folder) as known:
        plain = {"profile": known.profile, "address": known.address}
        entries = {**plain, **known.transport_options, **known.dialect_options}
        lines = [f"{key} = {json.dumps(item)}" for key, item in entries.items()]
        farm = folder / "farm.toml"
        farm.write_text("\n".join(["[device.loopback]", *lines, ""]))
        yield farm
