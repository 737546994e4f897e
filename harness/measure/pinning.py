"""Pin a device's processor frequency while it is measured, if that is allowed, and restore it.

A small shell program on the device pins the frequency governor and turns on Android's
fixed-performance mode. It runs as long as its stdin is open and then restores the old settings. So
they are also restored if the controller is killed or the connection is lost.
"""

from __future__ import annotations

import re
import time
from contextlib import suppress

from harness.errors import HarnessError, TransportError
from harness.protocols import Channel, Commands, Transport
from harness.types import DeviceFacts

CPUFREQ = "/sys/devices/system/cpu/cpufreq"
ANDROID_CMD = "/system/bin/cmd"
"""Calls Android's services; only Android has a program at this path."""

_ANSWER_SECONDS = 10.0
_AT_FULL_SPEED = 0.98
_SPEED = re.compile(r"^speed ([0-9]{1,12}) ([0-9]{1,12})$", re.MULTILINE)
_MAX_TEXT = 1 << 16

ANDROID_NOTES = "/data/local/tmp/edge-harness/changed-pin"
"""On a phone, the old settings are noted here before they are changed. If the shell below is killed
with the connection, the next one restores them."""

_SCRIPT = r"""
trap '' HUP INT TERM
saved=
notes=
[ -x "$2" ] && notes=$3
note() { [ -z "$notes" ] || echo "$1" >> "$notes"; }
if [ -n "$notes" ]; then
    umask 077
    mkdir -p "${notes%/*}" 2>/dev/null
    [ -f "$notes" ] && while read -r kind name value; do
        case $kind in
        fixed) "$2" power set-fixed-performance-mode-enabled false >/dev/null 2>&1 ;;
        governor) echo "$value" > "$name" ;;
        esac
    done < "$notes" 2>/dev/null
    rm -f "$notes"
fi
for policy in "$1"/policy*; do
    governor=$policy/scaling_governor
    [ -w "$governor" ] || continue
    read -r old < "$governor" || continue
    if [ "$old" != performance ]; then
        note "governor $governor $old"
        echo performance 2>/dev/null > "$governor" || continue
        saved="$saved $old:$governor"
    fi
    read -r now < "$policy/scaling_cur_freq" && read -r most < "$policy/scaling_max_freq" &&
        echo "speed $now $most"
done
fixed=
note "fixed - -"
if [ -x "$2" ] && "$2" power set-fixed-performance-mode-enabled true >/dev/null 2>&1; then
    fixed=yes
    echo fixed
fi
echo ready
read -r until
[ -z "$fixed" ] || "$2" power set-fixed-performance-mode-enabled false >/dev/null 2>&1
for one in $saved; do echo "${one%%:*}" > "${one#*:}"; done
[ -z "$notes" ] || rm -f "$notes"
echo restored
"""


def processors(facts: DeviceFacts, threads: int) -> tuple[int, ...]:
    """Choose the processors for launches with this many threads: the fastest that the device lists.

    Each of several threads gets its own processor. Empty if the device lists no processors or fewer
    than threads, and for one thread on one processor, since there is then no choice.
    """
    usable = facts.processors
    return usable[:threads] if len(usable) >= max(threads, 2) else ()


class GovernorPin:
    """Holds governors at `performance` and Android's fixed-performance mode on until closed."""

    def __init__(
        self,
        transport: Transport,
        folder: str = CPUFREQ,
        android_cmd: str = ANDROID_CMD,
        notes: str = ANDROID_NOTES,
    ) -> None:
        """Pin what the device allows; raises TransportError if it cannot be reached.

        Nothing is pinned over a transport that runs no commands.
        """
        self.transport = transport
        self.pinned_mhz: float | None = None
        """The pinned frequency; None if it varies, as on a processor with a turbo."""
        self.fixed_performance = False
        """Whether Android accepted `set-fixed-performance-mode-enabled`, a sustained clock."""
        self._channel: Channel | None = None
        if not isinstance(transport, Commands):
            return
        try:
            self._channel = transport.talk(["sh", "-c", _SCRIPT, "sh", folder, android_cmd, notes])
            answer = self._until("ready")
        except TransportError:
            self._forget()
            raise
        except HarnessError:
            # No shell, so nothing was pinned; the launches are flagged `uncontrolled`.
            self._forget()
            return
        self.fixed_performance = "fixed" in answer.split()
        pairs = [(int(now), int(most)) for now, most in _SPEED.findall(answer)]
        if pairs and all(now >= _AT_FULL_SPEED * most for now, most in pairs):
            self.pinned_mhz = max(most for _, most in pairs) / 1000

    def close(self) -> None:
        """Restore the old settings; never raises."""
        if self._channel is not None:
            with suppress(HarnessError):
                self._channel.send(b"\n")
                self._until("restored")
        self._forget()

    def _until(self, answer: str) -> str:
        assert self._channel is not None
        deadline = time.monotonic() + _ANSWER_SECONDS
        text = ""
        while answer not in text.split():
            data = self._channel.read(deadline)
            if not data:
                raise HarnessError(f"the shell that pins the governor ended early: {text!r}")
            text += data.decode("utf-8", "replace")
            if len(text) > _MAX_TEXT:
                raise HarnessError(
                    f"the shell that pins the governor printed over {_MAX_TEXT} characters: "
                    f"{text[:80]!r}..."
                )
        return text

    def _forget(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
