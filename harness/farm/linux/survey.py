"""Survey a Linux device with one shell script; this host parses the sections of its output.

The script only prints files and the output of standard programs (busybox has them all), so it also
works on a device without Python. A section with unexpected content is ignored.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.devices import opening
from harness.errors import AgentError
from harness.protocols import Commands
from harness.types import Device

_SECONDS = 60.0
_MARK = "edge-harness-system "
_MAX_LINE = 8192
_MAX_TEXT = 400
_MAX_ITEMS = 64
_MAX_DIGITS = 15
_PLAUSIBLE_MILLIDEGREES = range(1, 200_000)
"""Disabled zones report 0, -274000 or -1 on real boards."""

_CPU_ZONES = ("cpu", "soc", "x86_pkg", "bigcore", "tj")
_DF = re.compile(r"\s\d+\s+\d+\s+(\d{1,15})\s+(?:-|\d+%)\s+(/.*)$")
"""The line of `df -Pk`: blocks, used, available (1024 bytes each), capacity, mount point."""

_OCTAL = re.compile(r"\\([0-7]{3})")
_ACCOUNT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}")
_USB = re.compile(r"[0-9a-f]{4}:[0-9a-f]{4}")

_SCRIPT = r"""
exec 2>/dev/null
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
section() { printf '\nedge-harness-system %s\n' "$1"; }
work=$1
section date; date +%s
section uname; uname -s; uname -r; uname -m
section os-release; cat /etc/os-release || cat /usr/lib/os-release
section user; id -u; id -un
section shell; echo "$SHELL"
section tools
for tool in apt-get dnf microdnf yum apk zypper pacman opkg sudo timedatectl; do
    command -v "$tool" >/dev/null && echo "$tool"
done
[ -d /run/systemd/system ] && echo systemd
section libc; getconf GNU_LIBC_VERSION; ldd --version 2>&1 | head -n 2; ls /lib/ld-musl-*
section cores; getconf _NPROCESSORS_ONLN || nproc || grep -c ^processor /proc/cpuinfo
section loadavg; cat /proc/loadavg
section meminfo; cat /proc/meminfo
section governors; cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor
section choices; cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_available_governors
section thermal
for zone in /sys/class/thermal/thermal_zone*; do
    [ -r "$zone/temp" ] && echo "$(cat "$zone/temp") $(cat "$zone/type")"
done
section board; tr '\000' '\n' < /proc/device-tree/model || tr '\000' '\n' < /sys/firmware/devicetree/base/model
section throttled
for tool in vcgencmd /usr/bin/vcgencmd /opt/vc/bin/vcgencmd; do
    command -v "$tool" >/dev/null && echo vcgencmd && "$tool" get_throttled && break
done
section usb
for one in /sys/bus/usb/devices/*/idVendor; do
    [ -r "$one" ] && echo "$(cat "$one"):$(cat "${one%Vendor}Product")"
done
section nodes
for node in /dev/dri/renderD* /dev/nvidia[0-9]* /dev/mali* /dev/kgsl-3d0 /dev/apex_*; do
    [ -e "$node" ] || continue
    may=shut; [ -r "$node" ] && [ -w "$node" ] && may=open
    set -- $(ls -ld "$node"); echo "$may $4 $node"
done
section kernel
for one in /proc/cpuinfo /proc/self /sys/devices/system/cpu; do [ -e "$one" ] && echo "$one"; done
section workdir
if [ -h "$work" ]; then echo link; elif [ -d "$work" ]; then echo folder
elif [ -e "$work" ]; then echo file; else echo absent; fi
[ -O "$work" ] && echo own
[ -w "$work" ] && [ -x "$work" ] && echo writable
section owner; ls -ld -- "$work"
dir=$work
while [ ! -d "$dir" ] || [ ! -x "$dir" ]; do dir=$(dirname -- "$dir"); done
section above; (cd -P -- "$dir" && pwd -P); [ -w "$dir" ] && echo writable
section df; df -Pk -- "$dir"
section ours; (cd -- "$work" && du -sk agents blobs incoming out runtimes)
section mounts; cat /proc/self/mounts || cat /proc/mounts
section places
for one in /var/tmp "$HOME" /data /srv /mnt /mnt/* /media/*/* /tmp; do
    [ -d "$one" ] && [ -w "$one" ] || continue
    # The agent refuses to run from a folder that other users may replace.
    set -- $(ls -ldn "$one")
    [ "$3" = 0 ] || [ "$3" = "$(id -u)" ] || continue
    case $1 in ????????w[tT]*) ;; ????????w*) continue ;; esac
    printf '%s\t' "$one"; df -Pk -- "$one" | tail -n 1
