"""The phones that an adb server lists: find the one that an address means, or explain why not."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from harness.devices.transports.adb.options import AdbAddress
from harness.devices.transports.adb.server import Refused, Server
from harness.errors import TransportError, Unreachable
from harness.printable import clipped

READY = "device"
_STATES = (
    *("device", "offline", "unauthorized", "authorizing", "connecting", "no permissions"),
    *("recovery", "rescue", "sideload", "bootloader", "host", "detached", "unknown"),
)
_PASSING = frozenset({"authorizing", "connecting", "offline", "detached"})
"""States that may end by themselves within seconds."""

_CONNECT_SECONDS = 15.0
_SETTLE_SECONDS = 5.0
_POLL_SECONDS = 0.1
_MAX_LISTED = 64
_ID = re.compile(r"(?:^| )transport_id:(\d{1,18})(?: |$)")
_PATH = re.compile(r" (usb:[!-~]{1,64}|\d{1,4}-[\d.]{1,32})(?: |$)")
_MODEL = re.compile(r" model:([!-~]{1,64})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Listed:
    """One line of `adb devices -l`."""

    serial: str
    state: str
    transport: int
    """The server's number of this connection; never used again by the server."""
    path: str = ""
    """Its place on the USB, as `usb:1-4`; empty for a phone in the network."""
    model: str = ""

    @property
    def address(self) -> str:
        """Return the address that means this phone and no other."""
        return f"adb:{self.serial}"


def read(answer: str) -> tuple[Listed, ...]:
    """Parse the answer to `host:devices-l`; lines that are not a device's are skipped."""
    found = []
    for line in answer.splitlines()[:_MAX_LISTED]:
        # A device without a readable serial has blanks or question marks in its place.
        serial, _, rest = line.strip().partition(" ")
        rest = f" {rest.strip()}"
        state = next((one for one in _STATES if rest.startswith(f" {one}")), None)
        number = _ID.search(rest)
        if not serial or state is None or number is None:
            continue
        path, model = _PATH.search(rest), _MODEL.search(rest)
        found.append(
            Listed(
                serial=clipped(serial),
                state=state,
                transport=int(number[1]),
                path=path[1] if path else "",
                model=clipped(model[1]) if model else "",
            )
        )
    return tuple(found)


def listed(server: Server) -> tuple[Listed, ...]:
    """Return the phones that the server knows; raises Unreachable."""
    return read(server.ask("host:devices-l"))


def find(server: Server, address: AdbAddress) -> Listed:
    """Return the phone that an address means, ready for use; connects to one in the network.

    Raises Unreachable with the state of the phone and how to change it.
    """
    if address.is_network and not _chosen(listed(server), address):
        connect(server, address.serial)
    deadline = time.monotonic() + _SETTLE_SECONDS
    while True:
        phones = listed(server)
        chosen = _chosen(phones, address)
        if len(chosen) == 1 and chosen[0].state == READY:
            return chosen[0]
        waits = len(chosen) == 1 and chosen[0].state in _PASSING
        if not waits or time.monotonic() >= deadline:
            raise Unreachable(_why_not(server, address, chosen, phones))
        if chosen[0].state == "offline" and address.is_network:
            # The server found the connection broken; it does not connect again by itself for long.
            reconnect(server, address.serial)
        time.sleep(_POLL_SECONDS)


def connect(server: Server, place: str) -> None:
    """Let the server connect to a phone in the network; raises Unreachable."""
    try:
        answer = server.ask(f"host:connect:{place}", _CONNECT_SECONDS)
    except Refused as error:
        answer = str(error)
    # Without authorisation the phone is listed, and its state says so.
    if re.match(r"(already )?connected to |failed to authenticate to ", answer):
        return
    reason = clipped(answer.strip()) or "no reason given"
    raise Unreachable(
        f"the adb server at {server.name} could not connect to {place} ({reason}); check that the "
        "phone is on and in this network and that the port is the one it shows under Wireless "
        "debugging; pair a new phone first: `adb pair HOST:PORT CODE` with the values of `Pair device "
        "with pairing code`"
    )


