"""Accounts that accept the login and run no command: add, doctor and run explain the cause and the fix."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import missing

from harness import api
from harness.cli import main
from harness.config.farm import Farm
from harness.demo import DATA
from harness.demo.loopback_sshd import SFTP, LoopbackSshd, available, loopback_sshd
from harness.devices import opening
from harness.devices.transports.ssh.account import NoShell
from harness.errors import TransportError
from harness.types import Device

DeviceOn = Callable[[LoopbackSshd], Device]


@dataclass(frozen=True, kw_only=True)
class Account:
    """A kind of account, and the expected parts of the message."""

    extra: str = SFTP
    """First in sshd_config."""
    key_options: str = ""
    """Before the key in authorized_keys."""
    said: str
    way_out: str


ACCOUNTS = {
    "sftp only": Account(
        extra=f"{SFTP}\nForceCommand internal-sftp",
        said="may only transfer files (SFTP) and runs no commands",
        way_out="remove `ForceCommand internal-sftp` for this one from its `Match` block in /etc/ssh/sshd_config",
    ),
    "a forced command of the server": Account(
        extra=f"{SFTP}\nForceCommand /bin/echo only backups here",
        said="answered 'only backups here",
        way_out="`ForceCommand` from its sshd_config",
    ),
    "a forced command of the key": Account(
        key_options='command="echo backups only",no-pty ',
        said="answered 'backups only",
        way_out='remove `command="..."` from the line of this key in ~/.ssh/authorized_keys',
    ),
    "a forced command that says nothing": Account(
        key_options='command="true" ',
        extra="",
        said="printed nothing: its shell is /bin/false or the like, or a forced command",
        way_out="sudo usermod -s /bin/sh USER",
    ),
    "no login": Account(
        extra=f"{SFTP}\nForceCommand /usr/sbin/nologin",
        said="has no login shell",
        way_out="sudo usermod -s /bin/sh USER",
    ),
    "a menu that never ends": Account(
        key_options='command="yes Choose: 1 reboot 2 status" ',
        said="answered 'Choose: 1 reboot",
        way_out="forced command or a login script runs instead",
    ),
}


@contextmanager
def server_of(account: Account, folder: Path) -> Iterator[LoopbackSshd]:
    if not available():
        missing("no sshd")
    with loopback_sshd(folder, extra=account.extra) as server:
        # sshd reads the file for every login.
        keys = folder / "client_key.pub"
        keys.write_text(account.key_options + keys.read_text())
        yield server


@pytest.mark.parametrize("name", ACCOUNTS)
def test_doctor_says_what_the_account_is(name: str, device_on: DeviceOn, tmp_path: Path) -> None:
    account = ACCOUNTS[name]
    with server_of(account, tmp_path / "server") as server:
        checks = {
            one.name: one
            for one in api.doctor(farm=Farm(devices={"loopback": device_on(server)}))["loopback"]
        }
    assert checks["reachable"].status == "ok"
    assert checks["commands"].status == "fail"
    assert account.said in checks["commands"].found
    assert account.way_out in checks["commands"].found
    assert {checks[name].status for name in ("files", "python", "agent")} == {"skip"}


@pytest.fixture(params=["sftp only", "a forced command of the key"])
def account(request: pytest.FixtureRequest) -> Account:
    return ACCOUNTS[request.param]


def test_add_and_run_say_what_the_account_is(
    account: Account,
    device_on: DeviceOn,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    with server_of(account, tmp_path / "server") as server:
        device = device_on(server)
        farm = Farm(devices={device.name: device})

        known = tmp_path / "home" / ".ssh" / "known_hosts"
        known.parent.mkdir()
        known.write_text(server.known_hosts.read_text())
        arguments = ["add", server.uri, "--identity", str(server.identity)]
        monkeypatch.setattr(sys, "argv", ["edge-harness", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code == 3
        stderr = capsys.readouterr().err
        assert account.said in stderr
        assert account.way_out in stderr
        assert "Traceback" not in stderr
        assert not (tmp_path / "home" / ".config" / "edge-harness" / "farm.toml").exists()

        plan = tmp_path / "plan.toml"
        shutil.copy(DATA / "digits.tflite", tmp_path)
        plan.write_text(
            '[model]\nname="digits"\npath="digits.tflite"\n'
            '[run]\nrecipes=["as_is"]\ndevices=["loopback"]\n'
        )
        with api.run(plan, farm=farm, results=tmp_path / "results") as run:
            (outcome,) = list(run)
        assert outcome.failure is not None
        assert outcome.failure.kind == "no_shell"
        assert account.said in outcome.failure.reason
        assert account.way_out in outcome.failure.reason


NOISE = (
    'printf "\\033[31mWelcome\\033[0m\\nedge-harness {}\\nready\\n"; printf "{\\"id\\":1}"; echo; '
)


@pytest.mark.parametrize("noise", [NOISE, "echo; " * 50, "head -c 30000 /dev/urandom; echo; "])
def test_a_login_shell_that_prints_breaks_nothing(
    noise: str, device_on: DeviceOn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not available():
        missing("no sshd")
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    script = tmp_path / "login"
    script.write_text(
        "#!/bin/sh\n"
        f'case "$SSH_ORIGINAL_COMMAND" in *sftp-server*) ;; *) {noise};; esac\n'
        'eval "$SSH_ORIGINAL_COMMAND"\n'
    )
    script.chmod(0o700)
    # A forced command replaces internal-sftp as well.
    extra = f"Subsystem sftp {sftp_server()}\nForceCommand {script}"
    with loopback_sshd(tmp_path / "server", extra=extra) as server:
        device = opening.with_options(device_on(server), python=sys.executable)
        checks = api.doctor(farm=Farm(devices={device.name: device}))["loopback"]
    assert not [check for check in checks if check.status == "fail"]
    assert {check.name: check.status for check in checks}["xnnpack"] == "ok"


def test_noise_where_sftp_should_speak_is_named(device_on: DeviceOn, tmp_path: Path) -> None:
    if not available():
        missing("no sshd")
    extra = (
        f'Subsystem sftp {sftp_server()}\nForceCommand echo Welcome; eval "$SSH_ORIGINAL_COMMAND"'
    )
    with loopback_sshd(tmp_path / "server", extra=extra) as server:
        device = device_on(server)
        checks = {
            one.name: one for one in api.doctor(farm=Farm(devices={"loopback": device}))["loopback"]
        }
    assert checks["commands"].status == "ok"
    assert "another program prints on the SFTP channel" in checks["files"].found
    assert "Subsystem sftp internal-sftp" in (checks["files"].fix_text or "")


@pytest.mark.parametrize(
    ("shell", "said"),
    [("/usr/sbin/nologin", "has no login shell"), ("/bin/false", "may only transfer files")],
)
def test_an_account_whose_shell_is_none(
    shell: str, said: str, device_on: DeviceOn, tmp_path: Path
) -> None:
    """With its own passwd over the machine's, in a mount that only this sshd sees."""
    if os.geteuid() != 0:
        missing("another /etc/passwd for one sshd needs root")
    if not available() or shutil.which("unshare") is None:
        missing("no sshd or no unshare")
    passwd = tmp_path / "passwd"
    lines = Path("/etc/passwd").read_text().splitlines()
    passwd.write_text(
        "\n".join(
            re.sub(":[^:]*$", f":{shell}", line) if line.startswith("root:") else line
            for line in lines
        )
        + "\n"
    )
    wrapper = tmp_path / "sshd"
    from harness.demo import loopback_sshd as helper

    wrapper.write_text(
        f'#!/bin/sh\nmount --bind "{passwd}" /etc/passwd && exec {helper.sshd_path()} "$@"\n'
    )
    wrapper.chmod(0o700)
    outer = tmp_path / "outer"
    outer.write_text(f'#!/bin/sh\nexec unshare --mount "{wrapper}" "$@"\n')
    outer.chmod(0o700)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(helper, "_PATHS", (str(outer),))
        with loopback_sshd(tmp_path / "server") as server:
            from harness.devices.transports.ssh.transport import open_ssh

            transport = open_ssh(device_on(server))
            with pytest.raises(NoShell, match=re.escape(said)):
                transport.run(["true"], 10.0)
            transport.close()
    assert subprocess.run(["sh", "-c", "true"], check=False).returncode == 0


def test_no_shell_is_no_reason_to_try_again() -> None:
    assert issubclass(NoShell, TransportError)
    assert NoShell.kind == "no_shell"


def sftp_server() -> str:
    places = ("/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server")
    found = next((place for place in places if Path(place).exists()), None)
    if found is None:
        missing("no sftp-server: `sudo apt-get install openssh-sftp-server`")
    return str(found)
