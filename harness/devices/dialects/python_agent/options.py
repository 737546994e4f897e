"""The options of a device with the Python agent in farm.toml, and the entry point `json_lines`.

This module is separate from the dialect, so that reading a farm file does not load NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from harness.devices import options
from harness.errors import ConfigError
from harness.protocols import Dialect, DialectPlugin, Transport
from harness.types import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """Paths on the device."""

    python: str = "python3"
    workdir: str = "/var/tmp/edge-harness"  # noqa: S108 - survives a reboot; made 0700
    """The folder for the agent, models and runtimes."""

    def __post_init__(self) -> None:
        """Refuse an invalid path, and one that a command would take for an option."""
        for key, path in (("python", self.python), ("workdir", self.workdir)):
            if not path or "\0" in path or path.startswith("-"):
                raise ConfigError(
                    f"{key}: {path!r} is not a path; use one such as /var/tmp/edge-harness"
                )

    @classmethod
    def of(cls, device: Device) -> Self:
        """Return the options of a device; raises ConfigError for an invalid key or value."""
        return options.read(cls, device.dialect_options, device.name)


def _open(transport: Transport, device: Device) -> Dialect:
    from harness.devices.dialects.python_agent.dialect import open_json_lines

    return open_json_lines(transport, device)


JSON_LINES = DialectPlugin(open=_open, options=AgentOptions)
