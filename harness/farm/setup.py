"""Install a runtime on a device: this host fetches the wheels, the device unpacks them.

The device needs no internet, no pip and no root. The runtime is installed in `runtimes/NAME-VERSION`
of the work folder; nothing else on the device changes. The folder gets this name only after all
wheels are unpacked and the interpreter has been imported on the device.
"""

from __future__ import annotations

import json
import re
import secrets
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.devices import abilities
from harness.devices.dialects.python_agent.options import AgentOptions
from harness.errors import RuntimeMissing, TransferFailed
from harness.farm import bundles, wheels
from harness.farm.bundles import InstalledBundle
from harness.farm.checks import Fix, FixKind
from harness.farm.device_under_test import DeviceUnderTest
from harness.farm.linux import packages, survey
from harness.farm.probe import Probe, probe_python
from harness.farm.wheels import NoWheel, RuntimeRequirement, Site, Wheel
from harness.measure.leases import Patience
from harness.measure.recovery import Recovery
from harness.measure.sessions import Session
from harness.printable import counted
from harness.types import Device, DeviceFacts, Runtime

_PURPOSE = "installing a runtime"
_SPARE_BYTES = 50_000_000
_UNPACK_SECONDS = 900.0
_DONE = b"edge-harness unpacked"
_NUMPY = "numpy"
_ARM_32 = "armv7l"
NUMPY_FIRST = FixKind(
    id="numpy-first", does="Install the system's NumPy for 32-bit Arm, then the runtime"
)
NUMPY_BY_HAND = FixKind(
    id="numpy-by-hand",
    does="Install a NumPy for 32-bit Arm",
    by_hand="the device has no known package manager with NumPy",
)

# Python 3.9 or newer runs it on the device; its input is one JSON object on stdin.
_UNPACK = r"""
import hashlib, json, os, shutil, subprocess, sys, time, zipfile
order = json.load(sys.stdin)
root, name = os.path.join(order["workdir"], "runtimes"), order["name"]
os.umask(0o077)
os.makedirs(root, exist_ok=True)
for left in os.listdir(root):
    path = os.path.join(root, left)
    if left.startswith(".") and os.lstat(path).st_mtime < time.time() - 3600:
        shutil.rmtree(path, ignore_errors=True)  # of an interrupted setup
part = os.path.join(root, "." + name + "." + order["token"])
blobs = [os.path.join(order["workdir"], "blobs", digest) for digest in order["digests"]]
try:
    for digest, blob in zip(order["digests"], blobs):
        with open(blob, "rb") as file:
            found = hashlib.sha256()
            for data in iter(lambda: file.read(1 << 20), b""):
                found.update(data)
            if found.hexdigest() != digest:
                sys.exit("a wheel was changed in transfer: " + blob)
            with zipfile.ZipFile(file) as wheel:
                for entry in wheel.infolist():
                    if entry.filename.endswith("/"):
                        continue
                    parts = entry.filename.split("/")
                    if parts[0].endswith(".data"):
                        if parts[1] not in ("purelib", "platlib"):
                            continue
                        entry.filename = "/".join(parts[2:])
                    wheel.extract(entry, part)
    script = "import sys; sys.path[0] = sys.argv[1]; import " + order["module"]
    try:
        trial = subprocess.run([sys.executable, "-c", script, part], stdin=subprocess.DEVNULL,
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=300)
    except subprocess.TimeoutExpired:
        sys.exit("its import did not end in 300 s")
    if trial.returncode:
        output = trial.stdout.decode("utf-8", "replace").strip()[-600:]
        sys.exit("it does not import: exit code %d: %s" % (trial.returncode, output))
    os.sync()
    final = os.path.join(root, name)
    if os.path.isdir(final):
        os.rename(final, part + ".old")
    os.rename(part, final)
    if order["default"]:
        os.symlink(name, part)
        os.replace(part, os.path.join(root, "default"))
    folder = os.open(root, os.O_RDONLY)
    os.fsync(folder)
finally:
    for path in (part, part + ".old"):
        shutil.rmtree(path, ignore_errors=True)
for blob in blobs:
    os.unlink(blob)
print("edge-harness unpacked")
"""

