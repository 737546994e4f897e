"""The error tree. Every message says what, which and what to do.

HarnessError
├─ ConfigError(ValueError)         file, key, the allowed values
├─ RecipeError                     the model cannot be made ready for this target
├─ PayloadError                    packed bytes are damaged, or more than was promised
├─ TransportError
│  ├─ Unreachable(ConnectionError)
│  ├─ HostKeyUnknown               unknown or changed; names the file and the fingerprint
│  └─ TransferFailed
├─ AgentError
│  ├─ RuntimeMissing
│  ├─ AgentSilent(TimeoutError)
│  ├─ ModelRejected
│  ├─ OutOfMemory
│  ├─ Crashed
│  ├─ Unsupported                  the device lacks what the order asks for
│  ├─ FellBack                     nothing ran on the accelerator that was asked for
│  ├─ Unproven                     nothing shows that the accelerator ran it, or it does not fit together
│  └─ Inaccurate                   the device computes something else than the host
├─ MeterError
├─ LeaseError
└─ StoreError

`kind` is the word a row's status shows when the error ends a cell. `run.py` is the only place
that turns an error into an outcome's failure, `cli.py` the only place that turns one into a line
and an exit code.
"""

from __future__ import annotations

from typing import ClassVar


class HarnessError(Exception):
    """Base of everything we raise on purpose."""

    kind: ClassVar[str] = "failed"


class ConfigError(HarnessError, ValueError):
    """A file, key or argument the user gave cannot be used."""

    kind = "config"


class RecipeError(HarnessError):
    """The model cannot be made ready for this target."""

    kind = "not_built"


class PayloadError(HarnessError):
    """Packed bytes cannot be made, or are not what was packed."""

    kind = "payload"


class TransportError(HarnessError):
    """Bytes or commands did not reach the device."""

    kind = "unreachable"


class Unreachable(TransportError, ConnectionError):
    """No connection, or it broke."""


class HostKeyUnknown(TransportError):
    """The host key is not known, or is not the one that is known."""

    kind = "host_key"


class TransferFailed(TransportError):
    """A file did not arrive whole."""

    kind = "transfer_failed"


class AgentError(HarnessError):
    """The agent answered with an error, or did not answer as agreed."""

    kind = "agent"


class RuntimeMissing(AgentError):
    """The device has no TFLite runtime (or no Python) that works."""

    kind = "no_runtime"


class AgentSilent(AgentError, TimeoutError):
    """No answer before the deadline; the launch was killed."""

    kind = "silent"


class ModelRejected(AgentError):
    """The runtime refused the file or an inference failed."""

    kind = "rejected"


class OutOfMemory(AgentError):
    """The launch was killed for memory."""

    kind = "out_of_memory"


class Crashed(AgentError):
    """The launch ended by a signal or without an answer."""

    kind = "crashed"


class Unsupported(AgentError):
    """The device or its profile lacks what the cell asks for."""

    kind = "unsupported"


class FellBack(AgentError):
    """The accelerator took nothing: what would be measured is the CPU."""

    kind = "fell_back"


class Unproven(AgentError):
    """Nothing shows that the accelerator did the work, or what is told of it does not fit together."""

    kind = "invalid"


class Inaccurate(AgentError):
    """The device computes something else than the host does from the same file."""

    kind = "inaccurate"


class MeterError(HarnessError):
    """A meter could not be read."""

    kind = "meter"


class LeaseError(HarnessError):
    """The device belongs to somebody else, or the lease was lost."""

    kind = "busy"

    def __init__(self, message: str, holder: str | None = None) -> None:
        """`holder` is who has the device, where that is known."""
        super().__init__(message)
        self.holder = holder


class StoreError(HarnessError):
    """A run cannot be written or read."""

    kind = "store"
