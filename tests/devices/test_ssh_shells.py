"""What works with `ssh` works here: start-up files that print or read, and login shells of every kind."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import paramiko
import pytest
from conftest import missing
from hypothesis import given, settings
from hypothesis import strategies as st
from standins.boards import PRIVATE_ETC, USER, Board, board, dropbear_board

from harness import api
from harness.config.farm import Farm
from harness.demo import DATA
from harness.demo.loopback_sshd import SFTP
from harness.devices import opening
from harness.devices.transports.ssh import channel, shell
from harness.devices.transports.ssh.account import NoShell
from harness.devices.transports.ssh.bounds import BoundedTransport
from harness.devices.transports.ssh.channel import SshChannel
from harness.devices.transports.ssh.transport import SshTransport, open_ssh
from harness.errors import AgentSilent, Unreachable

AWKWARD = [
    "a b",
    "$HOME",
    "it's",
    '"',
    "*",
    "ü!",
    "!!",
    "",
    "-n",
    "\\d\\n",
    "x\ny",
    "%s`id`",
    "^a^b",
]


@contextmanager
def account(
    folder: Path, files: dict[str, str], login_shell: str = "/bin/bash", config: str = SFTP
) -> Iterator[Board]:
    """Start a board whose account has this shell and these files in its home folder."""
    script = PRIVATE_ETC + USER
    script += f"sed -i 's#^\\(pi:.*:\\)/bin/sh$#\\1{login_shell}#' /etc/passwd\n"
    script += f"echo {login_shell} >> /etc/shells\n"
    for name, text in files.items():
        path = f"/home/pi/{name}"
        quoted = shlex.quote(text).replace("{", "{{").replace("}", "}}")
        script += f"mkdir -p $(dirname {path})\nprintf %s {quoted} > {path}\n"
    script += "chown -R 4711:4711 /home/pi\n"
    # bash reads .bashrc for a command of sshd only at this level.
    with board(folder, script, user="pi", environment={"SHLVL": "0"}, config=config) as started:
        yield started


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Do not wait a second for each start-up file that reads."""
    monkeypatch.setattr(channel, "_AGAIN_SECONDS", 0.2)


def speaks(transport: SshTransport) -> None:
    """Commands, their input, output, errors and exit codes arrive unchanged."""
    reply = transport.run(["printf", "%s|", *AWKWARD], 20.0)
    assert reply.stdout.decode() == "".join(f"{one}|" for one in AWKWARD)
    assert (reply.exit_code, reply.stderr) == (0, b"")
    data = bytes(range(256)) * 2000
    assert transport.run(["cat"], 20.0, stdin=data).stdout == data
    reply = transport.run(["sh", "-c", "echo out; echo err >&2; cat; exit 3"], 20.0)
    assert (reply.exit_code, reply.stdout, reply.stderr) == (3, b"out\n", b"err\n")
    stream = transport.talk(["sh", "-c", "echo warned >&2; cat"])
    stream.send(b"one\n\x00\xff")
    received = b""
    while len(received) < 6:
        received += stream.read(time.monotonic() + 20)
    assert received == b"one\n\x00\xff"
    deadline = time.monotonic() + 20
    while not (errors := stream.errors()) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert errors == b"warned\n"
    stream.close()


START_UPS = {
    "a prompt without a newline": 'printf "pi@board:~$ "\n',
    "a greeting and a prompt": 'echo Welcome; printf "\\033[31mready> \\033[0m"\n',
    "a greeting on stderr": "echo Welcome >&2; printf 'no newline' >&2\n",
    "much": "head -c 200000 /dev/zero | tr '\\0' x\n",
    "an error": "no-such-command; false; cd /no/such/folder\n",
    "options of the shell": "set -u; trap 'echo bye' EXIT\n",
    "fortune": "head -c 5000 /dev/urandom; echo; printf 'edge-harness-pid '\n",
    "trace": "set -x\nPS4='+ '\ntrue\n",
    "every command printed": 'set -v\nprintf "%s" "$BASH_EXECUTION_STRING"\n',
    "a question": 'printf "Continue? "; read answer; echo "you said $answer"\n',
    "two questions": "read one; read two\n",
    "another shell": "exec {other}\n",
    "another shell at login": 'case $- in *l*) ;; *) printf "hi"; exec {other} -l ;; esac\n',
    "a function that replaces a program": "printf() { command printf x; }; alias exec='echo no'\n",
    "no PATH": "PATH=/usr/local/bin:/usr/bin:/bin; IFS=x; set -f; umask 0\n",
    "a slow one": "sleep 0.5; printf 'at last'\n",
}


def other_shell() -> str:
    found = shutil.which("zsh")
    if found is None:
        missing("no zsh: apt-get install zsh")
    return found


@pytest.mark.parametrize("name", START_UPS)
def test_a_start_up_file_that_is_not_silent(name: str, tmp_path: Path) -> None:
    text = START_UPS[name].replace("{other}", other_shell())
    with account(tmp_path, {".bashrc": text, ".zshrc": "echo hello from zsh\n"}) as noisy:
        transport = open_ssh(noisy.device)
        try:
            speaks(transport)
        finally:
            transport.close()


@pytest.mark.parametrize("name", ["a question", "another shell"])
def test_a_command_is_killed_behind_any_start_up_file(name: str, tmp_path: Path) -> None:
    text = START_UPS[name].replace("{other}", other_shell())
    with account(tmp_path, {".bashrc": text}) as noisy:
        transport = open_ssh(noisy.device)
        with pytest.raises(AgentSilent, match="gave no answer"):
            transport.run(["sh", "-c", "echo $$ > /home/pi/pid; sleep 60"], 2.0)
        pid = int(noisy.as_root("cat /home/pi/pid"))
        deadline = time.monotonic() + 10
        while Path(f"/proc/{pid}/cmdline").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not Path(f"/proc/{pid}/cmdline").exists()
        transport.close()