OnProgress = Callable[[str], None]
"""Called with one line per step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Installation:
    """A runtime on one device that setup found or installed, or would install in a dry run."""

    device: str
    runtime: str
    """Import name."""
    version: str
    folder: str | None
    """Path on the device; None if the device had the runtime already."""
    wheels: tuple[str, ...] = ()
    """File names; empty if the device had the runtime already."""
    wheel_bytes: int = 0
    unpacked_bytes: int = 0
    default: bool = False
    """Whether launches that name no runtime use it."""
    done: bool = False
    """Whether the runtime was installed; False in a dry run, and if the device had it already."""

    def text(self) -> str:
        """Return it as text for a person."""
        named = f"{self.runtime} {self.version}"
        if not self.wheels:
            return f"{self.device}: {named} is already installed"
        verb = "installed" if self.done else "would install"
        used = "used by default" if self.default else "not used by default"
        return "\n".join(
            (
                f"{self.device}: {verb} {named} in {self.folder} ({used})",
                f"  {self.wheel_bytes / 1e6:.1f} MB of wheels, {self.unpacked_bytes / 1e6:.0f} MB unpacked:",
                *(f"    {wheel}" for wheel in self.wheels),
            )
        )


def install(
    session: Session, wanted: RuntimeRequirement | None, *, dry_run: bool, on_progress: OnProgress
) -> Installation:
    """Install a runtime on a connected device; None chooses the best one that fits.

    A runtime that works is not replaced. Raises RuntimeMissing if no wheel fits or the runtime does
    not import on the device, TransferFailed if too little space is free, and the transport's errors.
    """
    present = _find_runtime(session.facts, wanted)
    if present is not None:
        return Installation(
            device=session.device.name, runtime=present.name, version=present.version, folder=None
        )
    transport = abilities.commands(session.transport, session.device, _PURPOSE)
    probe = probe_python(transport, session.device)
    site = Site.of(probe)
    wanted = wanted or wheels.choose_runtime(site)
    with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
        on_progress(f"{session.device.name} is {site}: fetching {wanted.requirement} for it")
        dut = DeviceUnderTest(device=session.device, transport=session.transport)
        found = _fetch(wanted, site, dut, Path(folder))
        made = _installation(session, wanted, found)
        _check_space(session.device, probe, made)
        if dry_run:
            return made
        recovery = Recovery(session=session, emit=session.patience.emit)
        on_progress(f"sending {counted(len(found), 'wheel')}, {made.wheel_bytes / 1e6:.1f} MB")
        recovery.run(lambda: session.bring({wheel.digest: wheel.path for wheel in found}))
        on_progress(f"unpacking and importing it on {session.device.name}")
        recovery.run(lambda: _unpack(session, made, found), "unpacking the runtime")
    return replace(made, done=True)


def install_on(
    device: Device,
    runtime: str | None,
    *,
    dry_run: bool,
    on_progress: OnProgress,
    patience: Patience | None = None,
) -> Installation | InstalledBundle:
    """Connect to a device and install `runtime` there.

    It is NAME or NAME==VERSION of a Python runtime, see `install`; on a device that runs
    benchmark_model it is a folder, see :func:`harness.farm.bundles.install`.
    """
    session = Session(device, patience=patience)
    try:
        if bundles.takes_bundles(session):
            return bundles.install(session, runtime, dry_run=dry_run, on_progress=on_progress)
        wanted = RuntimeRequirement.parse(runtime) if runtime else None
        return install(session, wanted, dry_run=dry_run, on_progress=on_progress)
    finally:
        session.close()


def can_run(runtime: Runtime) -> bool:
    """Whether an importable runtime can run models: tflite_runtime cannot with NumPy 2."""
    return not (runtime.name == wheels.TFLITE and (_major(runtime.numpy) or 0) > 1)


def lacks_numpy(site: Site, wanted: RuntimeRequirement) -> bool:
    """Whether the system's package manager must install NumPy: 32-bit Arm has no wheel of it."""
    fits = site.numpy is not None and (wanted.name != wheels.TFLITE or _major(site.numpy) == 1)
    return site.arch == _ARM_32 and not fits


