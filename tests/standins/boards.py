"""Boards with real faults: an sshd with its own mounts, on this machine.

    with board(folder, mounts="mount -t tmpfs -o noexec,size=600m none {work}") as faulty:
        found = faulty.examine()
        faulty.execute(found["noexec"].fix)

The machine itself does not change: all mounts are in a private mount namespace that ends with the
server. A shell of this host executes commands exactly as doctor prints them.
"""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from conftest import missing
from lab.tools import own_namespace

from harness.config import farm as farms
from harness.demo.loopback_sshd import SFTP, sshd_path
from harness.devices import opening
from harness.devices.dialects.python_agent.dialect import open_json_lines
from harness.devices.transports.local import open_local
from harness.devices.transports.ssh.transport import open_ssh
from harness.farm import contact, doctor
from harness.farm.checks import CheckResult, Fix
from harness.types import Device, Profile

COMMANDS = Path(sys.executable).parent
_SECONDS = 600.0

PRIVATE_ETC = """
mkdir -p {tree}/etc && mount -t tmpfs none {tree}/etc && mkdir {tree}/etc/upper {tree}/etc/work
mount -t overlay none -o lowerdir=/etc,upperdir={tree}/etc/upper,workdir={tree}/etc/work /etc
"""
"""A private /etc for the board: writes stay in its namespace."""

WITHOUT_PYTHON = """
mkdir -p {tree}/bin && mount -t tmpfs none {tree}/bin && mkdir {tree}/bin/upper {tree}/bin/work
mount -t overlay none -o lowerdir=/usr/bin,upperdir={tree}/bin/upper,workdir={tree}/bin/work /usr/bin
rm -f /usr/bin/python3*
mount -t tmpfs none /usr/local/bin
mount -t tmpfs none /opt
"""
"""Hides every Python of the system."""

USER = """
cp {key} /etc/ssh/board_keys && chmod 644 /etc/ssh/board_keys
echo 'pi:x:4711:4711::/home/pi:/bin/sh' >> /etc/passwd
echo 'pi:*:19000:0:99999:7:::' >> /etc/shadow
echo 'pi:x:4711:' >> /etc/group
mount -t tmpfs -o mode=755 none /home
mkdir -m 755 /home/pi && chown 4711:4711 /home/pi
"""
"""Adds an ordinary account; needs PRIVATE_ETC before it."""

SUDO = "mkdir -p /etc/sudoers.d && echo 'pi ALL=(ALL) NOPASSWD: ALL' > /etc/sudoers.d/pi\n"
WITHOUT_SUDO = "mount --bind /dev/null /usr/bin/sudo\n"


@dataclass(frozen=True, kw_only=True)
class Board:
    """A running board."""

    device: Device
    home: Path
    farm: Path
    pid: int = 0
    """Process id of its sshd; 0 for a board without its own mounts."""
    environment: Mapping[str, str] = field(default_factory=dict)

    def now(self) -> Device:
        """Return the present entry in the farm file, which fixes may have changed."""
        return farms.load(self.farm).devices[self.device.name]

    def examine(
        self, profile: Profile | None = None, model: Path | None = None
    ) -> dict[str, CheckResult]:
        """Run every check of doctor on the board."""
        device = self.now()
        opener = open_ssh if device.address.startswith("ssh:") else open_local
        found = doctor.examine(
            device, opener, open_json_lines, profile, model, farm=self.farm, is_farm_named=True
        )
        for check in found:
            assert (check.fix is not None) == (check.status in {"warn", "fail"}), check
        return {check.name: check for check in found}

    def execute(self, fix: Fix | None, answer: str = "") -> str:
        """Execute the fix exactly as it is printed; returns the output.

        If `answer` is given, the command has a terminal, on which that text is typed.
        """
        assert fix is not None
        done = ""
        if fix.command is not None:
            assert fix.text.startswith(fix.command), "the printed command is the executed one"
            done = self.type(fix.command, answer)
        if fix.root_command is not None:
            assert fix.root_command in fix.text
            done = self.as_root(fix.root_command)
        for key, value in fix.setting.items():
            self._set(fix, key, value)
        assert fix.command or fix.root_command or fix.setting
        EXECUTED.add(fix.kind.id)
        return done

    def as_root(self, command: str) -> str:
        """Run a command as root of the board."""
        mounts = own_namespace(self.pid, "mnt")
        try:
            enter = ["nsenter", f"--mount=/proc/{os.getpid()}/fd/{mounts}", "--"]
            return _run([*enter, "sh", "-c", command], os.environ, "")
        finally:
            os.close(mounts)

    def type(self, command: str, answer: str = "") -> str:
        """Run a command in a shell of this host, with the home folder of the board's user."""
        environment = {
            **os.environ,
            **self.environment,
            "HOME": str(self.home),
            "XDG_CONFIG_HOME": str(self.home / ".config"),
            "EDGE_HARNESS_CACHE": str(self.home / ".cache"),
        }
        environment["PATH"] = f"{environment['PATH']}:{COMMANDS}"
        return _run(["sh", "-c", command], environment, answer)

    def _set(self, fix: Fix, key: str, value: str) -> None:
        """Edit the farm file according to the printed text."""
        line = re.search(rf"set ({key} = .+?) in \[device\.{self.device.name}\]", fix.text)
        assert line is not None, fix.text
        assert tomllib.loads(line[1]) == {key: value}
        contact.write_device(self.farm, opening.with_options(self.now(), **{key: value}))


