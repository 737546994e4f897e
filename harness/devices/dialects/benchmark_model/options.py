"""The options of a device with the dialect `benchmark_model`, and the entry point of that name.

[device.pixel]
profile = "pixel_8"
address = "adb:SERIAL"
dialect = "benchmark_model"
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Literal, Self

from harness import plugins
from harness.devices import options
from harness.errors import ConfigError
from harness.protocols import Dialect, DialectPlugin, Transport
from harness.types import Device

ANDROID_WORKDIR = "/data/local/tmp/edge-harness"
_LINUX_WORKDIR = "/var/tmp/edge-harness"  # noqa: S108 - survives a reboot; made 0700


@dataclass(frozen=True, slots=True, kw_only=True)
class RunnerOptions:
    """Paths and settings on the device."""

    workdir: str = ANDROID_WORKDIR
    """The folder for bundles, models and caches; programs must be allowed to run from it."""
    sampler_seconds: float = 0.2
    """The period in which sensors are read during a launch; 0 reads them only before and after."""
    screen: Literal["as_it_is", "on"] = "as_it_is"
    """`on` keeps a phone's screen on while its launches are made; it is restored afterwards."""

    def __post_init__(self) -> None:
        """Refuse an invalid path or period."""
        if not self.workdir.startswith("/") or "\0" in self.workdir or "\n" in self.workdir:
            raise ConfigError(f"workdir: {self.workdir!r} is not an absolute path")
        if not (self.sampler_seconds == 0 or 0.02 <= self.sampler_seconds <= 60):  # noqa: PLR2004
            raise ConfigError("sampler_seconds: must be 0 (off) or 0.02 to 60")

    @classmethod
    def of(cls, device: Device) -> Self:
        """Return the options of a device; raises ConfigError for an invalid key or value."""
        made = options.read(cls, device.dialect_options, device.name)
        if "workdir" in device.dialect_options:
            return made
        account = _account(device)
        if account is None:
            return made
        return dataclasses.replace(made, workdir=f"{_LINUX_WORKDIR}-{account}")


def _account(device: Device) -> str | None:
    """Return the account on a Linux device; None for a phone, whose shell has one account."""
    scheme = device.address.partition(":")[0]
    if scheme not in plugins.names("harness.transports"):
        return None
    account = getattr(plugins.load("harness.transports", scheme), "account", None)
    return re.sub(r"[^A-Za-z0-9_.-]", "_", account(device)) if account else None


def _open(transport: Transport, device: Device) -> Dialect:
    from harness.devices.dialects.benchmark_model.dialect import open_benchmark_model

    return open_benchmark_model(transport, device)


BENCHMARK_MODEL = DialectPlugin(open=_open, options=RunnerOptions)
