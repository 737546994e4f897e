"""Passwords, keys and the environment appear in no record, log, message or traceback."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from harness import api
from harness.addresses import without_password
from harness.config import entries
from harness.config import farm as farms
from harness.config.farm import Farm
from harness.demo import DATA
from harness.demo.loopback_sshd import LoopbackSshd
from harness.devices import opening
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.ssh.transport import open_ssh
from harness.errors import ConfigError, HarnessError
from harness.types import Device

PASSWORD = "hunter2-Pa55"
ADDRESSES = (
    f"ssh://pi:{PASSWORD}@10.0.0.7",
    f"ssh://pi:{PASSWORD}@10.0.0.7:99999",
    f"ssh://pi:{PASSWORD}@10.0.0.7:port",
    f"ssh://pi:{PASSWORD}@host/home",
    f"ssh://pi:{PASSWORD}/x@host",
    f"ssh://pi:x/{PASSWORD}@host",
    f"ssh://pi:{PASSWORD}#x@host",
    f"ssh://pi:{PASSWORD}@",
    f"ssh://:{PASSWORD}@host",
    f"ssh:pi:{PASSWORD}@host",
    f"sssh://pi:{PASSWORD}@host",
    f"local:pi:{PASSWORD}@host",
)
CLI = [sys.executable, "-m", "harness.cli"]


@pytest.mark.parametrize("address", ADDRESSES)
def test_a_password_in_an_address_is_refused_and_not_repeated(
    address: str, home: Path, tmp_path: Path
) -> None:
    farm = tmp_path / "farm.toml"
    farm.write_text(f'[device.a]\nprofile="linux_x86_64"\naddress="{address}"\n')
    attempts = (
        lambda: entries.check_address(address, "address"),
        lambda: farms.from_uri(address),
        lambda: farms.load(farm),
        lambda: open_ssh(Device(name="a", profile="p", address=address)),
    )
    refusals = 0
    for attempt in attempts:
        try:
            attempt()
        except HarnessError as error:
            refusals += 1
            chain: BaseException | None = error
            while chain is not None:
                assert PASSWORD not in str(chain)
                chain = chain.__cause__ or (
                    None if chain.__suppress_context__ else chain.__context__
                )
    # An unknown scheme is refused only when it is opened.
    assert refusals == len(attempts) or address.startswith("sssh:")


def test_what_is_hidden_and_what_is_not() -> None:
    for address in ADDRESSES:
        assert PASSWORD not in without_password(address)
    for address in ("ssh://pi@10.0.0.7:22", "local:", "adb:SERIAL", "serial:/dev/ttyACM0?baud=1"):
        assert without_password(address) == address


@pytest.mark.parametrize("verb", ["add", "bench"])
def test_the_command_line_does_not_repeat_it(verb: str, tmp_path: Path) -> None:
    arguments = {
        "add": ["add", ADDRESSES[0], "--debug"],
        "bench": ["bench", str(DATA / "digits.tflite"), "--on", ADDRESSES[3], "--debug"],
    }[verb]
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CONFIG_HOME": str(tmp_path)}
    done = subprocess.run(
        [*CLI, *arguments],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 3
    assert "Traceback" in done.stderr
    assert PASSWORD not in done.stdout + done.stderr


def test_a_key_that_cannot_be_read_is_not_quoted(
    sshd: LoopbackSshd, ssh_device: Device, tmp_path: Path
) -> None:

    whole = sshd.identity.read_text()
    for number, text in enumerate((whole[:-80], whole.replace("=", "!"), f"{PASSWORD}\n" * 5)):
        broken = tmp_path / f"key{number}"
        broken.write_text(text)
        with pytest.raises(HarnessError) as caught:
            open_ssh(opening.with_options(ssh_device, identity=str(broken)))
        for line in text.splitlines()[1:-1] or [PASSWORD]:
            assert line not in str(caught.value)
            assert line not in str(caught.value.__cause__)


def test_a_whole_run_keeps_no_secret(  # noqa: PLR0917 - fixtures
    sshd: LoopbackSshd,
    ssh_device: Device,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """Results, cache, device's folder, debug logs: no piece of the key, none of the environment."""
    import dataclasses

    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PASSWORD)
    monkeypatch.setenv("SSHPASS", PASSWORD)
    caplog.set_level(logging.DEBUG)
    for name in ("paramiko", "fabric", "invoke", "harness"):
        caplog.set_level(logging.DEBUG, logger=name)
    folder = tmp_path / "plan"
    folder.mkdir()
    shutil.copy(DATA / "digits.tflite", folder)
    plan = folder / "plan.toml"
    plan.write_text(
        '[model]\nname="digits"\npath="digits.tflite"\n'
        '[run]\nrecipes=["as_is"]\ndevices=["loopback", "wrong"]\n'
        "[dose]\nlaunches=1\nmin_inferences=5\nmin_seconds=0.01\nwarmup_seconds=0.0\n"
    )
    device = opening.with_options(ssh_device, python=sys.executable)
    wrong = opening.with_options(
        dataclasses.replace(device, name="wrong"), identity=str(tmp_path / "plan" / "digits.tflite")
    )
    farm = Farm(devices={device.name: device, wrong.name: wrong})
    results = tmp_path / "results"
    # paramiko's messages do not propagate; a user would enable its debug log.
    paramiko_log = logging.getLogger("paramiko")
    paramiko_log.addHandler(caplog.handler)
    with api.run(plan, farm=farm, results=results) as run:
        outcomes = {outcome.cell.device: outcome for outcome in run}
    assert outcomes["loopback"].failure is None
    assert outcomes["wrong"].failure is not None
    paramiko_log.removeHandler(caplog.handler)
    assert "userauth" in caplog.text
    api.report(run.id, results=results)
    key = [line for line in sshd.identity.read_text().splitlines() if "---" not in line]
    secrets = [PASSWORD, *(line[:40] for line in key)]
    files = [
        path
        for root in (results, tmp_path / "cache", Path(AgentOptions.of(device).workdir))
        for path in root.rglob("*")
        if path.is_file()
    ]
    assert len(files) > 8
    for path in files:
        data = path.read_bytes()
        assert not [secret for secret in secrets if secret.encode() in data], path
    said = caplog.text + "".join(capfd.readouterr())
    assert not [secret for secret in secrets if secret in said]


def test_a_name_like_a_password_is_only_a_name() -> None:
    with pytest.raises(ConfigError, match="no password in an address"):
        entries.check_address("ssh://pi:x@host", "address")