EXECUTED: set[str] = set()
"""Kinds of fixes that the running test has executed."""

_Test = TypeVar("_Test", bound=Callable[..., None])


def executes(*kinds: str) -> Callable[[_Test], _Test]:
    """Mark a test that executes these kinds of fixes; it fails if it does not execute all of them."""

    def wrap(test: _Test) -> _Test:
        @functools.wraps(test)
        def run(*arguments: Any, **named: Any) -> None:
            EXECUTED.clear()
            test(*arguments, **named)
            assert set(kinds) <= EXECUTED, f"{set(kinds) - EXECUTED} was not executed"

        return cast(_Test, run)

    return wrap


def local_board(folder: Path, **entry: str) -> Board:
    """Make a board from this machine itself, with a separate home and farm file."""
    device = Device(
        name="here",
        profile="linux_x86_64",
        address="local:",
        dialect_options={"python": sys.executable, "workdir": str(folder / "work"), **entry},
    )
    return _write_entry(folder, device)


def _write_entry(folder: Path, device: Device, pid: int = 0) -> Board:
    home = folder / "board home"
    home.mkdir(exist_ok=True)
    farm = home / "farm.toml"
    contact.write_device(farm, device)
    return Board(device=device, home=home, farm=farm, pid=pid)


@contextmanager
def board(
    folder: Path,
    mounts: str = "",
    *,
    config: str = SFTP,
    user: str = "root",
    environment: Mapping[str, str] | None = None,
    python: str = sys.executable,
    workdir: str | None = None,
    stock: str | None = None,
) -> Iterator[Board]:
    """Start an sshd with its own mounts; its work folder is `folder`/work.

    `mounts` is a script with {work}, {tree} and {key}, run by root in the namespace. `config` is
    put first in sshd_config; `stock` is a whole sshd_config after which only the port, the keys
    and no PAM are added in front.
    """
    if os.geteuid() != 0:
        missing("a server with its own mounts needs root")
    if sshd_path() is None or shutil.which("unshare") is None:
        missing("no sshd or no unshare")
    _folders(folder)
    port = free_port()
    keys = "/etc/ssh/board_keys" if user != "root" else f'"{folder / "client_key.pub"}"'
    lines = [
        f"Port {port}",
        "ListenAddress 127.0.0.1",
        f'HostKey "{folder / "host_key"}"',
        f"AuthorizedKeysFile {keys}",
        "PidFile none",
        "UsePAM no",
        "StrictModes no",
        "PermitRootLogin prohibit-password",
        "SetEnv " + shlex.join(f"{k}={v}" for k, v in _environment(environment).items()),
    ]
    text = "\n".join([config, *lines, stock or ""]).lstrip()
    (folder / "sshd_config").write_text(text)
    sshd = f"{sshd_path()} -D -e -f {shlex.quote(str(folder / 'sshd_config'))}"
    with _served(folder, mounts, sshd, port) as pid:
        yield _write_entry(folder, _device(folder, user, port, python, workdir), pid)


@contextmanager
def dropbear_board(folder: Path, mounts: str) -> Iterator[Board]:
    """Start dropbear with its own mounts; /root has only the login key, and Python if it is there."""
    dropbear = shutil.which("dropbear", path="/usr/sbin:/usr/bin")
    if os.geteuid() != 0 or dropbear is None:
        missing("dropbear needs root here, and: apt-get install dropbear-bin")
    _folders(folder)
    port = free_port()
    argv = ["dropbearkey", "-t", "ed25519", "-f", str(folder / "dropbear_key")]
    made = subprocess.run(argv, check=True, capture_output=True, text=True)
    (public,) = (line for line in made.stdout.splitlines() if line.startswith("ssh-ed25519 "))
    (folder / "host_key.pub").write_text(public)
    login = """
mkdir {tree}/python && mount --bind PREFIX {tree}/python
mount -t tmpfs -o mode=700 none /root
[ -e PREFIX ] || {{ mkdir -p PREFIX && mount --bind {tree}/python PREFIX; }}
mkdir -m 700 /root/.ssh && cp {key} /root/.ssh/authorized_keys
chmod 600 /root/.ssh/authorized_keys
"""
    login = login.replace("PREFIX", shlex.quote(sys.base_prefix))
    key = shlex.quote(str(folder / "dropbear_key"))
    server = f"{dropbear} -F -E -s -m -r {key} -P {folder}/pid -p 127.0.0.1:{port}"
    with _served(folder, login + mounts, server, port) as pid:
        yield _write_entry(folder, _device(folder, "root", port, "python3", None), pid)