def _major(version: str | None) -> int | None:
    found = re.match(r"\d+", version or "")
    return int(found[0]) if found else None


def _find_runtime(facts: DeviceFacts, wanted: RuntimeRequirement | None) -> Runtime | None:
    """Return the installed runtime that meets the request; None if there is none."""
    for one in facts.runtimes:
        if wanted is None:
            if can_run(one):
                return one
        elif one.name == wanted.name and wanted.version in {None, one.version}:
            return one
    return None


def numpy_fix(dut: DeviceUnderTest) -> Fix:
    """Return the fix that installs NumPy on 32-bit Arm: the package index has no wheel of it."""
    install_numpy = packages.install(dut.system, "numpy")
    if install_numpy:
        return dut.as_root(NUMPY_FIRST, install_numpy)
    advice = f"install the system's own NumPy for {dut.agent.python} on 32-bit Arm"
    return dut.by_hand(NUMPY_BY_HAND, advice)


def _fetch(
    wanted: RuntimeRequirement, site: Site, dut: DeviceUnderTest, folder: Path
) -> tuple[Wheel, ...]:
    try:
        return wheels.fetch(wanted, site, folder)
    except NoWheel as error:
        if _NUMPY not in error.names or not lacks_numpy(site, wanted):
            raise
        if dut.transport is not None:
            dut.system = survey.survey_system(dut.commands, dut.device)
        has = f"its NumPy {site.numpy} does not fit" if site.numpy else "it has none"
        raise RuntimeMissing(
            f"{dut.device.name}: the package index has no NumPy for 32-bit Arm, and {has}; "
            f"install the system's own, `{numpy_fix(dut).text}`, then `edge-harness setup {dut.device.selector}`"
        ) from error


def _installation(
    session: Session, wanted: RuntimeRequirement, found: Sequence[Wheel]
) -> Installation:
    version = found[0].version
    return Installation(
        device=session.device.name,
        runtime=wanted.name,
        version=version,
        folder=f"{AgentOptions.of(session.device).workdir}/runtimes/{wanted.name}-{version}",
        wheels=tuple(wheel.path.name for wheel in found),
        wheel_bytes=sum(wheel.size_bytes for wheel in found),
        unpacked_bytes=sum(wheel.unpacked_bytes for wheel in found),
        default=not any(can_run(one) for one in session.facts.runtimes),
    )


def _check_space(device: Device, probe: Probe, made: Installation) -> None:
    needed = made.wheel_bytes + made.unpacked_bytes + _SPARE_BYTES
    if probe.noexec:
        raise RuntimeMissing(
            f"{device.name}: {AgentOptions.of(device).workdir} is on a file system mounted noexec, so no runtime "
            "loads from it; set another workdir in the farm file"
        )
    if probe.free_bytes is not None and probe.free_bytes < needed:
        raise TransferFailed(
            f"{device.name}: {made.runtime} takes {needed / 1e6:.0f} MB while it is unpacked, and "
            f"{probe.free_bytes / 1e6:.0f} MB are free for {AgentOptions.of(device).workdir}; free space "
            f"(`edge-harness devices {device.name} --clean`), or set another workdir"
        )


def _unpack(session: Session, made: Installation, found: Sequence[Wheel]) -> None:
    transport = abilities.commands(session.transport, session.device, _PURPOSE)
    agent = AgentOptions.of(session.device)
    order = {
        "workdir": agent.workdir,
        "name": f"{made.runtime}-{made.version}",
        "module": f"{made.runtime}.interpreter",
        "digests": [wheel.digest for wheel in found],
        "default": made.default,
        "token": secrets.token_hex(4),
    }
    argv = agent.script(_UNPACK)
    reply = transport.run(argv, _UNPACK_SECONDS, stdin=json.dumps(order).encode())
    if reply.exit_code or _DONE not in reply.stdout:
        errors = reply.stderr.decode(errors="replace").strip()[-1000:]
        raise RuntimeMissing(
            f"{made.device}: {made.runtime} {made.version} was not installed: "
            f"{errors or f'exit code {reply.exit_code}'}"
        )
