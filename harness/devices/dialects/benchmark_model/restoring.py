"""Change settings of a phone such that they are restored even if the cable is pulled.

The old value is noted on the phone before a setting is changed. A normal end restores it; otherwise
the next contact does, because it finds the note.
"""

from __future__ import annotations

from contextlib import suppress

from harness.errors import HarnessError
from harness.protocols import Commands

DUMPSYS = "/system/bin/dumpsys"
_SETTINGS = "/system/bin/settings"
_SECONDS = 30.0
NOTES = "changed"
"""The file in the work folder with a line `KIND NAME VALUE` per changed setting."""

RESTORE = r"""
restore_noted() {  # FILE: restore every noted setting, the last one first changed last
    [ -f "$1" ] || return 0
    while read -r kind name value; do
        case $kind in
        setting) if [ "$value" = null ]; then "$settings" delete global "$name"
                 else "$settings" put global "$name" "$value"; fi ;;
        property) setprop "$name" "$value" ;;
        fixed) /system/bin/cmd power set-fixed-performance-mode-enabled false ;;
        file) echo "$value" > "$name" ;;
        esac >/dev/null 2>&1
    done < "$1"
    rm -f "$1"
    echo restored
}
"""

_RESTORE_NOW = RESTORE + 'settings=$2; restore_noted "$1"'
_STAY_ON = r"""
umask 077
[ -x "$2" ] || { echo no settings service; exit 0; }
old=$("$2" get global stay_on_while_plugged_in) || exit 0
mkdir -p "${1%/*}" && echo "setting stay_on_while_plugged_in ${old:-null}" >> "$1" || exit 0
sync "$1" 2>/dev/null || sync
"$2" put global stay_on_while_plugged_in 7 && input keyevent KEYCODE_WAKEUP
echo changed
"""


class ChangedSettings:
    """The settings of one phone that this connection changed."""

    def __init__(
        self, commands: Commands, device: str, workdir: str, settings: str = _SETTINGS
    ) -> None:
        """Change nothing yet."""
        self._commands = commands
        self._device = device
        self._notes = f"{workdir}/{NOTES}"
        self._settings = settings
        self._has_changed = False

    def restore_noted(self) -> bool:
        """Restore what an interrupted connection left; return whether there was something."""
        argv = ["sh", "-c", _RESTORE_NOW, "sh", self._notes, self._settings]
        return b"restored" in self._commands.run(argv, _SECONDS).stdout

    def keep_screen_on(self) -> bool:
        """Keep the screen on while the phone is plugged in; return whether the phone allows it."""
        if self._has_changed:
            return True
        argv = ["sh", "-c", _STAY_ON, "sh", self._notes, self._settings]
        reply = self._commands.run(argv, _SECONDS)
        self._has_changed = b"changed" in reply.stdout
        return self._has_changed

    def close(self) -> None:
        """Restore this connection's changes; never raises."""
        if self._has_changed:
            with suppress(HarnessError):
                self.restore_noted()
            self._has_changed = False
