"""The lease of a device without Python: folders that its shell makes.

    lease = ShellLease(transport, device.name, f"{workdir}/leases")
    lease.hold()
    reply = transport.run(lease.guarded([runner, *flags]), seconds)
    lease.release()

Each grant has a folder, whose name is its epoch: only one host can make a folder, so only one is granted
an epoch. The highest epoch counts; a holder with another one has lost the lease. The file `entry` in it is
one line:

    1 BOOT_ID UNTIL TOKEN HOLDER...

UNTIL is in whole seconds of /proc/uptime, because phones' shells count in 32 bits. A lease of another
boot, or past its time, is free. The harness's Python agent keeps its own (agents/python_tflite/lease.py);
a device is used with one of them.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from harness.devices.renewal import TOKEN, Renewal
from harness.devices.renewal import holder as own_name
from harness.errors import AgentError, HarnessError, LeaseError
from harness.protocols import Commands, Holder, Reply

LIFE_SECONDS = 30
"""How long a lease lasts unless it is renewed."""

LOST_EXIT = 75
"""The exit code of a guarded command that was not started (EX_TEMPFAIL)."""

_SECONDS = 20.0
_MARK = b"edge-harness-lease "
_LOST = b"edge-harness-lease lost"
_ANSWER = re.compile(
    rb"edge-harness-lease (free|held|taken|kept|lost|broken) (\d{1,9}) (\d{1,9}) (yes|no) ([^\n]{0,200})"
)

_COMMON = r"""
say() { echo "edge-harness-lease $1 ${top:-0} ${left:-0} ${mine:-no} ${holder:--}"; }
fail() { top=0 left=0 mine=no holder=$1; say broken; exit 1; }
d=$1 token=$2
[ -r /proc/uptime ] || fail "/proc/uptime cannot be read"
boot=-
[ -r /proc/sys/kernel/random/boot_id ] && read -r boot < /proc/sys/kernel/random/boot_id
# The highest epoch, and who has it for how long.
look() {
    read -r now rest < /proc/uptime; now=${now%%.*}
    top=0 left=0 mine=no holder=- version= its_boot= until= owner=
    for one in "$d"/[1-9]*; do
        n=${one##*/}
        case $n in *[!0-9]*|??????????*) continue ;; esac
        [ -d "$one" ] && [ "$n" -gt "$top" ] && top=$n
    done
    [ -f "$d/$top/entry" ] || return 1
    read -r version its_boot until owner holder < "$d/$top/entry"
    # An entry is renamed into its place, so one that makes no sense is no half-written one.
    case $until in ''|*[!0-9]*|??????????*) return 0 ;; esac
    [ "$version" = 1 ] || return 0
    [ "$owner" = "$token" ] && mine=yes
    # No lease lasts longer than an hour, whatever the file says.
    [ "$its_boot" = "$boot" ] && [ "$until" -gt "$now" ] && left=$((until - now))
    [ "$left" -gt 3600 ] && left=3600
    return 0
}
write() {
    echo "1 $boot $2 $token $name" > "$d/$1/.entry" && mv -f "$d/$1/.entry" "$d/$1/entry"
}
"""
_LOOK = f"""{_COMMON}
look
if [ "$left" -gt 0 ]; then say held; else say free; fi
"""
_TAKE = rf"""{_COMMON}
life=$3 name=$4
umask 077
mkdir -p "$d" 2>/dev/null || fail "$d cannot be made"
tries=0 waited=0
while [ $tries -lt 10 ]; do
    tries=$((tries + 1))
    if ! look && [ "$top" -gt "$waited" ]; then
        # Another host has this epoch and is writing its entry, or ended before it could.
        waited=$top
        sleep 2
        continue
    fi
    if [ "$left" -gt 0 ] && [ "$mine" = no ]; then say held; exit 0; fi
    epoch=$((top + 1))
    if mkdir "$d/$epoch" 2>/dev/null; then
        write "$epoch" $((now + life)) || fail "$d/$epoch/entry cannot be written"
        for one in "$d"/[1-9]*; do
            case ${{one##*/}} in *[!0-9]*) continue ;; esac
            [ "${{one##*/}}" -lt "$epoch" ] && rm -rf "$one"
        done
        look
        # A host that was this slow has been overtaken.
        if [ "$top" = "$epoch" ]; then say taken; else say held; fi
        exit 0
    fi
    [ -w "$d" ] || fail "$d cannot be written"
done
look; say held
"""
# The epoch that is given must be the highest, before and after the new entry is written.
_RENEW = rf"""{_COMMON}
epoch=$3 life=$4 name=$5
look
if [ "$top" != "$epoch" ] || [ "$mine" = no ]; then say lost; exit 0; fi
if [ "$life" = 0 ]; then write "$epoch" 0; else write "$epoch" $((now + life)); fi ||
    fail "$d/$epoch/entry cannot be written"
look
if [ "$top" = "$epoch" ]; then say kept; else say lost; fi
"""
_GUARD = f"""{_COMMON}
epoch=$3
look
if [ "$top" != "$epoch" ] || [ "$mine" = no ] || [ "$left" -lt 1 ]; then
    say lost >&2
    exit {LOST_EXIT}
fi
shift 3
exec "$@"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    status: str
    epoch: int
    seconds: int
    is_ours: bool
    holder: str


class ShellLease:
    """The lease of one device; its verbs are those of protocols.Leasing."""

    def __init__(
        self,
        commands: Commands,
        device: str,
        folder: str,
        *,
        token: str = TOKEN,
        name: str | None = None,
    ) -> None:
        """Hold no lease yet; `folder` is on the device, `device` its name for messages."""
        self._commands = commands
        self._device = device
        self._folder = folder
        self._token = token
        self._name = name or own_name()
        self._renewal: Renewal | None = None
        self._lock = threading.Lock()
        self.epoch = 0
        """The epoch of the held lease; 0 without a lease."""

    def holder(self) -> Holder | None:
        """Return the user that holds the lease; None if it is free."""
        answer = self._ask(_LOOK)
        if answer.status != "held":
            return None
        return Holder(name=answer.holder, seconds=float(answer.seconds), is_this=answer.is_ours)

    def hold(self) -> None:
        """Take the lease and keep it until `release`; do nothing if it is held already.

        Raises LeaseError while another user holds it, and AgentError if the device keeps none.
        """
        if self._renewal is not None and self.epoch:
            return
        answer = self._ask(_TAKE, str(LIFE_SECONDS), self._name)
        if answer.status != "taken":
            raise LeaseError(
                f"{self._device}: {answer.holder} has this device, for {answer.seconds} s more unless "
                "renewed",
                answer.holder,
            )
        self.epoch = answer.epoch
        self._renewal = Renewal(self.renew)

    def renew(self) -> None:
        """Extend the lease; raises LeaseError if another user has it by now."""
        with self._lock:
            if not self.epoch:
                return
            answer = self._ask(_RENEW, str(self.epoch), str(LIFE_SECONDS), self._name)
            if answer.status != "kept":
                self.epoch = 0
                raise LeaseError(self._lost_text(answer.holder), answer.holder)

    def guarded(self, argv: Sequence[str]) -> list[str]:
        """Return the command that starts `argv` on the device only if the lease is still held.

        Its exit code is LOST_EXIT if it is not; see `check`. Raises LeaseError without a lease.
        """
        if not self.epoch:
            raise LeaseError(self._lost_text("-"))
        return self._argv(_GUARD, str(self.epoch), *argv)

    def check(self, reply: Reply) -> None:
        """Raise LeaseError if a guarded command was not started because the lease was lost."""
        if reply.exit_code == LOST_EXIT and _LOST in reply.stderr:
            found = _ANSWER.search(reply.stderr)
            holder = _plain(found[5]) if found else "-"
            self._end_renewal()
            self.epoch = 0
            raise LeaseError(self._lost_text(holder), holder)

    def release(self) -> None:
        """Release the lease; never raises."""
        self._end_renewal()
        with self._lock:
            epoch, self.epoch = self.epoch, 0
            if epoch:
                with suppress(HarnessError):
                    self._ask(_RENEW, str(epoch), "0", self._name)

    def close(self) -> None:
        """Stop renewing, without a word to the device; the lease ends by itself."""
        self._end_renewal()
        self.epoch = 0

    def _end_renewal(self) -> None:
        renewal, self._renewal = self._renewal, None
        if renewal is not None:
            renewal.close()

    def _lost_text(self, holder: str) -> str:
        by = f"{holder} took it meanwhile" if holder != "-" else "it was not renewed in time"
        return f"{self._device}: the lease of this device was lost: {by}"

    def _argv(self, script: str, *arguments: str) -> list[str]:
        return ["sh", "-c", script, "sh", self._folder, self._token, *arguments]

    def _ask(self, script: str, *arguments: str) -> _Answer:
        return read(self._commands.run(self._argv(script, *arguments), _SECONDS), self._device)


def read(reply: Reply, device: str) -> _Answer:
    """Parse the answer of a script; raises AgentError if it is none, or says what is broken."""
    found = _ANSWER.search(reply.stdout)
    if found is None:
        text = (reply.stderr or reply.stdout).decode(errors="replace").strip()[-200:]
        raise AgentError(
            f"{device}: its shell did not keep the lease: exit code {reply.exit_code}: {text or '-'}"
        )
    status, holder = found[1].decode(), _plain(found[5])
    if status == "broken":
        raise AgentError(f"{device}: no lease can be kept on this device: {holder}")
    return _Answer(
        status=status,
        epoch=int(found[2]),
        seconds=int(found[3]),
        is_ours=found[4] == b"yes",
        holder=holder,
    )


def _plain(text: bytes) -> str:
    letters = text.decode(errors="replace")
    return "".join(one if one.isprintable() else "?" for one in letters).strip() or "-"
