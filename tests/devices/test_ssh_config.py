"""What ssh_config and known_hosts say to `ssh` they say here: each case is tried with both."""

from __future__ import annotations

import base64
import codecs
import hashlib
import hmac
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from conftest import missing
from hypothesis import assume, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from harness.demo.loopback_sshd import SFTP, LoopbackSshd, available, loopback_sshd
from harness.devices import opening
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.devices.transports.ssh import known_hosts, settings
from harness.devices.transports.ssh.certificates import Certificate
from harness.devices.transports.ssh.connect import host_key
from harness.devices.transports.ssh.keys import trust
from harness.devices.transports.ssh.known_hosts import HostNames
from harness.devices.transports.ssh.settings import JumpHost
from harness.devices.transports.ssh.transport import open_ssh
from harness.errors import ConfigError, HarnessError, HostKeyUnknown, Unreachable
from harness.types import Device


def keygen(*arguments: str | Path) -> str:
    argv = ["ssh-keygen", "-q", *map(str, arguments)]
    made = subprocess.run(argv, check=True, capture_output=True, stdin=subprocess.DEVNULL)
    return made.stdout.decode()


def make_key(path: Path, kind: str = "ed25519") -> str:
    """Make a key; returns type and base64 of its public half."""
    keygen("-t", kind, "-N", "", "-f", path)
    return public(path)


def public(path: Path) -> str:
    return " ".join(Path(f"{path}.pub").read_text().split()[:2])


class Host:
    """The host `board` of an ssh_config, tried with `ssh` and with our transport."""

    def __init__(self, folder: Path, server: LoopbackSshd) -> None:
        self.folder = folder
        self.server = server
        self.known = folder / "known hosts"
        self.config = folder / "ssh_config"
        self.known_lines(f"[127.0.0.1]:{server.port} {server.host_key_public}")
        self.configure()

    def known_lines(self, *lines: str) -> None:
        self.known.write_text("\n".join(lines) + "\n")

    def configure(self, *lines: str, **changed: str) -> None:
        """Write the block of `board`: the lines first, then what every case needs."""
        usual = {
            "HostName": "127.0.0.1",
            "Port": str(self.server.port),
            "User": self.server.user,
            "IdentityFile": f'"{self.server.identity}"',
            "UserKnownHostsFile": f'"{self.known}"',
            "GlobalKnownHostsFile": "none",
            **changed,
        }
        text = ["Host board board-*", *lines]
        text += [f"{key} {value}" for key, value in usual.items() if value]
        self.config.write_text("\n".join(text) + "\n")

    @property
    def device(self) -> Device:
        options = {"ssh_config": str(self.config)}
        return Device(name="b", profile="p", address="ssh://board", transport_options=options)

    def works_with_ssh(self, name: str = "board") -> bool:
        argv = ["ssh", "-F", str(self.config), "-o", "BatchMode=yes", name, "true"]
        done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, check=False)
        return done.returncode == 0

    def error(self) -> str | None:
        """Return why our transport does not connect; None if it does."""
        try:
            transport = open_ssh(self.device)
        except HarnessError as error:
            return str(error)
        try:
            assert transport.run(["echo", "on"], 10.0).stdout == b"on\n"
        finally:
            transport.close()
        return None

    def works(self) -> None:
        assert self.works_with_ssh()
        assert self.error() is None

    def refused(self, reason: str) -> str:
        assert not self.works_with_ssh()
        error = self.error()
        assert error is not None
        assert reason in error
        return error


@pytest.fixture
def host(home: Path, tmp_path: Path, sshd: LoopbackSshd) -> Host:
    (tmp_path / "case").mkdir()
    return Host(tmp_path / "case", sshd)


# --- known_hosts ---------------------------------------------------------------------------------


def hashed(name: str) -> str:
    salt = os.urandom(20)
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return f"|1|{base64.b64encode(salt).decode()}|{base64.b64encode(digest).decode()}"


