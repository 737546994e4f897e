"""The settings of ssh_config for one host, and the way to it over jump hosts.

OpenSSH's own `ssh -G` resolves them, so that `Include`, `Match`, `CanonicalizeHostname` and patterns
mean what they mean to `ssh`. Like `ssh`, it runs the commands of `Match exec`. Without OpenSSH on this
host, paramiko reads the files; what it cannot read is refused by name.
"""

from __future__ import annotations

import functools
import getpass
import hashlib
import os
import re
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from harness.addresses import without_password
from harness.devices.transports.ssh.options import SshOptions
from harness.errors import ConfigError, Unreachable
from harness.types import Device

Values = Mapping[str, tuple[str, ...]]
"""Every keyword in lower case, with its values."""

_SECONDS = 30.0
_MAX_JUMPS = 8
_PORT = 22
_NONE = "none"
_SYSTEM = Path("/etc/ssh/ssh_config")
_SYSTEM_HOSTS = ("/etc/ssh/ssh_known_hosts", "/etc/ssh/ssh_known_hosts2")
_USER_HOSTS = ("~/.ssh/known_hosts", "~/.ssh/known_hosts2")
_DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ecdsa_sk", "id_ed25519", "id_ed25519_sk")
_FAMILIES = {"inet": socket.AF_INET, "inet6": socket.AF_INET6}

_USED_TEXT = (
    "host match hostname user port connecttimeout addressfamily bindaddress hostkeyalias "
    "userknownhostsfile globalknownhostsfile revokedhostkeys identityfile certificatefile "
    "identitiesonly identityagent proxycommand proxyjump include canonicalizehostname "
    "canonicaldomains canonicalizemaxdots canonicalizefallbacklocal canonicalizepermittedcnames "
    "ignoreunknown"
)
_USED = frozenset(_USED_TEXT.split())
"""Keywords that this transport honours, in lower case."""

_WITHOUT_EFFECT_TEXT = (
    "addkeystoagent batchmode checkhostip clearallforwardings compression connectionattempts "
    "controlpersist dynamicforward enableescapecommandline enablesshkeysign escapechar "
    "exitonforwardfailure fingerprinthash forkafterauthentication forwardagent forwardx11 "
    "forwardx11timeout forwardx11trusted gatewayports gssapiauthentication "
    "gssapidelegatecredentials gssapikeyexchange gssapikexalgorithms gssapirenewalforcesrekey "
    "gssapitrustdns hashknownhosts hostbasedacceptedalgorithms hostbasedauthentication ipqos "
    "kbdinteractiveauthentication localforward logverbose loglevel numberofpasswordprompts "
    "obscurekeystroketiming passwordauthentication permitremoteopen rekeylimit remoteforward "
    "requesttty serveralivecountmax serveraliveinterval sessiontype stdinnull streamlocalbindmask "
    "streamlocalbindunlink syslogfacility tag tcpkeepalive tunnel tunneldevice updatehostkeys "
    "visualhostkey xauthlocation channeltimeout"
)
_WITHOUT_EFFECT = frozenset(_WITHOUT_EFFECT_TEXT.split())
"""Keywords about what this transport does not do (terminals, forwarding, passwords), or does itself."""

