"""A phone on a real adbd: this machine's programs under a root of its own, with a phone's layout.

    with phone(folder) as pixel:
        opened = open_adb(pixel.device)

adbd and adb are the real ones; the shell is mksh and the tools are toybox, as on a phone. What a
phone has beside them is a stand-in: `getprop`, `dumpsys` and `logcat` print files of ours, and there
is no Android. Everything is on loopback and in a private mount namespace, and ends with the block.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from shlex import quote

from conftest import missing
from lab.rooted import Rooted
from lab.tools import LabError, why_not

from harness.types import Device

from . import adbd

SERIAL = "STANDIN6PIXEL"
WORKDIR = "/data/local/tmp/edge-harness"
_TOOLS = ("adb", "mksh", "toybox", "unshare", "chroot")
_SECONDS = 20.0
_PROPERTIES = {
    "ro.product.name": "oriole",
    "ro.product.model": "Pixel 6",
    "ro.product.device": "oriole",
    "ro.product.manufacturer": "Google",
    "ro.product.cpu.abi": "arm64-v8a",
    "ro.product.cpu.abilist": "arm64-v8a,armeabi-v7a,armeabi",
    "ro.soc.manufacturer": "Google",
    "ro.soc.model": "Tensor",
    "ro.board.platform": "gs101",
    "ro.build.version.release": "14",
    "ro.build.version.sdk": "34",
    "ro.build.fingerprint": "google/oriole/oriole:14/STANDIN/1:user/release-keys",
    "ro.build.version.security_patch": "2026-10-05",
    "ro.serialno": SERIAL,
}
_GETPROP = """\
#!/system/bin/sh
f=/system/build.prop
if [ $# -eq 0 ]; then while IFS='=' read -r k v; do print -r -- "[$k]: [$v]"; done < $f; exit 0; fi
while IFS='=' read -r k v; do [ "$k" = "$1" ] && { print -r -- "$v"; exit 0; }; done < $f
print -r -- "$2"
"""
# The shapes of `dumpsys` that several public parsers read; the values are ours.
THERMAL = """\
IsStatusOverride: false
ThermalEventListeners:
\tcallbacks: 1
Thermal Status: 0
Cached temperatures:
\tTemperature{mValue=61.0, mType=3, mName=VIRTUAL-SKIN, mStatus=2}
HAL Ready: true
HAL connection:
\tThermalHAL AIDL 1  connected: yes
Current temperatures from HAL:
\tTemperature{mValue=31.5, mType=3, mName=VIRTUAL-SKIN, mStatus=0}
\tTemperature{mValue=38.0, mType=0, mName=BIG, mStatus=0}
\tTemperature{mValue=-99.9, mType=5, mName=PA, mStatus=0}
Current cooling devices from HAL:
\tCoolingDevice{mValue=0, mType=2, mName=thermal-cpufreq-0}
"""
BATTERY = """\
Current Battery Service state:
  AC powered: false
  USB powered: true
  Wireless powered: false
  status: 2
  health: 2
  present: true
  level: 83
  scale: 100
  voltage: 4203
  temperature: 271
"""


@dataclass(kw_only=True)
class Server:
    """An adb server of the tests' own: its own port and its own keys."""

    port: int
    home: Path
    program: str = "adb"

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment in which `adb` uses this server."""
        own = {"ANDROID_ADB_SERVER_PORT": str(self.port), "HOME": str(self.home)}
        own["ADB_MDNS"] = own["ADB_MDNS_AUTO_CONNECT"] = "0"
        return {**os.environ, **own}

    def adb(self, *argv: str, seconds: float = _SECONDS) -> subprocess.CompletedProcess[str]:
        """Run the real `adb` against this server."""
        return subprocess.run(
            [self.program, *argv],
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )

    def stop(self) -> None:
        """End the server."""
        with suppress(subprocess.TimeoutExpired):
            self.adb("kill-server")


@contextmanager
def adb_server(folder: Path, program: str = "adb") -> Iterator[Server]:
    """Run an adb server; with a `program` of its own, that one."""
    if shutil.which(program) is None:
        missing("adb is not installed (`make system`)")
    (folder / ".android").mkdir(parents=True, exist_ok=True)
    made = Server(port=free_port(), home=folder, program=program)
    made.adb("keygen", str(folder / ".android" / "adbkey"))
    made.adb("start-server")
    try:
        yield made
    finally:
        made.stop()


@dataclass(kw_only=True)
class Phone:
    """A running phone."""

    port: int
    folder: Path
    server: Server
    secure: bool = False
    properties: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Return the address of its adbd."""
        return f"adb:127.0.0.1:{self.port}"

    @property
    def device(self) -> Device:
        """Return its farm entry."""
        return self.device_by(self.server)

    def device_by(self, server: Server, address: str | None = None) -> Device:
        """Return its farm entry for another adb server, or another address."""
        return Device(
            name="pixel",
            profile="generic_phone",
            address=address or self.address,
            transport_options={"adb_server": f"127.0.0.1:{server.port}"},
            dialect="json_lines",
            dialect_options={"workdir": WORKDIR, "python": sys.executable},
        )

    @property
    def root(self) -> Path:
        """Return the phone's root, for this host; only while it runs."""
        assert self.process is not None
        return Path(f"/proc/{self.process.pid}/root")

    def start(self) -> None:
        """Start it, or start it again after `kill`."""
        with (self.folder / "adbd.log").open("ab") as log:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation", "private", "sh", "-ec", self._script()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )
        wait_until(lambda: answers(self.port) or self._ended(), "adbd listens")

    def _ended(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError((self.folder / "adbd.log").read_text()[-2000:])
        return False

    def authorise(self, server: Server) -> None:
        """Do what a tap on `Allow` does: take the server's key."""
        keys = self.root / "data/misc/adb/adb_keys"
        keys.parent.mkdir(parents=True, exist_ok=True)
        with keys.open("a") as file:
            file.write((server.home / ".android" / "adbkey.pub").read_text() + "\n")

    def kill(self) -> None:
        """End adbd and every process of the phone, at once."""
        if self.process is None:
            return
        root = self._rootdir
        for entry in Path("/proc").iterdir():
            with suppress(OSError):
                if entry.name.isdigit() and str((entry / "root").readlink()) == root:
                    os.kill(int(entry.name), signal.SIGKILL)
        self.process.kill()
        self.process.wait(10)
        self.process = None

    @property
    def _rootdir(self) -> str:
        return str((self.folder / "root").resolve())

    def _script(self) -> str:
        rooted = Rooted(self.folder, [Path("/")])
        root = rooted.root
        shown = {"/tmp", str(Path(sys.prefix)), str(Path(sys.base_prefix))}
        binds = "".join(
            f"mkdir -p {quote(str(root))}{quote(one)}; "
            f"mount --bind {quote(one)} {quote(str(root))}{quote(one)}\n"
            for one in sorted(shown)
        )
        environment = "PATH=/system/bin HOME=/ TMPDIR=/data/local/tmp ANDROID_ROOT=/system"
        return f"""
ROOT={quote(str(root))}
{rooted._mounts()}{binds}
mount -t proc proc "$ROOT/proc"
mount -t devpts -o newinstance,ptmxmode=666,mode=620 devpts "$ROOT/dev/pts"
mount -t tmpfs -o mode=771,size=256m none "$ROOT/data"
mkdir -p "$ROOT/data/local/tmp" "$ROOT/data/misc/adb"
cd /
exec env -i {environment} ADBD_PROPERTIES=/system/build.prop \\
    EDGE_HARNESS_LEASES=/data/local/tmp {shutil.which("chroot", path="/usr/sbin:/usr/bin:/sbin")} \\
    "$ROOT" /system/bin/adbd
"""

    def lay_out(self) -> None:
        """Write the phone's files, which the layer over this machine's holds."""
        rooted = Rooted(self.folder, [Path("/")])
        rooted.make()
        shell, box = shutil.which("mksh"), shutil.which("toybox")
        assert shell is not None
        assert box is not None
        listen = f"tcp:localhost:{self.port}"
        properties = {"service.adb.listen_addrs": listen, **self.properties}
        properties["ro.adb.secure"] = "1" if self.secure else "0"
        programs = Programs(adbd=adbd.program(), shell=Path(shell), toybox=Path(box))
        write_files(rooted.layer, programs, properties)


@dataclass(frozen=True, kw_only=True)
class Programs:
    """The real programs of a phone."""

    adbd: Path
    shell: Path
    """mksh."""
    toybox: Path


def write_files(layer: Path, programs: Programs, properties: Mapping[str, str]) -> None:
    """Write a phone's programs and files into a layer; the stand-ins are shell scripts."""
    folder = layer / "system/bin"
    (layer / "system/etc").mkdir(parents=True)
    (layer / "data").mkdir()
    folder.mkdir()
    shutil.copy(programs.adbd, folder / "adbd")
    shutil.copy(programs.shell.resolve(), folder / "sh")
    shutil.copy(programs.toybox.resolve(), folder / "toybox")
    # The names are those of this machine's toybox, which is of the same release.
    for name in subprocess.check_output(["toybox"], text=True).split():
        (folder / name).symlink_to("toybox")
    # adbd of this build starts /bin/sh.
    (layer / "usr/bin").mkdir(parents=True, exist_ok=True)
    shutil.copy(programs.shell.resolve(), layer / "usr/bin/sh")
    lines = "".join(f"{key}={value}\n" for key, value in {**_PROPERTIES, **properties}.items())
    (layer / "system/build.prop").write_text(lines)
    dumpsys = "#!/system/bin/sh\ncat /system/etc/standin-dumpsys-$1 2>/dev/null || "
    dumpsys += 'echo "Can\'t find service: $1"\n'
    (layer / "system/etc/standin-dumpsys-thermalservice").write_text(THERMAL)
    (layer / "system/etc/standin-dumpsys-battery").write_text(BATTERY)
    for name, text in {"getprop": _GETPROP, "dumpsys": dumpsys}.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


@contextmanager
def phone(
    folder: Path,
    server: Server,
    *,
    secure: bool = False,
    properties: Mapping[str, str] | None = None,
) -> Iterator[Phone]:
    """Run a phone that is connected to nothing yet."""
    if why := why_not(_TOOLS) or adbd.why_not():
        missing(why)
    try:
        adbd.program()
    except LabError as error:
        missing(f"adbd cannot be built: {error}")
    folder.mkdir(parents=True, exist_ok=True)
    made = Phone(
        port=free_port(), folder=folder, server=server, secure=secure, properties=properties or {}
    )
    made.lay_out()
    try:
        made.start()
        yield made
    finally:
        made.kill()


class Cable:
    """A relay between an adb server and a phone, which can be cut without a word, as a link dies."""

    def __init__(self, port: int) -> None:
        """Listen on a port of its own, and pass on to `port`."""
        self._to = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._goes = threading.Event()
        self._goes.set()
        self._ended = False
        self._ends: list[socket.socket] = []
        self.passed = 0
        """Bytes that went to the phone."""
        self.cut_after: int | None = None
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Lose whatever is sent from now on, both ways; no end is told."""
        self._goes.clear()

    def join(self) -> None:
        """Let everything pass again; what waited arrives late, as TCP repeats it."""
        self._goes.set()

    def pull(self) -> None:
        """Reset every connection."""
        for one in self._ends:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """End the relay."""
        self._ended = True
        self._goes.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.pull()
        for one in self._ends:
            one.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._listening.accept()
                try:
                    far = socket.create_connection(("127.0.0.1", self._to), 5)
                except OSError:
                    near.close()
                    continue
                far.settimeout(None)
                self._ends += [near, far]
                for source, sink in ((near, far), (far, near)):
                    threading.Thread(
                        target=self._carry, args=(source, sink, sink is far), daemon=True
                    ).start()

    def _carry(self, source: socket.socket, sink: socket.socket, outward: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if outward:
                    self.passed += len(data)
                    if self.cut_after is not None and self.passed > self.cut_after:
                        self.cut()
                self._goes.wait()
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def cable(port: int) -> Iterator[Cable]:
    """Run a relay to a phone's port."""
    with closing(Cable(port)) as made:
        yield made


_GIVEN: set[int] = set()


def free_port() -> int:
    """Return a port of loopback that nothing listens on; each only once."""
    while True:
        with closing(socket.create_server(("127.0.0.1", 0))) as one:
            port: int = one.getsockname()[1]
        if port not in _GIVEN:
            _GIVEN.add(port)
            return port


def answers(port: int) -> bool:
    """Whether something listens on a port of loopback."""
    with suppress(OSError), closing(socket.create_connection(("127.0.0.1", port), 1)):
        return True
    return False


def wait_until(holds: Callable[[], bool], what: str, seconds: float = _SECONDS) -> None:
    """Wait for a state; raises AssertionError at the deadline."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.02)