KNOWN = {
    "plain": ["{name} {key}"],
    "a comment, blank lines and spaces": ["# c", "", "  {name}\t{key} who@where  "],
    "without a port": ["127.0.0.1 {key}"],
    "a wildcard": ["[127.0.0.*]:* {key}"],
    "a question mark": ["[127.?.0.1]:{port} {key}"],
    "a list": ["other,{name},third {key}"],
    "a list with an exclusion of others": ["!other,[127.*]:{port} {key}"],
    "hashed": ["{hash} {key}"],
    "hashed without a port": ["{plainhash} {key}"],
    "an authority with tabs": ["@cert-authority\t*.corp.example\t{other}", "{name}\t{key}"],
    "an authority of others": ["@cert-authority *.corp.example {other}", "{name} {key}"],
    "a revoked key of others": ["@revoked * {other}", "{name} {key}"],
    "damaged lines": [
        "{name}",
        "{name} ssh-ed25519",
        "{name} ssh-ed25519 !!!!",
        "{name} ssh-rsa AAAAC3NzaC1lZDI1NTE5",
        "@unknown {name} {key}",
        "|1|zz {key}",
        "|2|a|b {key}",
        "{name} 1024 35 1234567",
        "\x00\xff\xfe",
        "{name} {key}",
    ],
    "an unknown type": ["{name} sk-new@example.org AAAA", "{name} {key}"],
    "a second key": ["{name} {other}", "{name} {key}"],
}

UNKNOWN = {
    "empty": [],
    "another host": ["[127.0.0.2]:{port} {key}"],
    "another port": ["[127.0.0.1]:1 {key}"],
    "excluded": ["[127.*]:*,!{name} {key}"],
    "excluded first": ["!{name},[127.*]:* {key}"],
    "brackets are no pattern": ["[127.0.0.[01]]:{port} {key}"],
    "only an authority": ["@cert-authority {name} {key}"],
    "only an exclusion": ["!other {key}"],
    "a hash of another": ["{otherhash} {key}"],
}


def lines_of(host: Host, templates: list[str]) -> list[str]:
    name = f"[127.0.0.1]:{host.server.port}"
    other = make_key(host.folder / "other")
    values = {
        "{name}": name,
        "{port}": str(host.server.port),
        "{key}": host.server.host_key_public,
        "{other}": other,
        "{hash}": hashed(name),
        "{plainhash}": hashed("127.0.0.1"),
        "{otherhash}": hashed("[127.0.0.2]:22"),
    }
    found = []
    for template in templates:
        line = template
        for key, value in values.items():
            line = line.replace(key, value)
        found.append(line)
    return found


@pytest.mark.parametrize("name", KNOWN)
def test_a_host_that_is_known(name: str, host: Host) -> None:
    host.known_lines(*lines_of(host, KNOWN[name]))
    host.works()


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_host_that_is_not_known(name: str, host: Host) -> None:
    host.known_lines(*lines_of(host, UNKNOWN[name]))
    host.refused("is not in")


def test_damaged_lines_are_named_if_the_key_is_not_found(host: Host) -> None:
    name = f"[127.0.0.1]:{host.server.port}"
    host.known_lines("# comment", f"{name} ssh-ed25519 damaged", f"{name}")
    assert f"(not readable: {host.known}:2, {host.known}:3)" in host.refused("is not in")


@pytest.mark.parametrize(
    "marked", ["@revoked {name} {key}", "@revoked * {key}", "@revoked  127.*,{name}\t{key} why"]
)
def test_a_revoked_key_is_refused_even_if_it_is_known(marked: str, host: Host) -> None:
    host.known_lines(*lines_of(host, ["{name} {key}", marked]))
    error = host.refused("REVOKED")
    assert f"{host.known}:2 (@revoked)" in error
    with pytest.raises(HostKeyUnknown, match="REVOKED"):
        host_key(host.device)