done
section servers
pid=$$
while [ "${pid:-0}" -gt 0 ]; do
    name=$(sed -n 's/^Name:[[:space:]]*//p' "/proc/$pid/status")
    case $name in sshd*|dropbear*)
        printf '%s\t%s\t' "$pid" "$name"; tr '\000\n' '  ' < "/proc/$pid/cmdline"; echo ;;
    esac
    pid=$(sed -n 's/^PPid:[[:space:]]*//p' "/proc/$pid/status")
done
section forced; [ -n "$SSH_ORIGINAL_COMMAND" ] && echo yes
section end
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """A mounted file system."""

    point: str
    read_only: bool
    noexec: bool
    """Whether no library can be loaded from it."""
    kind: str = ""
    """`ext4`, `tmpfs`, ..."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WritableFolder:
    """A folder that the account may write to."""

    path: str
    free_bytes: int
    mount: Mount | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceNode:
    """A device node of an accelerator."""

    path: str
    group: str
    may_open: bool
    """Whether the account may read and write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SshServer:
    """The SSH server of this connection."""

    name: str
    """`sshd`, `dropbear`, ..."""
    pid: int
    program: str | None = None
    """Absolute path."""
    config: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkFolder:
    """The state of the work folder."""

    form: str = ""
    """`folder`, `file`, `link` or `absent`."""
    is_own: bool = False
    is_writable: bool = False
    owner: str = ""
    above: str = ""
    """The work folder itself if it exists, else its nearest existing parent."""
    above_is_writable: bool = False
    our_bytes: int = 0
    """Space that our agents, models and runtimes take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """The facts that the script found; None or empty if unknown."""

    kernel: str
    """`uname -s`."""
    release: str = ""
    machine: str = ""
    os_ids: tuple[str, ...] = ()
    """ID, then ID_LIKE of os-release."""
    os_name: str = ""
    os_version: str = ""
    tools: frozenset[str] = frozenset()
    uid: int | None = None
    user: str = ""
    login_shell: str = ""
    """The name of the account's shell: `bash`, `tcsh`, ..."""
    clock_offset_seconds: float | None = None
    """The device's clock minus this host's, exact to half a second plus the time of the answer."""
    libc: str | None = None
    """`glibc 2.36`, `musl`."""
    cores: int | None = None
    load_1m: float | None = None
    swap_used_bytes: int | None = None
    governors: tuple[str, ...] = ()
    """Distinct governors, in the order of the processors."""
    governor_choices: tuple[str, ...] = ()
    temperature_c: float | None = None
    board: str = ""
    """The model of the device tree: `Raspberry Pi 4 Model B Rev 1.4`; empty without one."""
    has_vcgencmd: bool = False
    throttled: int | None = None
    """Bits of `vcgencmd get_throttled`."""
    usb: tuple[str, ...] = ()
    nodes: tuple[DeviceNode, ...] = ()
    kernel_files: frozenset[str] = frozenset()
    workdir: WorkFolder = WorkFolder()
    free_bytes: int | None = None
    """Available to the account, on the file system of the work folder."""
    mount: Mount | None = None
    """The file system of the work folder."""
    writable_folders: tuple[WritableFolder, ...] = ()
    server: SshServer | None = None
    is_forced: bool = False
    """Whether sshd ran a forced command instead of ours."""

    @property
    def can_sudo(self) -> bool:
        """Whether the account needs sudo and has it."""
        return self.uid != 0 and "sudo" in self.tools

    @property
    def can_be_root(self) -> bool:
        """Whether the account is root or has sudo."""
        return self.uid == 0 or "sudo" in self.tools


def survey_system(transport: Commands, device: Device) -> System:
    """Run the script on the device; raises AgentError if no POSIX shell answers."""
    before = time.time()
    reply = transport.run(
        ["sh", "-c", _SCRIPT, "sh", opening.workdir(device) or "/nonexistent"], _SECONDS
    )
    middle = (before + time.time()) / 2
    system = read(reply.stdout, middle)
    if system is None:
        errors = (reply.stderr or reply.stdout).decode(errors="replace").strip()[-300:]
        raise AgentError(
            f"no POSIX shell answers: sh ends with {reply.exit_code}: {errors or 'no message'}"
        )
    return system