# The name of the program, its Debian package, and its start-up file, which prints without a newline.
SHELLS = {
    "bash": ("bash", ".bashrc", 'printf "bash "\n'),
    "dash": ("dash", ".profile", ""),
    "zsh": ("zsh", ".zshenv", 'printf "zsh "\n'),
    "ksh": ("ksh", ".kshrc", ""),
    "bsd-csh": ("csh", ".cshrc", 'echo -n "csh "\nset prompt="% "\n'),
    "tcsh": ("tcsh", ".tcshrc", 'echo -n "tcsh "\nalias sh echo no\nset echo\n'),
    "fish": ("fish", ".config/fish/config.fish", 'printf "fish "\n'),
}


@pytest.mark.parametrize("name", SHELLS)
def test_a_login_shell(name: str, tmp_path: Path) -> None:
    package, file, text = SHELLS[name]
    program = shutil.which(name)
    if program is None:
        missing(f"no {name}: apt-get install {package}")
    with account(tmp_path, {file: text}, login_shell=program) as started:
        transport = open_ssh(started.device)
        try:
            speaks(transport)
            # Longer than a word of csh, and cut at every place.
            text = "".join(AWKWARD) * 200
            assert transport.run(["printf", "%s", text], 20.0).stdout.decode() == text
            started.home.joinpath("sent").write_bytes(os.urandom(100_000))
            there = f"/home/pi/it's a !file {name}"
            transport.put(started.home / "sent", there)
            transport.get(there, started.home / "back")
            assert (started.home / "back").read_bytes() == (started.home / "sent").read_bytes()
        finally:
            transport.close()


def test_a_run_on_a_board_with_dropbear_and_tcsh(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The whole job over a server without SFTP, with a login shell of another kind."""
    program = shutil.which("tcsh")
    if program is None:
        missing("no tcsh: apt-get install tcsh")
    monkeypatch.setenv("EDGE_HARNESS_CACHE", str(tmp_path / "cache"))
    script = PRIVATE_ETC + f"sed -i '/^root:/s#:[^:]*$#:{program}#' /etc/passwd\n"
    script += f"echo {program} >> /etc/shells\n"
    script += "mount -t tmpfs none $(dirname $(readlink -f /usr/lib/sftp-server))\n"
    plan = tmp_path / "plan.toml"
    shutil.copy(DATA / "digits.tflite", tmp_path)
    plan.write_text(
        '[model]\nname="digits"\npath="digits.tflite"\n'
        '[run]\nrecipes=["as_is"]\ndevices=["faulty"]\npin=false\nthermal="none"\n'
        "[dose]\nlaunches=1\nmin_seconds=0.1\nmin_inferences=5\n"
    )
    with dropbear_board(tmp_path / "board", script) as started:
        device = opening.with_options(started.device, python=sys.executable)
        farm = Farm(devices={device.name: device})
        with api.run(plan, farm=farm, results=tmp_path / "results") as run:
            (outcome,) = list(run)
    assert outcome.failure is None, outcome.failure
    assert outcome.launches


def test_sessions_that_dropbear_closes_at_once_are_opened_again(tmp_path: Path) -> None:
    """dropbear closes a session that is opened while another process of the connection ends."""
    script = "mount -t tmpfs none $(dirname $(readlink -f /usr/lib/sftp-server))\n"
    (tmp_path / "sent").write_bytes(b"hello")
    with dropbear_board(tmp_path / "board", script) as started:
        for _ in range(25):
            transport = open_ssh(started.device)
            try:
                # The end of the SFTP server that is not there, and then sessions for commands.
                transport.put(tmp_path / "sent", "/root/sent")
            finally:
                transport.close()


class _ClosedSession:
    """A session that the server closes before it answers the request."""

    def exec_command(self, command: str) -> None:
        raise paramiko.SSHException("Channel is not open")

    def close(self) -> None:
        """Nothing to close."""


class _ClosingServer(BoundedTransport):
    """A connection whose sessions are closed at once, and which breaks after `breaks_after` of them."""

    pace = None  # type: ignore[assignment]
    __repr__ = object.__repr__

    def __init__(self, breaks_after: int = 1000) -> None:
        self.sessions = 0
        self._breaks_after = breaks_after

    def open_session(self, timeout: float) -> _ClosedSession:
        self.sessions += 1
        return _ClosedSession()

    def is_active(self) -> bool:
        return self.sessions < self._breaks_after

    def join(self, timeout: float) -> None:
        """No thread to wait for."""


@pytest.mark.parametrize(
    ("breaks_after", "error", "sessions"),
    [(1000, NoShell, 4), (2, Unreachable, 2), (1, Unreachable, 1)],
)
def test_a_session_that_never_opens_is_told_from_a_broken_connection(
    breaks_after: int, error: type[Exception], sessions: int
) -> None:
    server = _ClosingServer(breaks_after)
    with pytest.raises(error):
        SshChannel(server, ["true"], "a board")
    assert server.sessions == sessions


@settings(deadline=None)
@given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=300))
def test_the_text_of_a_command_has_only_letters_that_every_shell_keeps(text: str) -> None:
    typed = shell.started(["echo", text], reads=True, keeps_shell=False)
    assert typed.isascii()
    assert typed.isprintable()
    assert "!" not in typed
    words = typed.split("'")[1::2]
    assert max(len(word) for word in words) <= 1000, "csh allows 1,023 bytes"
    for word in words:
        assert not re.sub(r"\\[0-7]{3}", "", word).count("\\"), "fish and csh read other escapes"