def test_a_list_of_revoked_keys(host: Host) -> None:
    other = make_key(host.folder / "other")
    revoked, krl = host.folder / "revoked", host.folder / "krl"
    revoked.write_text(f"{other}\n")
    host.configure(f'RevokedHostKeys "{revoked}"')
    host.works()
    revoked.write_text(f"{other}\n{host.server.host_key_public}\n")
    host.refused("(RevokedHostKeys)")
    keygen("-k", "-f", krl, f"{host.server.folder}/host_key.pub")
    host.configure(f'RevokedHostKeys "{krl}"')
    host.refused("(RevokedHostKeys)")
    host.configure(f'RevokedHostKeys "{host.folder}/none"')
    host.refused("cannot be checked")


def test_a_changed_key_and_the_command_that_forgets_it(host: Host) -> None:
    other = make_key(host.folder / "other")
    name = f"[127.0.0.1]:{host.server.port}"
    for line in (f"{name} {other}", f"{hashed(name)} {other}", f"x,{name} {other}"):
        host.known_lines(f"elsewhere {other}", line)
        error = host.refused("has CHANGED")
        assert f"{host.known}:2 has SHA256:" in error
        command = error.split("old line with `")[1].split("`")[0]
        subprocess.run(command, shell=True, check=True, capture_output=True)
        host.refused("is not in")


def test_several_files_and_the_global_one(host: Host) -> None:
    text = host.known.read_text()
    first, second = host.folder / "first", host.folder / "second one"
    second.write_text(text)
    host.configure(UserKnownHostsFile=f'"{first}" "{second}"')
    host.works()
    host.configure(UserKnownHostsFile="none", GlobalKnownHostsFile=f'{first} "{second}"')
    host.works()
    host.configure(UserKnownHostsFile="none")
    host.refused("is not in")


def test_tokens_in_the_name_of_a_file(host: Host) -> None:
    for name in ("known-127.0.0.1", "known-board", "al"):
        (host.folder / name).write_text(host.known.read_text().replace("[127.0.0.1]", "x"))
    (host.folder / "known-127.0.0.1").write_text(host.known.read_text())
    host.configure(UserKnownHostsFile=f'"{host.folder}/known-%h"')
    host.works()


def test_an_alias_is_the_only_name(host: Host) -> None:
    key = host.server.host_key_public
    host.configure("HostKeyAlias Fleet-7")
    host.refused("fleet-7: the host key")
    host.known_lines(f"fleet-7 {key}")
    host.works()
    host.known_lines(f"[fleet-7]:{host.server.port} {key}")
    host.refused("is not in")


def test_a_confirmed_key_is_found_again_under_its_alias(host: Host) -> None:
    host.configure("HostKeyAlias fleet-7", UserKnownHostsFile="none")
    seen = host_key(host.device)
    assert not seen.known
    trust(host.device, seen)
    assert host.error() is None


def test_five_thousand_hashed_lines_take_no_time(host: Host) -> None:
    key = host.server.host_key_public
    lines = [f"{hashed(f'host-{number}.example')} {key}" for number in range(5000)]
    host.known_lines(*lines, f"{hashed(f'[127.0.0.1]:{host.server.port}')} {key}")
    names = HostNames.of("127.0.0.1", host.server.port, None)
    began = time.process_time()
    keys, damaged = known_hosts.read(host.known, names)
    seconds = time.process_time() - began
    assert ([one.line for one in keys], damaged) == ([5001], [])
    # 13 s before; the bound leaves room for a slow machine.
    assert seconds < 1
    assert host.error() is None


@hypothesis_settings(deadline=None)
@given(st.lists(st.text("ab*?!.,", max_size=6), max_size=4), st.text("ab.", min_size=1, max_size=6))
def test_patterns_match_as_their_regular_expressions_do(patterns: list[str], name: str) -> None:
    import re

    def regex(pattern: str) -> str:
        return "".join({"*": ".*", "?": "."}.get(one, re.escape(one)) for one in pattern)

    text = ",".join(patterns)
    given_patterns = text.split(",")
    excluded = [one[1:] for one in given_patterns if one.startswith("!")]
    included = [one for one in given_patterns if one and not one.startswith("!")]
    wanted = any(re.fullmatch(regex(one), name) for one in included)
    wanted = wanted and not any(one and re.fullmatch(regex(one), name) for one in excluded)
    assert known_hosts.matches(name, text) == wanted