def read(answer: bytes, now: float) -> System | None:
    """Parse the output of the script; None if it is incomplete.

    `now` is the time of the answer by this host's clock, in seconds.
    """
    sections = _sections(answer)
    names = [_text(line) for line in sections.get("uname", ())] + ["", "", ""]
    if "end" not in sections or not names[0]:
        return None
    release = _assignments(sections.get("os-release", ()))
    mounts = [one for one in map(_mount, sections.get("mounts", ())) if one is not None]
    above = sections.get("above", ())[:1]
    space = _space(sections.get("df", ())[-1:])
    user = [*sections.get("user", ()), "", ""]
    return System(
        kernel=names[0],
        release=names[1],
        machine=names[2],
        os_ids=tuple(
            name.lower()
            for key in ("ID", "ID_LIKE")
            for name in release.get(key, "").split()[:_MAX_ITEMS]
        ),
        os_name=release.get("PRETTY_NAME", ""),
        os_version=release.get("VERSION_ID", ""),
        tools=frozenset(_text(line) for line in sections.get("tools", ())),
        uid=_whole(user[0]),
        user=user[1] if _ACCOUNT.fullmatch(user[1]) else "",
        login_shell=_text("".join(sections.get("shell", ())[:1])).rpartition("/")[2],
        clock_offset_seconds=_offset(sections.get("date", ()), now),
        libc=_libc(sections.get("libc", ())),
        cores=next((n for n in map(_whole, sections.get("cores", ())) if n), None),
        load_1m=_load(sections.get("loadavg", ())),
        swap_used_bytes=_swap(sections.get("meminfo", ())),
        governors=_distinct(sections.get("governors", ())),
        governor_choices=_distinct(sections.get("choices", ())),
        temperature_c=_temperature(sections.get("thermal", ())),
        board=_text("".join(sections.get("board", ())[:1])),
        has_vcgencmd=any(line.strip() == "vcgencmd" for line in sections.get("throttled", ())),
        throttled=_throttled(sections.get("throttled", ())),
        usb=tuple(sorted({u for u in sections.get("usb", ()) if _USB.fullmatch(u)}))[:_MAX_ITEMS],
        nodes=_nodes(sections.get("nodes", ())),
        kernel_files=frozenset(_text(line) for line in sections.get("kernel", ())),
        workdir=_work_folder(sections),
        free_bytes=space[0] if space else None,
        mount=_mount_of(mounts, above[0]) if above else None,
        writable_folders=_writable_folders(sections.get("places", ()), mounts),
        server=_server(sections.get("servers", ())),
        is_forced=bool(sections.get("forced")),
    )


def _sections(answer: bytes) -> Mapping[str, Sequence[str]]:
    """Split the output at its marks; skip empty lines."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in answer.decode(errors="replace").split("\n"):
        if line.startswith(_MARK):
            lines = found.setdefault(line.removeprefix(_MARK).strip(), [])
        elif line.strip():
            lines.append(line[:_MAX_LINE])
    return found


def _text(line: str) -> str:
    """Return the printable characters of a value, so that none controls a terminal."""
    return "".join(letter for letter in line.strip() if letter.isprintable())[:_MAX_TEXT]


def _whole(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def _distinct(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_text(item) for line in lines for item in line.split()))[:_MAX_ITEMS]


def _assignments(lines: Sequence[str]) -> Mapping[str, str]:
    pairs = (line.partition("=") for line in lines)
    return {key.strip(): _text(value.strip().strip("\"'")) for key, _, value in pairs}


def _offset(lines: Sequence[str], now: float) -> float | None:
    seconds = _whole(lines[0]) if lines else None
    # `date` cuts off the fraction.
    return seconds + 0.5 - now if seconds is not None else None


def _libc(lines: Sequence[str]) -> str | None:
    text = "\n".join(lines)
    named = re.search(r"\bglibc (\d{1,3}\.\d{1,3})\b", text)
    if named is None:
        named = re.search(r"^ldd .*(?:GLIBC|GNU libc).* (\d{1,3}\.\d{1,3})\s*$", text, re.MULTILINE)
    if named:
        return f"glibc {named[1]}"
    return "musl" if "musl" in text else None


def _load(lines: Sequence[str]) -> float | None:
    found = re.match(r"(\d{1,9}\.\d{1,9})\s", lines[0]) if lines else None
    return float(found[1]) if found else None


def _swap(lines: Sequence[str]) -> int | None:
    memory = dict(re.findall(r"^(Swap\w+):\s+(\d{1,15}) kB", "\n".join(lines), re.MULTILINE))
    if "SwapTotal" not in memory or "SwapFree" not in memory:
        return None
    return max(0, int(memory["SwapTotal"]) - int(memory["SwapFree"])) * 1024


def _temperature(lines: Sequence[str]) -> float | None:
    """Return the hottest zone with a processor's name, else the hottest of all, in °C."""
    cpu: list[int] = []
    other: list[int] = []
    for line in lines:
        milli = _whole(line.partition(" ")[0])
        if milli is not None and milli in _PLAUSIBLE_MILLIDEGREES:
            kind = line.partition(" ")[2].lower()
            (cpu if any(name in kind for name in _CPU_ZONES) else other).append(milli)
    hottest = max(cpu or other, default=None)
    return hottest / 1000 if hottest is not None else None


