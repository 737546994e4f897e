"""The error tree. Every message says what happened, where, and how to fix it.

HarnessError
├─ ConfigError(ValueError)         file, key, the allowed values
├─ RecipeError                     the variant cannot be built for this target
│  └─ Untrusted                    the model's file has code, and the user did not say to trust it
├─ PayloadError                    packed bytes are damaged, or larger than announced
├─ TransportError
│  ├─ Unreachable(ConnectionError)
│  │  └─ LoginFailed               the host answers and does not let the user in
│  ├─ HostKeyUnknown               unknown or changed; with the file and the fingerprint
│  └─ TransferFailed
├─ AgentError
│  ├─ RuntimeMissing
│  ├─ AgentSilent(TimeoutError)
│  ├─ ModelRejected
│  ├─ OutOfMemory
│  ├─ NoSpace                      the device's disk is full
│  ├─ LeaseFileError               no lease can be kept on the device
│  ├─ Crashed
│  ├─ Unsupported                  the device does not support the order
│  ├─ FellBack                     nothing ran on the requested accelerator
│  ├─ Unproven                     no evidence that the accelerator ran it, or a contradiction
│  └─ Inaccurate                   the device's outputs differ from the host's
├─ DeviceChanged                   the device is not as it was when the run began
├─ MeterError
├─ LeaseError
├─ StoreError
└─ InternalError                    a bug in the program or in a plug-in

`kind` is the status of a row whose cell the error ends. `harness/measure/failures.py` turns an
error into the failure of an outcome, and `harness/cli` turns one into a line and an exit code.
"""

from __future__ import annotations

import traceback
from pathlib import Path
from typing import ClassVar


class HarnessError(Exception):
    """Base class of all errors of edge-harness."""

    kind: ClassVar[str] = "failed"


class ConfigError(HarnessError, ValueError):
    """A file, key or argument of the user is invalid."""

    kind = "config"


class RecipeError(HarnessError):
    """The variant cannot be built for this target."""

    kind = "not_built"


class Untrusted(RecipeError):
    """A model's file has code, and the user has not said that it is trusted."""

    kind = "untrusted"


class PayloadError(HarnessError):
    """A file cannot be packed, or unpacking does not give the packed file."""

    kind = "payload"


class TransportError(HarnessError):
    """Data or commands did not reach the device."""

    kind = "unreachable"


class Unreachable(TransportError, ConnectionError):
    """There is no connection, or it broke."""


class LoginFailed(Unreachable):
    """The host answers and does not let the user in, so trying again at once does not help."""


class HostKeyUnknown(TransportError):
    """The host key is unknown or differs from the known one."""

    kind = "host_key"


class TransferFailed(TransportError):
    """A file did not arrive completely."""

    kind = "transfer_failed"


class AgentError(HarnessError):
    """The agent answered with an error or broke the protocol."""

    kind = "agent"


class RuntimeMissing(AgentError):
    """The device has no working TFLite runtime or no working Python."""

    kind = "no_runtime"


class AgentSilent(AgentError, TimeoutError):
    """No answer before the deadline; the launch was killed."""

    kind = "silent"


class ModelRejected(AgentError):
    """The runtime refused the file, or an inference failed."""

    kind = "rejected"


class OutOfMemory(AgentError):
    """The launch ran out of memory and was killed."""

    kind = "out_of_memory"


class NoSpace(AgentError):
    """The device's disk is full; the message has the disk, the folder and the free space."""

    kind = "no_space"


class LeaseFileError(AgentError):
    """The device's lease file cannot be read or written, so the device cannot be taken."""

    kind = "lease_file"


class Crashed(AgentError):
    """The launch ended with a signal or without an answer."""

    kind = "crashed"


class Unsupported(AgentError):
    """The device or its profile does not support the cell."""

    kind = "unsupported"


class FellBack(AgentError):
    """The accelerator took no operator, so the launch would measure the CPU."""

    kind = "fell_back"


class Unproven(AgentError):
    """There is no evidence that the accelerator ran the model, or the evidence is contradictory."""

    kind = "invalid"


class Inaccurate(AgentError):
    """The device's outputs differ too much from the host's for the same file."""

    kind = "inaccurate"


class DeviceChanged(HarnessError):
    """The device is not as it was when the run began: its launches would be one row with others."""

    kind = "changed"


class MeterError(HarnessError):
    """A meter could not be read."""

    kind = "meter"


class LeaseError(HarnessError):
    """Another user holds the device's lease, or the lease was lost."""

    kind = "busy"

    def __init__(self, message: str, holder: str | None = None) -> None:
        """Take the message, and the user that holds the lease if it is known."""
        super().__init__(message)
        self.holder = holder


class StoreError(HarnessError):
    """A stored run cannot be written or read."""

    kind = "store"


class InternalError(HarnessError):
    """A bug in the program or in a plug-in; the message says where."""

    kind = "failed"

    @classmethod
    def of(cls, error: Exception) -> InternalError:
        """Describe an exception that is no HarnessError: its type, its text and its place."""
        place = "an unknown place"
        if frames := traceback.extract_tb(error.__traceback__):
            place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}"
        text = f": {error}" if str(error) else ""
        return cls(
            f"{type(error).__name__}{text}, raised at {place}: a bug in the program or a plug-in"
        )