def _folders(folder: Path) -> None:
    Path("/run/sshd").mkdir(mode=0o755, parents=True, exist_ok=True)
    for name in ("work", "tree"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for name in ("host_key", "client_key"):
        argv = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


@contextmanager
def _served(folder: Path, mounts: str, server: str, port: int) -> Iterator[int]:
    script = mounts.format(
        work=shlex.quote(str(folder / "work")),
        tree=shlex.quote(str(folder / "tree")),
        key=shlex.quote(str(folder / "client_key.pub")),
    )
    with (folder / "sshd.log").open("wb") as log:
        process = subprocess.Popen(
            ["unshare", "--mount", "sh", "-e", "-c", f"{script}\nexec {server}"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
    try:
        await_ssh(port, process, folder / "sshd.log")
        yield process.pid
    finally:
        process.terminate()
        process.wait(10)


def _device(folder: Path, user: str, port: int, python: str, workdir: str | None) -> Device:
    public = " ".join((folder / "host_key.pub").read_text().split()[:2])
    known = folder / "known_hosts"
    known.write_text(f"[127.0.0.1]:{port} {public}\n")
    return Device(
        name="faulty",
        profile="linux_x86_64",
        address=f"ssh://{user}@127.0.0.1:{port}",
        transport_options={"identity": str(folder / "client_key"), "known_hosts": str(known)},
        dialect_options={"python": python, "workdir": workdir or str(folder / "work")},
    )


def _environment(more: Mapping[str, str] | None) -> Mapping[str, str]:
    leases = {n: os.environ[n] for n in ("EDGE_HARNESS_LEASES",) if n in os.environ}
    return {"SHLVL": "1", **leases, **(more or {})}


def free_port() -> int:
    """Return a free port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def await_ssh(port: int, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until an SSH server answers on the port; the test is skipped if none does."""
    deadline = time.monotonic() + 10
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as probe:
            if probe.recv(4) == b"SSH-":
                return
        time.sleep(0.02)
    missing(f"no server with its own mounts: {log.read_text()}")


def _run(argv: Sequence[str], environment: Mapping[str, str], answer: str) -> str:
    person, terminal = os.openpty()
    try:
        os.write(person, answer.encode())
        reply = subprocess.run(
            argv,
            stdin=terminal if answer else subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_SECONDS,
            check=False,
            env=dict(environment),
        )
    finally:
        os.close(person)
        os.close(terminal)
    output = reply.stdout + reply.stderr
    assert reply.returncode in {0, *_ALLOWED.get(argv[-1].partition(" ")[0], ())}, output
    return output


_ALLOWED = {"edge-harness": (1,)}
"""`add` exits with 1 if the added device fails a check."""


def package_manager(folder: Path, name: str, provides: Mapping[str, str]) -> Path:
    """Write a stand-in for a package manager that really installs the requested package.

    `provides` maps each package to a shell script that installs it. The calls are logged in
    `folder`/NAME.log. Like the real one, it rejects misplaced options and unknown packages.
    """
    folder.mkdir(parents=True, exist_ok=True)
    program, log = folder / name, folder / f"{name}.log"
    cases = "\n".join(f"{shlex.quote(one)}) {script} ;;" for one, script in provides.items())
    program.write_text(
        f'#!/bin/sh\necho "$@" >> {shlex.quote(str(log))}\n'
        "[ \"$(id -u)\" = 0 ] || { echo 'are you root?' >&2; exit 100; }\n"
        f"verb={'install' * (name == 'pacman')}\n"
        'for argument; do\ncase "$argument" in -*) continue ;; esac\n'
        'if [ -z "$verb" ]; then verb=$argument; continue; fi\n'
        f'case "$argument" in\n{cases}\n'
        '*) echo "no package $argument" >&2; exit 100 ;;\nesac\ndone\n'
        'case "$verb" in install|add|update|"") ;; *) exit 2 ;; esac\n'
    )
    program.chmod(0o755)
    return log