def _throttled(lines: Sequence[str]) -> int | None:
    matches = (re.match(r"throttled=0x([0-9a-fA-F]{1,8})\s*$", line) for line in lines[:_MAX_ITEMS])
    return next((int(found[1], 16) for found in matches if found), None)


def _nodes(lines: Sequence[str]) -> tuple[DeviceNode, ...]:
    found = []
    for line in lines[:_MAX_ITEMS]:
        columns = line.split(maxsplit=2)
        if len(columns) == len(("may", "group", "path")) and columns[0] in {"open", "shut"}:
            may, group, path = columns
            found.append(DeviceNode(path=_text(path), group=_text(group), may_open=may == "open"))
    return tuple(found)


def _work_folder(sections: Mapping[str, Sequence[str]]) -> WorkFolder:
    state = [line.strip() for line in sections.get("workdir", ())]
    listed = (sections.get("owner") or [""])[0].split()
    above = sections.get("above", ())
    sizes = (_whole(line.split()[0]) for line in sections.get("ours", ())[:_MAX_ITEMS])
    return WorkFolder(
        form=next((one for one in ("link", "folder", "file", "absent") if one in state), ""),
        is_own="own" in state,
        is_writable="writable" in state,
        owner=_text(listed[2]) if len(listed) > 2 else "",  # noqa: PLR2004 - of `ls -l`
        above=above[0] if above else "",
        above_is_writable="writable" in above[1:],
        our_bytes=sum(size or 0 for size in sizes) * 1024,
    )


def _space(lines: Sequence[str]) -> tuple[int, str] | None:
    """Parse the free bytes and the mount point of `df -Pk`."""
    found = _DF.search(lines[0]) if lines else None
    return (int(found[1]) * 1024, found[2]) if found else None


def _mount(line: str) -> Mount | None:
    columns = line.split(" ")
    if len(columns) < 4:  # noqa: PLR2004 - device, point, kind, options
        return None
    options = columns[3].split(",")
    point = _OCTAL.sub(lambda found: chr(int(found[1], 8)), columns[1])
    return Mount(
        point=point, read_only="ro" in options, noexec="noexec" in options, kind=_text(columns[2])
    )


def _mount_of(mounts: Sequence[Mount], path: str) -> Mount | None:
    """Return the file system of `path`: the longest mount point above it, and the last one mounted there."""
    found: Mount | None = None
    for one in mounts:
        above = one.point.rstrip("/") + "/"
        if (path + "/").startswith(above) and (found is None or len(one.point) >= len(found.point)):
            found = one
    return found


def _writable_folders(lines: Sequence[str], mounts: Sequence[Mount]) -> tuple[WritableFolder, ...]:
    found = []
    for line in lines[:_MAX_ITEMS]:
        path, tab, usage = line.partition("\t")
        space = _space([usage])
        if tab and space and path.startswith("/") and path == _text(path):
            found.append(
                WritableFolder(path=path, free_bytes=space[0], mount=_mount_of(mounts, path))
            )
    return tuple(found)


def _server(lines: Sequence[str]) -> SshServer | None:
    """Find the SSH server among the shell's ancestors: the topmost process with its name."""
    found: SshServer | None = None
    for line in lines[:_MAX_ITEMS]:
        number, name, command = ([*line.split("\t", 2), "", ""])[:3]
        pid = _whole(number)
        if pid is None or not name.startswith(("sshd", "dropbear")):
            continue
        name = "sshd" if name.startswith("sshd") else "dropbear"
        found = SshServer(name=name, pid=pid, program=_program(command), config=_config(command))
    return found


def _program(command: str) -> str | None:
    """Return the server's program; OpenSSH's process title is `sshd: /usr/sbin/sshd -D [listener] ...`."""
    found = re.match(r"(?:sshd: )?(/\S+)", command)
    return _text(found[1]) if found else None


def _config(command: str) -> str | None:
    found = re.search(r" -f (/.+?)(?= -\w|\s+\[listener\]|\s*$)", command)
    return found[1] if found and found[1] == _text(found[1]) else None