@hypothesis_settings(deadline=None)
@given(st.binary(max_size=400))
def test_any_file_can_be_read(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    assume(data[:2] not in {codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE})
    path = tmp_path_factory.getbasetemp() / "any known_hosts"
    path.write_bytes(data + b"\nboard ssh-ed25519 AAAAC3NzaC1lZDI1NTE5\n")
    keys, _ = known_hosts.read(path, HostNames.of("board", 22, None))
    assert keys[-1].type == "ssh-ed25519"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_known_hosts_of_any_editor(tmp_path: Path, encoding: str, end: str) -> None:
    path = tmp_path / "known_hosts"
    lines = ["board ssh-ed25519 AAAAC3NzaC1lZDI1NTE5", "board\tssh-rsa\tAAAAB3NzaC1yc2E=", ""]
    path.write_bytes(end.join(lines).encode(encoding))
    keys, damaged = known_hosts.read(path, HostNames.of("board", 22, None))
    assert [one.type for one in keys] == ["ssh-ed25519", "ssh-rsa"]
    assert damaged == []


# --- certificates of hosts -----------------------------------------------------------------------


@contextmanager
def certified(
    folder: Path, *options: str, kind: str = "ed25519", as_host: bool = True, key: str = "ed25519"
) -> Iterator[Host]:
    """Start an sshd whose host key has a certificate, made with these options of ssh-keygen."""
    if not available():
        missing("no sshd")
    folder.mkdir(exist_ok=True)
    make_key(folder / "ca", kind)
    make_key(folder / "certified", key)
    role = ["-h"] if as_host else []
    keygen("-s", folder / "ca", "-I", "board", *role, *options, folder / "certified.pub")
    extra = f'{SFTP}\nHostKey "{folder}/certified"\nHostCertificate "{folder}/certified-cert.pub"'
    with loopback_sshd(folder / "server", extra=extra) as server:
        yield Host(folder, server)


@pytest.mark.parametrize(
    ("kind", "key"), [("ed25519", "ed25519"), ("rsa", "rsa"), ("ecdsa", "ecdsa"), ("rsa", "ecdsa")]
)
def test_a_host_with_a_certificate_of_an_authority(
    home: Path, tmp_path: Path, kind: str, key: str
) -> None:
    with certified(tmp_path / "c", "-n", "other,127.0.0.1", kind=kind, key=key) as host:
        host.known_lines(f"@cert-authority [127.0.0.*]:* {public(host.folder / 'ca')}")
        host.works()
        assert host_key(host.device).known
        host.known_lines(f"@cert-authority *.corp.example {public(host.folder / 'ca')}")
        host.refused("is not in")


@pytest.mark.parametrize(
    ("options", "as_host", "fault"),
    [
        (["-n", "elsewhere"], True, "it is for elsewhere, not for 127.0.0.1"),
        (["-n", "127.0.0.1", "-V", "20200101:20200201"], True, "it has expired"),
        (["-n", "127.0.0.1", "-V", "20990101:20990201"], True, "it is not valid yet"),
    ],
)
def test_a_certificate_that_is_not_valid(
    home: Path, tmp_path: Path, options: list[str], as_host: bool, fault: str
) -> None:
    with certified(tmp_path / "c", *options, as_host=as_host) as host:
        host.known_lines(f"@cert-authority * {public(host.folder / 'ca')}")
        assert fault in host.refused("its certificate is not accepted")
        # As in OpenSSH, the key itself may still be known.
        host.known_lines(host.known.read_text(), f"127.0.0.1 {public(host.folder / 'certified')}")
        host.works()


def test_a_certificate_of_a_revoked_authority(home: Path, tmp_path: Path) -> None:
    with certified(tmp_path / "c", "-n", "127.0.0.1") as host:
        authority = public(host.folder / "ca")
        host.known_lines(f"@cert-authority * {authority}", f"@revoked * {authority}")
        host.refused("REVOKED")
        host.known_lines(
            f"@cert-authority * {authority}", f"@revoked * {public(host.folder / 'certified')}"
        )
        host.refused("REVOKED")


def test_a_certificate_for_an_alias(home: Path, tmp_path: Path) -> None:
    with certified(tmp_path / "c", "-n", "fleet-7") as host:
        host.configure("HostKeyAlias fleet-7")
        host.known_lines(f"@cert-authority fleet-* {public(host.folder / 'ca')}")
        host.works()


@hypothesis_settings(deadline=None)
@given(st.binary(max_size=300), st.integers(0, 200))
def test_any_certificate_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "certificates"
    if not folder.exists():
        folder.mkdir()
        make_key(folder / "ca")
        make_key(folder / "key")
        keygen("-s", folder / "ca", "-I", "x", "-h", "-n", "board", folder / "key.pub")
    blob = base64.b64decode((folder / "key-cert.pub").read_text().split()[1])
    assert Certificate.read(blob).fault("board") is None
    assert Certificate.read(blob).fault("elsewhere") is not None
    for damaged in (noise, blob[:at] + noise, blob[:at] + noise + blob[at + len(noise) :]):
        if damaged == blob:
            continue
        try:
            found = Certificate.read(damaged)
        except ValueError:
            continue
        assert found.fault("board") is not None


# --- ssh_config ----------------------------------------------------------------------------------


def test_included_files_and_match(host: Host) -> None:
    block = host.config.read_text()
    (host.folder / "part one.conf").write_text(block)
    host.config.write_text(f'Include "{host.folder}/part*.conf"\n')
    host.works()
    marker = host.folder / "ran"
    host.config.write_text(
        f"Match originalhost board exec \"touch '{marker}'\"\n" + block.partition("\n")[2]
    )
    host.works()
    marker.unlink()
    # As with `ssh`, resolving the address runs the command.
    settings.resolve(host.device, JumpHost(host="board"))
    assert marker.exists()


def test_patterns_negation_and_the_first_value_counts(host: Host) -> None:
    block = host.config.read_text()
    host.config.write_text(f"Host !board *\nPort 1\n{block}\nHost *\nPort 2\nUser nobody\n")
    host.works()


def test_a_canonical_name(host: Host) -> None:
    host.config.write_text(
        "CanonicalizeHostname yes\nCanonicalDomains no-such.invalid\n" + host.config.read_text()
    )
    # HostName is an address, which needs no domain.
    host.works()
    host.config.write_text(
        "Host *\nCanonicalizeHostname always\nCanonicalDomains a.invalid\n"
        "CanonicalizeFallbackLocal no\n"
    )
    host.refused("the name cannot be resolved")


@pytest.mark.parametrize("name", ["%h", "%n", "%p", "%r", "%u", "%L", "%%", "${KEY_NAME}"])
def test_tokens_in_an_identity(name: str, host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEY_NAME", "from the environment")
    import getpass

    folder = host.folder / "keys"
    values = {
        "%h": "127.0.0.1",
        "%n": "board",
        "%p": str(host.server.port),
        "%r": host.server.user,
        "%u": getpass.getuser(),
        "%L": socket.gethostname().partition(".")[0],
        "%%": "%",
        "${KEY_NAME}": "from the environment",
    }
    folder.mkdir()
    path = folder / f"id {values[name]}"
    path.write_bytes(host.server.identity.read_bytes())
    path.chmod(0o600)
    host.configure(IdentityFile=f'"{folder}/id {name}"')
    host.works()


def test_a_variable_that_is_not_set(host: Host) -> None:
    host.configure(IdentityFile="/tmp/${EDGE_NOT_SET}")
    host.refused("EDGE_NOT_SET")


def test_a_bad_option_is_named_with_its_line(host: Host) -> None:
    host.configure("Nonsense yes")
    error = host.refused("ssh_config cannot be read")
    assert "line 2" in error
    assert "nonsense" in error
    host.config.write_text("IgnoreUnknown Nonsense\n" + host.config.read_text())
    host.works()


def test_a_jump_host_and_a_chain(host: Host, tmp_path: Path) -> None:
    with loopback_sshd(tmp_path / "one") as one, loopback_sshd(tmp_path / "two") as two:
        known = [host.known.read_text().strip()]
        known += [f"[127.0.0.1]:{jump.port} {jump.host_key_public}" for jump in (one, two)]
        host.known_lines(*known)
        blocks = "".join(
            f"\nHost {name}\nHostName 127.0.0.1\nPort {jump.port}\nUser {jump.user}\n"
            f'IdentityFile "{jump.identity}"\nUserKnownHostsFile "{host.known}"\n'
            for name, jump in (("one", one), ("two", two))
        )
        for value in ("one", "one,two", f"{one.user}@one:{one.port}", f"ssh://one:{one.port}"):
            host.configure(f"ProxyJump {value}")
            host.config.write_text(host.config.read_text() + blocks)
            host.works()
        assert [hop.name for hop in settings.route(host.device, JumpHost(host="board"))] == [
            "one",
            "board",
        ]
        host.known_lines(*known[:2])
        host.configure("ProxyJump two,one")
        host.config.write_text(host.config.read_text() + blocks)
        assert f"[127.0.0.1]:{two.port}: the jump host key" in host.refused("is not in")


def test_a_circle_of_jump_hosts(host: Host) -> None:
    host.config.write_text("Host board\nProxyJump other\nHost other\nProxyJump third\n")
    host.config.write_text(host.config.read_text() + "Host third\nProxyJump other\n")
    with pytest.raises(ConfigError, match="circle of jump hosts"):
        open_ssh(host.device)


def test_a_proxy_command_with_quotes_and_pipes(host: Host) -> None:
    relay = host.folder / "a relay.py"
    relay.write_text(
        "import os, socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    host.configure(f'ProxyCommand sh -c \'"{sys.executable}" "$0" %h %p | cat\' "{relay}"')
    host.works()
    host.configure("ProxyCommand sh -c 'echo no way there >&2; exit 1' %h")
    error = host.refused("through ProxyCommand")
    assert "no way there" in error
    host.configure("ProxyCommand none", "ProxyJump none")
    host.works()


def test_a_proxy_command_ends_with_the_connection(host: Host) -> None:
    host.configure(f"ProxyCommand echo $$ > '{host.folder}/pid'; sleep 60")
    host.configure(
        f"ProxyCommand sh -c 'echo $$ > \"{host.folder}/pid\"; exec sleep 60'", "ConnectTimeout 1"
    )
    with pytest.raises(Unreachable, match="through ProxyCommand"):
        open_ssh(host.device)
    pid = int((host.folder / "pid").read_text())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_settings_that_are_not_used_are_named(host: Host) -> None:
    host.configure(
        "SetEnv FOO=1", "KnownHostsCommand /bin/false", "StrictHostKeyChecking no", "SendEnv LANG"
    )
    transport = open_ssh(host.device)
    found = ", ".join(transport.unused_settings)
    transport.close()
    for one in ("SetEnv FOO=1", "KnownHostsCommand /bin/false", "StrictHostKeyChecking false"):
        assert one in found
    assert "SendEnv" not in found
    host.known_lines()
    assert "Not used of ssh_config: " in str(host.error())
    host.configure("ForwardAgent yes", "ServerAliveInterval 5", "Compression yes")
    host.known_lines(f"[127.0.0.1]:{host.server.port} {host.server.host_key_public}")
    transport = open_ssh(host.device)
    assert transport.unused_settings == ()
    transport.close()


def test_without_openssh_what_cannot_be_read_is_refused_by_name(
    host: Host, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert host.error() is None
    part = host.folder / "part"
    part.write_text(host.config.read_text())
    host.config.write_text(f"Include {part}\n")
    assert f"has `Include {part}`, which is read only if OpenSSH" in str(host.error())
    host.config.write_text("Include /no/such/file\n" + part.read_text())
    assert host.error() is None


def test_the_files_of_home_count(host: Host, home: Path) -> None:
    """OpenSSH takes the home folder from the account; HOME comes first here, as in every other file."""
    (home / ".ssh").mkdir()
    (home / ".ssh" / "known_hosts").write_text(host.known.read_text())
    (home / ".ssh" / "id_ed25519").write_bytes(host.server.identity.read_bytes())
    (home / ".ssh" / "id_ed25519").chmod(0o600)
    (home / ".ssh" / "config").write_text(
        f"Host board\nHostName 127.0.0.1\nPort {host.server.port}\nUser {host.server.user}\n"
    )
    open_ssh(Device(name="b", profile="p", address="ssh://board")).close()


@pytest.mark.parametrize(
    ("address", "lines", "name"),
    [
        ("ssh://pi@board", ["User other"], "edge-harness-pi"),
        ("ssh://board", ["User other"], "edge-harness-other"),
        ("ssh://board", ['User "LAB\\\\ann marie"'], "edge-harness-LAB_ann_marie"),
    ],
)
def test_the_default_work_folder_is_one_per_account(
    host: Host, address: str, lines: list[str], name: str
) -> None:
    host.configure(*lines, User="")
    device = Device(
        name="b",
        profile="p",
        address=address,
        transport_options={"ssh_config": str(host.config)},
    )
    settings._user.cache_clear()
    assert opening.workdir(device) == f"/var/tmp/{name}"
    assert AgentOptions.of(device).workdir == f"/var/tmp/{name}"
    named = opening.with_options(device, workdir="/var/tmp/edge-harness")
    assert AgentOptions.of(named).workdir == "/var/tmp/edge-harness"


# --- keys ----------------------------------------------------------------------------------------


NO_KEYS = 1
"""Exit code of `ssh-add -l` for an agent without keys; 2 is no agent."""


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Start SSH agents that hold these keys."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(*keys: Path) -> Path:
        sock = tmp_path / f"agent-{len(processes)}"
        process = subprocess.Popen(
            ["ssh-agent", "-D", "-a", str(sock)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        processes.append(process)
        environment = {**os.environ, "SSH_AUTH_SOCK": str(sock)}
        deadline = time.monotonic() + 10
        # Its socket exists a moment before it listens.
        while time.monotonic() < deadline:
            argv = ["ssh-add", "-l"]
            done = subprocess.run(argv, check=False, env=environment, capture_output=True)
            if done.returncode == NO_KEYS:
                break
            time.sleep(0.01)
        if keys:
            argv = ["ssh-add", "-q", *map(str, keys)]
            subprocess.run(argv, check=True, env=environment, capture_output=True)
        return sock

    yield start
    for process in processes:
        process.terminate()
        process.wait(10)


def test_an_agent_of_ssh_config(
    host: Host, agent: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    holds, empty = agent(host.server.identity), agent()
    host.configure(f'IdentityAgent "{holds}"', IdentityFile="none")
    host.works()
    monkeypatch.setenv("SSH_AUTH_SOCK", str(holds))
    host.configure(IdentityFile="none")
    host.works()
    host.configure("IdentityAgent SSH_AUTH_SOCK", IdentityFile="none")
    host.works()
    monkeypatch.setenv("OTHER_AGENT", str(holds))
    for value in ("$OTHER_AGENT", "${OTHER_AGENT}"):
        host.configure(f"IdentityAgent {value}", IdentityFile="none")
        host.works()
    for value in ("none", str(empty)):
        host.configure(f'IdentityAgent "{value}"', IdentityFile="none")
        assert "keys tried: none" in host.refused("refused the login")
    host.configure('IdentityAgent "/no/such/agent"', IdentityFile="none")
    assert "the keys of the agent at /no/such/agent (" in host.refused("refused the login")


def test_only_the_named_key_of_an_agent(host: Host, agent: Callable[..., Path]) -> None:
    others = [host.folder / f"other-{number}" for number in range(7)]
    for other in others:
        make_key(other)
    named = host.folder / "named.pub"
    named.write_text(f"{public(host.server.identity)}\n")
    sock = agent(*others, host.server.identity)
    # With seven other keys first, the server would close the connection (MaxAuthTries).
    host.configure(f'IdentityAgent "{sock}"', "IdentitiesOnly yes", IdentityFile=f'"{named}"')
    host.works()
    host.configure(f'IdentityAgent "{sock}"', IdentityFile=f'"{named}"')
    host.works()


def test_an_encrypted_key_that_the_agent_holds(host: Host, agent: Callable[..., Path]) -> None:
    others = [host.folder / f"other-{number}" for number in range(7)]
    for other in others:
        make_key(other)
    locked = host.folder / "locked"
    locked.write_bytes(host.server.identity.read_bytes())
    locked.chmod(0o600)
    sock = agent(*others, locked)
    keygen("-p", "-P", "", "-N", "secret", "-f", locked)
    # Without a .pub file: OpenSSH reads the public half of the private file.
    host.configure(f'IdentityAgent "{sock}"', "IdentitiesOnly yes", IdentityFile=f'"{locked}"')
    host.works()


def test_keys_that_were_not_offered_are_not_listed_as_tried(
    host: Host, agent: Callable[..., Path]
) -> None:
    others = [host.folder / f"other-{number}" for number in range(9)]
    for other in others:
        make_key(other)
    locked = host.folder / "it is locked"
    keygen("-t", "ed25519", "-N", "secret", "-f", locked)
    lines = [f'IdentityFile "{one}"' for one in (locked, *others, host.folder / "gone")]
    host.configure(*lines, IdentityFile="")
    error = host.refused("refused the login")
    tried = error.partition("keys tried: ")[2].partition("; not tried: ")
    assert [one.strip() for one in tried[0].split(",")] == [str(one) for one in others[:6]]
    assert f"{locked} (encrypted: `ssh-add '{locked}'`)" in tried[2]
    assert f"{others[6]} (the server had closed the connection)" in tried[2]
    assert f"{host.folder / 'gone'} (missing)" in tried[2]
    assert "MaxAuthTries" in error


def test_a_key_with_a_certificate(home: Path, tmp_path: Path) -> None:
    make_key(tmp_path / "ca")
    make_key(tmp_path / "key")
    keygen("-s", tmp_path / "ca", "-I", "me", "-n", "root,pi,me", tmp_path / "key.pub")
    elsewhere = tmp_path / "elsewhere-cert.pub"
    (tmp_path / "key-cert.pub").rename(elsewhere)
    extra = f'{SFTP}\nTrustedUserCAKeys "{tmp_path}/ca.pub"\nAuthorizedPrincipalsFile none'
    with loopback_sshd(tmp_path / "server", extra=extra) as server:
        keygen("-s", tmp_path / "ca", "-I", "me", "-n", server.user, tmp_path / "key.pub")
        (tmp_path / "key-cert.pub").rename(elsewhere)
        (tmp_path / "case").mkdir()
        host = Host(tmp_path / "case", server)
        host.configure(IdentityFile=str(tmp_path / "key"))
        host.refused("refused the login")
        host.configure(f"CertificateFile {elsewhere}", IdentityFile=str(tmp_path / "key"))
        host.works()
        elsewhere.rename(tmp_path / "key-cert.pub")
        host.configure(IdentityFile=str(tmp_path / "key"))
        host.works()


def test_options_of_the_farm_come_before_ssh_config(host: Host) -> None:
    wrong = host.folder / "wrong"
    make_key(wrong)
    host.configure(IdentityFile=str(wrong))
    host.refused("refused the login")
    device = opening.with_options(host.device, identity=str(host.server.identity))
    open_ssh(device).close()
    with suppress(FileNotFoundError):
        assert not (host.folder / "home" / ".ssh").exists()