_ORDINARY = {
    # Debian's system-wide file sends the locale; commands here always run with the device's own.
    "sendenv": re.compile(r"(LANG|LC_\*|LANGUAGE|COLORTERM|NO_COLOR|\s)*"),
    "stricthostkeychecking": re.compile("ask|yes|true"),
    "controlmaster": re.compile("no|false"),
    "pubkeyauthentication": re.compile("yes|true"),
    "controlpath": re.compile(_NONE),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings:
    """What ssh_config says about one host."""

    name: str
    """The name in the address, or in `ProxyJump`."""
    host: str
    user: str
    port: int
    connect_timeout_seconds: float | None = None
    family: int = socket.AF_UNSPEC
    bind_address: str | None = None
    host_key_alias: str | None = None
    known_hosts: tuple[Path, ...] = ()
    """`UserKnownHostsFile`, then `GlobalKnownHostsFile`."""
    revoked_host_keys: Path | None = None
    identities: tuple[Path, ...] = ()
    has_default_identities: bool = False
    """Whether `identities` are OpenSSH's defaults, of which most do not exist."""
    certificates: tuple[Path, ...] = ()
    identities_only: bool = False
    agent: Path | None = None
    """The socket of the SSH agent; None for no agent."""
    proxy_command: str | None = None
    proxy_jump: tuple[str, ...] = ()
    unused: tuple[str, ...] = ()
    """Settings that this transport does not honour: `SetEnv FOO=1`."""

    @property
    def label(self) -> str:
        """`user@host:port`."""
        return f"{self.user}@{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class JumpHost:
    """One host of `ProxyJump`, or the host of an address."""

    host: str
    user: str | None = None
    port: int | None = None


def parse(device: Device) -> JumpHost:
    """Read a device's address; raises ConfigError with the device and the expected form."""
    form = "ssh://user@host:port"
    address, name = device.address, device.name
    shown = without_password(address)
    try:
        parts = urlsplit(address)
        port = parts.port
    except ValueError:
        # The message of urlsplit may contain part of a password with a slash or a colon.
        raise ConfigError(f'{name}: address "{shown}": no port or host; write {form}') from None
    if parts.scheme != "ssh" or not parts.hostname:
        raise ConfigError(f'{name}: address "{shown}" is not of the form {form}')
    if parts.password is not None:
        message = f"{name}: no password in an address; run `ssh-copy-id` once, then write {form}"
        raise ConfigError(message)
    if parts.path.strip("/") or parts.query or parts.fragment:
        raise ConfigError(f'{name}: address "{shown}" has more than {form}')
    host = parts.netloc.rpartition("@")[2]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    user = unquote(parts.username) if parts.username else None
    return JumpHost(host=unquote(host), user=user, port=port)


def account(device: Device) -> str:
    """Return the account that logs in to a device; raises as `resolve` does."""
    target = parse(device)
    return target.user or _user(target.host, target.port, SshOptions.of(device).ssh_config)


@functools.lru_cache(maxsize=64)
def _user(host: str, port: int | None, ssh_config: Path | None) -> str:
    options = {"ssh_config": str(ssh_config)} if ssh_config else {}
    device = Device(name=host, profile="", address="ssh:", transport_options=options)
    return resolve(device, JumpHost(host=host, port=port)).user


def route(device: Device, target: JumpHost) -> tuple[HostSettings, ...]:
    """Return the settings of every host on the way, the jump hosts first, the target last.

    Raises ConfigError for an ssh_config that cannot be read or has a circle of jump hosts, and
    Unreachable for a name that OpenSSH cannot make canonical.
    """
    return _route(device, target, depth=0)


def _route(device: Device, target: JumpHost, depth: int) -> tuple[HostSettings, ...]:
    if depth > _MAX_JUMPS:
        message = f"{device.name}: ssh_config has a circle of jump hosts for {target.host}"
        raise ConfigError(message)
    here = resolve(device, target)
    jumps = [_jump_host(device, one) for one in here.proxy_jump]
    # Under `Host *` a jump host is its own jump host.
    jumps = [one for one in jumps if one.host not in {here.name, here.host}]
    if not jumps:
        return (here,)
    # As with `ssh -J`: only the first one is reached by its own settings.
    first = _route(device, jumps[0], depth + 1)
    rest = (resolve(device, one) for one in jumps[1:])
    behind = (replace(one, proxy_command=None, proxy_jump=()) for one in (*rest, here))
    return (*first, *behind)


def _jump_host(device: Device, text: str) -> JumpHost:
    """Read `[user@]host[:port]` or `ssh://[user@]host[:port]`; raises ConfigError."""
    plain = text.strip().removeprefix("ssh://").rstrip("/")
    user, _, where = plain.rpartition("@")
    form = re.fullmatch(
        r"\[(?P<v6>[^\]]+)\](:(?P<p6>\d+))?|(?P<host>[^:]+)(:(?P<port>\d+))?", where
    )
    if form is None and ":" in where:
        form = re.fullmatch(r"(?P<v6>[0-9a-fA-F:]+)(?P<p6>)(?P<host>)(?P<port>)", where)
    if form is None:
        raise ConfigError(f"{device.name}: ssh_config: ProxyJump {text!r} is not user@host:port")
    port = form["p6"] or form["port"]
    return JumpHost(
        host=form["v6"] or form["host"], user=user or None, port=int(port) if port else None
    )


def resolve(device: Device, target: JumpHost) -> HostSettings:
    """Return the settings of one host; raises ConfigError, and Unreachable as `route` does."""
    given = SshOptions.of(device).ssh_config
    path = given.expanduser() if given else None
    if path is not None and not path.is_file():
        raise ConfigError(f"{device.name}: ssh_config {path} does not exist")
    values = _by_openssh(device, target, path)
    if values is None:
        values = _by_paramiko(device, target, path)
    return _settings(device, target, values)


def _by_openssh(device: Device, target: JumpHost, path: Path | None) -> Values | None:
    """Ask `ssh -G`; None if this host has no OpenSSH, or if it knows no account of this user."""
    ssh = shutil.which("ssh")
    if ssh is None:
        return None
    files, text = _files(path)
    argv = [ssh, "-T", "-G", *files]
    argv += ["-p", str(target.port)] if target.port else []
    argv += ["-l", target.user] if target.user else []
    for more in ((), ("-o", "ProxyJump=none")):
        reply = _run(device, [*argv, *more, "--", target.host], text)
        errors = reply.stderr.decode(errors="replace")
        if reply.returncode == 0:
            return _read(reply.stdout.decode("utf-8", "surrogateescape"))
        if "jumphost loop" not in errors:
            break
    if "No user exists" in errors:
        return None
    lines = [line for line in errors.splitlines() if "terminating," not in line]
    reason = "; ".join(line for line in lines if "Pseudo-terminal" not in line)
    if "Could not resolve host" in reason:
        raise Unreachable(f"{device.name}: the name cannot be resolved ({reason})")
    raise ConfigError(f"{device.name}: ssh_config cannot be read for {target.host}: {reason}")


def _run(device: Device, argv: Sequence[str], text: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(
            argv, input=text.encode(), capture_output=True, timeout=_SECONDS, check=False
        )
    except subprocess.TimeoutExpired as error:
        message = (
            f"{device.name}: `ssh -G` did not end within {_SECONDS:.0f} s; does a `Match exec` of "
            "ssh_config wait?"
        )
        raise ConfigError(message) from error
    except OSError as error:
        raise ConfigError(f"{device.name}: {argv[0]} cannot be run: {error.strerror}") from error


def _files(path: Path | None) -> tuple[list[str], str]:
    """Return the options of ssh for the files to read, and its stdin.

    OpenSSH takes the home folder from the account, whatever HOME says. If they differ, HOME counts.
    """
    if path is not None:
        return ["-F", str(path)], ""
    if Path.home() == _account_home():
        return [], ""
    files = (Path.home() / ".ssh" / "config", _SYSTEM)
    lines = [f'Include "{file}"\n' for file in files if file.is_file()]
    return ["-F", "/dev/stdin"], "".join(lines)


def _account_home() -> Path | None:
    import pwd

    with suppress(KeyError):
        return Path(pwd.getpwuid(os.getuid()).pw_dir)
    return None


@functools.lru_cache(maxsize=1)
def _defaults() -> Values:
    """Return what `ssh -G` says without any configuration."""
    ssh = shutil.which("ssh")
    if ssh is None:
        return {}
    argv = [ssh, "-T", "-G", "-F", _NONE, "--", "localhost"]
    reply = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False
    )
    return _read(reply.stdout.decode(errors="replace"))


def _read(text: str) -> Values:
    found: dict[str, tuple[str, ...]] = {}
    for line in text.splitlines():
        keyword, _, value = line.partition(" ")
        keyword = keyword.lower()
        found[keyword] = (*found.get(keyword, ()), value)
    return found


def _by_paramiko(device: Device, target: JumpHost, path: Path | None) -> Values:
    """Let paramiko read the files; raises ConfigError for what only OpenSSH reads."""
    import paramiko

    files = [path] if path else [Path.home() / ".ssh" / "config", _SYSTEM]
    config = paramiko.SSHConfig()
    for file in files:
        if not file.is_file():
            continue
        _refuse_include(device, file)
        try:
            with file.open(encoding="utf-8") as lines:
                config.parse(lines)
        except (paramiko.SSHException, OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"{device.name}: ssh_config cannot be read: {error}") from error
    try:
        found: dict[str, Any] = dict(config.lookup(target.host))
    except (paramiko.SSHException, KeyError, ValueError) as error:
        raise ConfigError(f"{device.name}: ssh_config cannot be read: {error}") from error
    if target.user:
        found["user"] = target.user
    if target.port:
        found["port"] = str(target.port)
    # paramiko's None is `none`.
    return {
        key: tuple(one) if isinstance(one, list) else (_NONE if one is None else str(one),)
        for key, one in found.items()
    }


def _refuse_include(device: Device, file: Path) -> None:
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        found = re.match(r"\s*include[\s=]+(.+)", line, re.IGNORECASE)
        names = found[1].replace('"', " ").split() if found else []
        for name in names:
            folder = "/etc/ssh" if file == _SYSTEM else "~/.ssh"
            pattern = Path(folder).expanduser() / Path(name).expanduser()
            if any(Path("/").glob(str(pattern).lstrip("/"))):
                raise ConfigError(
                    f"{device.name}: {file} has `Include {name}`, which is read only if OpenSSH's "
                    "`ssh` is installed on this host (`sudo apt-get install openssh-client`)"
                )


def _settings(device: Device, target: JumpHost, values: Values) -> HostSettings:
    first = {key: given[0] for key, given in values.items()}
    host = first.get("hostname", target.host)
    user = first.get("user") or getpass.getuser()
    port = int(first.get("port") or _PORT)
    alias = _given(first.get("hostkeyalias"))
    jump = _given(first.get("proxyjump")) or ""
    tokens = _tokens(target.host, {"h": host, "p": str(port), "r": user}, alias, jump)
    expand = functools.partial(_expand, device, tokens)
    identities = _paths(values.get("identityfile", ()), expand)
    defaults = tuple(Path.home() / ".ssh" / name for name in _DEFAULT_KEYS)
    is_default = set(defaults) <= set(identities) or "identityfile" not in values
    return HostSettings(
        name=target.host,
        host=host,
        user=user,
        port=port,
        connect_timeout_seconds=_number(first.get("connecttimeout")),
        family=_FAMILIES.get(first.get("addressfamily", ""), socket.AF_UNSPEC),
        bind_address=_given(first.get("bindaddress")),
        host_key_alias=alias,
        known_hosts=(
            *_host_files(first.get("userknownhostsfile"), _USER_HOSTS, expand),
            *_host_files(first.get("globalknownhostsfile"), _SYSTEM_HOSTS, expand),
        ),
        revoked_host_keys=next(iter(_paths(values.get("revokedhostkeys", ()), expand)), None),
        identities=defaults if is_default else identities,
        has_default_identities=is_default,
        certificates=_paths(values.get("certificatefile", ()), expand),
        identities_only=first.get("identitiesonly", "no") in {"yes", "true"},
        agent=_agent(first.get("identityagent"), expand),
        proxy_command=_proxy(first.get("proxycommand"), expand),
        proxy_jump=tuple(expand(one) for one in jump.split(",") if one),
        unused=_unused(values),
    )


def _unused(values: Values) -> tuple[str, ...]:
    """List the settings that have an effect on `ssh` and none here."""
    usual = _defaults()
    found = []
    for keyword, given in values.items():
        if keyword in _USED or keyword in _WITHOUT_EFFECT or usual.get(keyword) == given:
            continue
        text = " ".join(given)
        ordinary = _ORDINARY.get(keyword)
        if not (ordinary and ordinary.fullmatch(text)):
            found.append(f"{_spelled(keyword)} {text[:60]}".rstrip())
    return tuple(found)


_SPELLED_TEXT = (
    "BindInterface CASignatureAlgorithms Ciphers ControlMaster ControlPath HostKeyAlgorithms "
    "KexAlgorithms KnownHostsCommand LocalCommand MACs NoHostAuthenticationForLocalhost "
    "PKCS11Provider PermitLocalCommand PreferredAuthentications ProxyUseFdpass "
    "PubkeyAcceptedAlgorithms PubkeyAuthentication RemoteCommand RequiredRSASize "
    "SecurityKeyProvider SendEnv SetEnv StrictHostKeyChecking VerifyHostKeyDNS"
)
_SPELLED = {one.lower(): one for one in _SPELLED_TEXT.split()}


def _spelled(keyword: str) -> str:
    return _SPELLED.get(keyword, keyword)


def _given(value: str | None) -> str | None:
    return None if value is None or value.lower() == _NONE or not value else value


def _number(value: str | None) -> float | None:
    return float(value) if value and value.isdigit() and int(value) else None


def _paths(values: Iterable[str], expand: Callable[[str], str]) -> tuple[Path, ...]:
    return tuple(Path(expand(one)) for one in values if _given(one))


def _host_files(
    value: str | None, usual: Sequence[str], expand: Callable[[str], str]
) -> tuple[Path, ...]:
    """Split a list of files. `ssh -G` prints names with spaces without quotes."""
    if value is None:
        return tuple(Path(expand(one)) for one in usual)
    if _given(value) is None:
        return ()
    account, home = _account_home(), Path.home()
    found = []
    for name in re.split(r"\s+(?=[/~])", value.replace('"', "")):
        path = Path(expand(name))
        if account and account != home and path.is_relative_to(account / ".ssh"):
            path = home / path.relative_to(account)
        found.append(path)
    return tuple(found)


def _agent(value: str | None, expand: Callable[[str], str]) -> Path | None:
    if value is not None and value.lower() == _NONE:
        return None
    if value is None or value == "SSH_AUTH_SOCK":
        value = os.environ.get("SSH_AUTH_SOCK", "")
    elif value.startswith("$") and not value.startswith("${"):
        value = os.environ.get(value[1:], "")
    return Path(expand(value)) if value else None


def _proxy(value: str | None, expand: Callable[[str], str]) -> str | None:
    given = _given(value)
    return expand(given) if given else None


def _tokens(
    name: str, target: Mapping[str, str], alias: str | None, jump: str
) -> Mapping[str, str]:
    local = socket.gethostname()
    identity = f"{local}{target['h']}{target['p']}{target['r']}{jump}"
    return {
        **target,
        "%": "%",
        "C": hashlib.sha1(identity.encode(), usedforsecurity=False).hexdigest(),
        "d": str(Path.home()),
        "i": str(os.getuid()),
        "j": jump,
        "k": alias or name,
        "L": local.partition(".")[0],
        "l": local,
        "n": name,
        "u": getpass.getuser(),
    }


def _expand(device: Device, tokens: Mapping[str, str], text: str) -> str:
    """Expand `~`, `${NAME}` and `%x`; raises ConfigError for a variable that is not set."""

    def variable(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            message = f"{device.name}: ssh_config: the variable {found[1]} of {text!r} is not set"
            raise ConfigError(message)
        return os.environ[found[1]]

    expanded = re.sub(r"\$\{(\w+)\}", variable, text)
    expanded = re.sub("%(.)", lambda one: tokens.get(one[1], one[0]), expanded)
    return str(Path(expanded).expanduser()) if expanded.startswith("~") else expanded
