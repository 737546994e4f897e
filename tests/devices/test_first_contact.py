"""Run first contact and doctor on a real sshd with the real agent."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import pytest

from harness import assets
from harness.config import farm as farms
from harness.config import profiles
from harness.devices import opening
from harness.devices.dialects.python_agent.dialect import open_json_lines
from harness.devices.transports.ssh.transport import open_ssh
from harness.errors import HostKeyUnknown
from harness.farm import contact
from harness.farm.doctor import examine
from harness.measure.sessions import Session
from harness.types import Device

MODEL = Path(__file__).resolve().parents[2] / "harness" / "demo" / "data" / "digits.tflite"


def test_an_untrusted_key_is_refused_with_the_command_that_trusts_it(ssh_device: Device) -> None:
    device = opening.with_options(ssh_device, known_hosts=None)
    asked = []

    def refuse(host: str, kind: str, fingerprint: str) -> bool:
        asked.append((host, kind, fingerprint))
        return False

    with pytest.raises(HostKeyUnknown, match="--yes-key SHA256:") as caught:
        contact.settle_host_key(device, refuse)
    assert len(asked) == 1
    assert asked[0][1] == "ED25519"
    assert asked[0][2] in str(caught.value)
    assert not (assets.config_folder() / "known_hosts").exists()
    with pytest.raises(HostKeyUnknown):
        open_ssh(device)


def test_first_contact_from_key_to_farm_entry(ssh_device: Device, tmp_path: Path) -> None:
    device = opening.with_options(
        dataclasses.replace(ssh_device, profile=farms.UNKNOWN_PROFILE),
        known_hosts=None,
        python=sys.executable,
    )
    asked = []

    def agree(*shown: str) -> bool:
        asked.append(shown)
        return True

    contact.settle_host_key(device, agree)
    contact.settle_host_key(device, agree)
    assert len(asked) == 1, "`trust` is not called for a known key"
    session = Session(device, transport=open_ssh, dialect=open_json_lines)
    facts = session.facts
    session.close()
    chosen = contact.survey(facts, profiles.load_all())
    assert chosen is not None
    assert chosen.startswith("linux_")
    farm = tmp_path / "farm.toml"
    contact.write_device(farm, dataclasses.replace(device, profile=chosen))
    assert farms.load(farm).devices["loopback"].profile == chosen


def test_doctor_on_a_real_device(ssh_device: Device) -> None:
    device = opening.with_options(ssh_device, python=sys.executable)
    checks = examine(device, open_ssh, open_json_lines, None, MODEL)
    found = {check.name: check for check in checks}
    for name in ("reachable", "host_key", "files", "python", "agent", "libc", "runtime", "xnnpack"):
        assert found[name].status == "ok", found[name]
    assert not [check for check in checks if check.status == "fail"]


def test_doctor_on_a_python_without_a_runtime(ssh_device: Device, tmp_path: Path) -> None:
    bare = tmp_path / "bare python"
    # -I -S: without site-packages, so that this machine's runtimes are not found.
    bare.write_text(f'#!/bin/sh\nexec "{sys.base_prefix}/bin/python3" -I -S "$@"\n')
    bare.chmod(0o700)
    device = opening.with_options(ssh_device, python=str(bare))
    found = {c.name: c for c in examine(device, open_ssh, open_json_lines, None, MODEL)}
    assert found["python"].status == "ok"
    assert found["runtime"].status == "fail"
    assert found["runtime"].fix_text == "edge-harness setup loopback"
    assert found["xnnpack"].status == "skip"


def test_doctor_on_an_unknown_host_key(ssh_device: Device, tmp_path: Path) -> None:
    known = tmp_path / "known"
    device = opening.with_options(ssh_device, known_hosts=str(known))
    found = {c.name: c for c in examine(device, open_ssh, open_json_lines)}
    assert found["host_key"].status == "fail"
    assert "SHA256:" in found["host_key"].found
    assert str(found["host_key"].fix_text).startswith("edge-harness add ssh://")
