"""Settings of a phone are noted before they are changed, and restored at the next contact."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.devices.dialects.benchmark_model.restoring import NOTES, ChangedSettings
from harness.devices.transports.local import LocalTransport


@pytest.fixture(name="service")
def _service(tmp_path: Path) -> Path:
    """A stand-in for Android's `settings`: a file per setting."""
    program = tmp_path / "settings"
    program.write_text(
        '#!/bin/sh\nfile="${0%/*}/$3"\ncase $1 in\n'
        'get) cat "$file" 2>/dev/null || echo null ;;\nput) echo "$4" > "$file" ;;\n'
        'delete) rm -f "$file" ;;\nesac\n'
    )
    program.chmod(0o755)
    return program


def changed(tmp_path: Path, service: Path) -> ChangedSettings:
    return ChangedSettings(LocalTransport(), "phone", str(tmp_path / "work"), str(service))


@pytest.mark.parametrize("before", ["0", None])
def test_the_screen_is_kept_on_and_restored(
    tmp_path: Path, service: Path, before: str | None
) -> None:
    setting = tmp_path / "stay_on_while_plugged_in"
    if before is not None:
        setting.write_text(f"{before}\n")
    one = changed(tmp_path, service)
    assert not one.restore_noted()
    one.keep_screen_on()
    assert setting.read_text().strip() == "7"
    assert (tmp_path / "work" / NOTES).exists()
    # The cable is pulled: another connection finds the note.
    assert changed(tmp_path, service).restore_noted()
    assert (setting.read_text().strip() if before is not None else setting.exists()) == (
        before or False
    )
    assert not (tmp_path / "work" / NOTES).exists()
    one.close()


def test_a_device_without_the_service_is_left_alone(tmp_path: Path) -> None:
    one = changed(tmp_path, tmp_path / "absent")
    assert not one.keep_screen_on()
    one.close()
    assert not (tmp_path / "work").exists()
