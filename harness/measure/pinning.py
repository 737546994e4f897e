"""Hold a device's processors still while it is measured, where that is allowed; always undone.

The frequency governor is pinned, and Android's fixed-performance mode switched on, by a small shell
program that lives on the device as long as its
stdin is open: it is told to restore, or it sees the end of its stdin when the controller was killed
or the link was lost, and restores all the same.
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
"""What talks to Android's services; nowhere else is there one at this path."""

_ANSWER_SECONDS = 10.0
_AT_FULL_SPEED = 0.98
_SPEED = re.compile(r"^speed ([0-9]{1,12}) ([0-9]{1,12})$", re.MULTILINE)
_MOST_TEXT = 1 << 16

_SCRIPT = r"""
trap '' HUP INT TERM
saved=
for policy in "$1"/policy*; do
    governor=$policy/scaling_governor
    [ -w "$governor" ] || continue
    read -r old < "$governor" || continue
    if [ "$old" != performance ]; then
        echo performance 2>/dev/null > "$governor" || continue
        saved="$saved $old:$governor"
    fi
    read -r now < "$policy/scaling_cur_freq" && read -r most < "$policy/scaling_max_freq" &&
        echo "speed $now $most"
done
fixed=
if [ -x "$2" ] && "$2" power set-fixed-performance-mode-enabled true >/dev/null 2>&1; then
    fixed=yes
    echo fixed
fi
echo ready
read -r until
[ -z "$fixed" ] || "$2" power set-fixed-performance-mode-enabled false >/dev/null 2>&1
for one in $saved; do echo "${one%%:*}" > "${one#*:}"; done
echo restored
"""


def processors(facts: DeviceFacts, threads: int) -> tuple[int, ...]:
    """Choose which processors launches with this many threads run on: the fastest the device names.

    Several threads get a processor each. Empty where the device names none or fewer than there are
    threads, and for one thread on one processor: then there is nothing to choose.
    """
    usable = facts.processors
    return usable[:threads] if len(usable) >= max(threads, 2) else ()


class GovernorPin:
    """Governors at `performance`, Android's fixed-performance mode on, until it is closed."""

    def __init__(
        self, transport: Transport, folder: str = CPUFREQ, android_cmd: str = ANDROID_CMD
    ) -> None:
        """Pin what may be pinned; raises TransportError where the device cannot be reached.

        A transport that runs no commands has no shell at its other end, so nothing is pinned.
        """
        self.transport = transport
        self.pinned_mhz: float | None = None
        """The frequency it stands at, where it does: a processor with a turbo does not."""
        self.fixed_performance = False
        """Whether Android promised a sustained clock (`set-fixed-performance-mode-enabled`)."""
        self._channel: Channel | None = None
        if not isinstance(transport, Commands):
            return
        try:
            self._channel = transport.talk(["sh", "-c", _SCRIPT, "sh", folder, android_cmd])
            answer = self._until("ready")
        except TransportError:
            raise
        except HarnessError:
            # No shell, so nothing was pinned; the launches say `uncontrolled`.
            self._forget()
            return
        self.fixed_performance = "fixed" in answer.split()
        pairs = [(int(now), int(most)) for now, most in _SPEED.findall(answer)]
        if pairs and all(now >= _AT_FULL_SPEED * most for now, most in pairs):
            self.pinned_mhz = max(most for _, most in pairs) / 1000

    def close(self) -> None:
        """Restore what was there; never raises."""
        if self._channel is not None:
            with suppress(HarnessError):
                self._channel.send(b"\n")
                self._until("restored")
        self._forget()

    def _until(self, word: str) -> str:
        assert self._channel is not None
        deadline = time.monotonic() + _ANSWER_SECONDS
        text = ""
        while word not in text.split():
            data = self._channel.read(deadline)
            if not data:
                raise HarnessError(f"the shell that pins the governor ended early: {text!r}")
            text += data.decode("utf-8", "replace")
            if len(text) > _MOST_TEXT:
                raise HarnessError(f"the shell that pins the governor said {text[:80]!r} and more")
        return text

    def _forget(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
