"""The options of a device with the Python agent in farm.toml, and the entry point `json_lines`.

This module is separate from the dialect, so that reading a farm file does not load NumPy.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import Self

from harness import plugins
from harness.devices import options
from harness.errors import ConfigError
from harness.protocols import Dialect, DialectPlugin, Transport
from harness.types import Device

# `python -c` would import a json.py of the current folder, which is the user's own with `local:` and
# the account's home over SSH; an empty or relative entry of PYTHONPATH does the same. Python 2 runs it.
_NO_CURRENT_FOLDER = """\
import sys
sys.path[:] = [one for one in sys.path if one]
import os
named = [one for one in os.environ.get("PYTHONPATH", "/").split(os.pathsep) if one[:1] != "/"]
if named:
    named = [os.path.abspath(one) for one in named]
    sys.path[:] = [one for one in sys.path if os.path.abspath(one) not in named]
del named
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """Paths on the device."""

    python: str = "python3"
    workdir: str = "/var/tmp/edge-harness"  # noqa: S108 - survives a reboot; made 0700
    """The folder for the agent, models and runtimes.

    If a device does not set it, the name gets the account's: other accounts have their own.
    """

    def __post_init__(self) -> None:
        """Refuse an invalid path, and one that a command would take for an option."""
        for key, path in (("python", self.python), ("workdir", self.workdir)):
            if not path or "\0" in path or path.startswith("-"):
                raise ConfigError(
                    f"{key}: {path!r} is not a path; use one such as /var/tmp/edge-harness"
                )

    def script(self, text: str, *arguments: str) -> list[str]:
        """Return the command that runs a script which imports nothing from the current folder."""
        return [self.python, "-c", _NO_CURRENT_FOLDER + text, *arguments]

    @classmethod
    def of(cls, device: Device) -> Self:
        """Return the options of a device; raises ConfigError for an invalid key or value."""
        made = options.read(cls, device.dialect_options, device.name)
        if "workdir" in device.dialect_options:
            return made
        account = _account(device)
        return dataclasses.replace(made, workdir=f"{made.workdir}-{account}") if account else made


def _account(device: Device) -> str:
    """Return the account on the device, as part of a file name; empty if it is not known."""
    scheme = device.address.partition(":")[0]
    if scheme not in plugins.names("harness.transports"):
        return ""
    account = getattr(plugins.load("harness.transports", scheme), "account", None)
    return re.sub(r"[^A-Za-z0-9_.-]", "_", account(device)) if account else ""


def _open(transport: Transport, device: Device) -> Dialect:
    from harness.devices.dialects.python_agent.dialect import open_json_lines

    return open_json_lines(transport, device)


JSON_LINES = DialectPlugin(open=_open, options=AgentOptions)
