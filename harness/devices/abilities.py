"""Check what a transport can do besides `talk`.

A missing ability raises Unsupported, not an AttributeError.
"""

from __future__ import annotations

from harness.errors import Unsupported
from harness.protocols import Commands, Files, FullTransport, Transport
from harness.types import Device


def commands(transport: Transport, device: Device, purpose: str) -> Commands:
    """Return the transport if it runs commands; raises Unsupported with the purpose."""
    if isinstance(transport, Commands):
        return transport
    raise _lacks(device, "runs no commands", purpose)


def files(transport: Transport, device: Device, purpose: str) -> Files:
    """Return the transport if it copies files; raises Unsupported with the purpose."""
    if isinstance(transport, Files):
        return transport
    raise _lacks(device, "copies no files", purpose)


def everything(transport: Transport, device: Device, purpose: str) -> FullTransport:
    """Return the transport if it does both; raises Unsupported with the purpose."""
    if isinstance(transport, FullTransport):
        return transport
    commands(transport, device, purpose)
    files(transport, device, purpose)
    raise _lacks(device, "has no channel", purpose)


def _lacks(device: Device, lack: str, purpose: str) -> Unsupported:
    scheme = device.address.partition(":")[0]
    return Unsupported(
        f'{device.name}: the transport of "{scheme}:" addresses {lack}, which {purpose} needs'
    )