def disconnect(server: Server, place: str) -> None:
    """Let the server forget a connection to the network; never raises."""
    with suppress(TransportError):
        server.ask(f"host:disconnect:{place}")


def reconnect(server: Server, place: str) -> None:
    """Give up a broken connection to a phone in the network and make a new one."""
    disconnect(server, place)
    connect(server, place)


def _chosen(phones: Sequence[Listed], address: AdbAddress) -> tuple[Listed, ...]:
    """Return the phones that an address means; without a serial, those that are ready, else all."""
    if not address.serial:
        ready = tuple(one for one in phones if one.state == READY)
        return ready or tuple(phones)
    named = tuple(one for one in phones if one.serial == address.serial)
    return named or tuple(one for one in phones if one.path == address.serial)


def _why_not(
    server: Server, address: AdbAddress, chosen: Sequence[Listed], phones: Sequence[Listed]
) -> str:
    if not chosen:
        return _absent(server, address, phones)
    if len(chosen) > 1 and not address.serial:
        known = "; ".join(f"{one.address} ({one.model or one.state})" for one in chosen)
        return (
            f"adb: means the only phone, but the adb server lists {len(chosen)}; use one of {known}"
        )
    if len(chosen) > 1:
        places = " and ".join(one.path or f"transport {one.transport}" for one in chosen)
        usable = next((one.path for one in chosen if one.path), None)
        by_path = (
            f", or use the address adb:{usable}, which is its place on the USB" if usable else ""
        )
        return f"the serial {address.serial} exists twice: {places}; unplug one of them{by_path}"
    return _state(server, chosen[0])


def _absent(server: Server, address: AdbAddress, phones: Sequence[Listed]) -> str:
    known = ", ".join(f"{one.address} ({one.state})" for one in phones) or "none"
    what = f"no phone {address.serial}" if address.serial else "no phone"
    wireless = ""
    if re.fullmatch(r"\d+\.\d+\.\d+\.\d+", address.serial):
        wireless = f"; for a phone in the network write its port too: adb:{address.serial}:5555"
    return (
        f"the adb server at {server.name} lists {what} (listed: {known}){wireless}; plug it in, unlock "
        "it and turn on USB debugging (Settings > System > Developer options); a charging cable has no "
        "data lines"
    )


def _state(server: Server, phone: Listed) -> str:
    reboot = server.command("-s", phone.serial, "reboot")
    reasons = {
        "unauthorized": (
            "it has not allowed this computer: unlock it and tap `Allow` in the dialog `Allow USB "
            f"debugging?`; if there is no dialog, unplug it and run `{server.command('reconnect')}`, or "
            "use `Revoke USB debugging authorizations` in its developer options"
        ),
        "authorizing": "it checks this computer's key: unlock it and tap `Allow` in the dialog",
        "connecting": "it is being connected, and that did not end; unplug it and plug it in again",
        "offline": (
            f"it does not answer: `{server.command('reconnect', 'offline')}` connects again; if that "
            "does not help, unplug it and plug it in again, or restart it"
        ),
        "no permissions": (
            "this user may not open its USB device: `sudo apt-get install "
            "android-sdk-platform-tools-common` installs the udev rules; then run `sudo usermod -aG "
            "plugdev $USER`, log in again and plug the phone in again"
        ),
        "bootloader": "it is in the bootloader: `fastboot reboot` starts Android",
        "detached": (
            f"another program detached it: `{server.command('-s', phone.serial, 'attach')}` attaches it"
        ),
    }
    waits = f"it is in the mode {phone.state}, not in Android: `{reboot}` starts Android"
    return f"{phone.serial} is {phone.state}: {reasons.get(phone.state, waits)}"
