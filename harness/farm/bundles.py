"""Install a bundle (program, runtime, accelerator libraries) on a device without Python.

    edge-harness setup pixel --runtime ./litert-2.1.5

The files are checked against the device before anything is sent.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.devices.dialects.benchmark_model import bundle as bundles
from harness.devices.dialects.benchmark_model import bundle_checks
from harness.devices.dialects.benchmark_model.bundle import (
    MANIFEST,
    RUNNER,
    BundleFile,
    LocalBundle,
)
from harness.devices.dialects.benchmark_model.bundle_checks import BundleSite
from harness.devices.dialects.benchmark_model.dialect import BenchmarkModelDialect
from harness.devices.dialects.benchmark_model.facts import SurveyedDevice
from harness.devices.dialects.benchmark_model.options import RunnerOptions
from harness.errors import ConfigError, RuntimeMissing, TransferFailed
from harness.measure.sessions import Session
from harness.printable import counted
from harness.protocols import Commands, Files

_SECONDS = 120.0
_SPARE_BYTES = 20_000_000
_MAX_LIBRARY_BYTES = 256 << 20
_VENDOR_FOLDERS = ("/vendor/lib64", "/odm/lib64", "/system/vendor/lib64", "/system_ext/lib64")

_LINK = r"""
umask 077
root=$1 folder=$2
shift 2
part=$root/bundles/.$folder.part
rm -rf "$part" && mkdir -p "$part" || exit 1
while [ $# -gt 1 ]; do
    ln "$root/blobs/$2" "$part/$1" 2>/dev/null || cp "$root/blobs/$2" "$part/$1" || exit 1
    chmod 700 "$part/$1" || exit 1
    shift 2
done
echo linked
"""
_PUBLISH = r"""
root=$1 folder=$2
rm -rf "$root/bundles/$folder" &&
    mv "$root/bundles/.$folder.part" "$root/bundles/$folder" &&
    echo "$folder" > "$root/bundles/.default" &&
    mv -f "$root/bundles/.default" "$root/bundles/default" && { sync; echo published; }
"""
_LIST = 'for folder; do [ -d "$folder" ] && ls "$folder" | sed "s|^|$folder/|"; done; exit 0'

OnProgress = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstalledBundle:
    """A bundle that setup installed, or would install in a dry run."""

    device: str
    runtime: str
    version: str
    digest: str
    folder: str
    """Path on the device."""
    files: tuple[BundleFile, ...]
    sent_bytes: int = 0
    """The bytes that travelled; 0 if the device had every file."""
    done: bool = False

    def text(self) -> str:
        """Return it as text for a person."""
        verb = "installed" if self.done else "would install"
        return "\n".join(
            (
                f"{self.device}: {verb} {self.runtime} {self.version} in {self.folder}",
                *(f"  {line}" for line in bundle_checks.named(self.files)),
                f"  {self.sent_bytes / 1e6:.1f} MB sent" if self.done else "  nothing sent",
            )
        )


def takes_bundles(session: Session) -> bool:
    """Whether a device's dialect needs a bundle."""
    return isinstance(session.dialect, BenchmarkModelDialect)


def install(
    session: Session, folder: str | None, *, dry_run: bool, on_progress: OnProgress
) -> InstalledBundle:
    """Check a folder's bundle against the device and install it as the default.

    Raises ConfigError for a folder that is no bundle, RuntimeMissing with every reason why it cannot
    work on the device, TransferFailed, and the transport's errors.
    """
    dialect, name = session.dialect, session.device.name
    assert isinstance(dialect, BenchmarkModelDialect)
    if folder is None:
        raise ConfigError(
            f"{name}: give the folder with {RUNNER} and its libraries: `{dialect.setup_command}` "
            "(docs/phone_runner.md says where to get them)"
        )
    local = bundles.of_folder(Path(folder).expanduser())
    survey = dialect.survey()
    on_progress(f"checking {local.bundle.title}: {counted(len(local.bundle.files), 'file')}")
    site = _site(session, survey, local)
    found = bundle_checks.problems(local, site)
    if found:
        raise RuntimeMissing(f"{name}: {local.folder} cannot work there: " + "; ".join(found))
    workdir = RunnerOptions.of(session.device).workdir
    made = InstalledBundle(
        device=name,
        runtime=local.bundle.name,
        version=local.bundle.full_version,
        digest=local.bundle.digest,
        folder=f"{workdir}/bundles/{local.bundle.folder}",
        files=local.bundle.files,
    )
    _check_space(session, local)
    if dry_run:
        return made
    session.hold()
    return replace(made, done=True, sent_bytes=_send(session, dialect, local, workdir, on_progress))


def _site(session: Session, survey: SurveyedDevice, local: LocalBundle) -> BundleSite:
    """Return what the bundle depends on, with the versions of the device's own vendor libraries."""
    transport = session.transport
    wanted = {one.name for one in local.bundle.files if one.version}
    wanted |= {needed for facts in local.elf.values() for needed in facts.needed}
    wanted |= {"libneuronusdk_adapter.mtk.so", "libneuronusdk_adapter.so"}
    libraries: dict[str, str | None] = {}
    if survey.api is not None and isinstance(transport, Commands) and isinstance(transport, Files):
        reply = transport.run(["sh", "-c", _LIST, "sh", *_VENDOR_FOLDERS], _SECONDS)
        for path in reply.stdout.decode("utf-8", "replace").splitlines():
            name = path.rpartition("/")[2]
            if name in wanted and name not in libraries:
                libraries[name] = _version_there(transport, path)
    return BundleSite(
        device=session.device.name,
        machine=survey.facts.machine,
        page_bytes=survey.page_bytes,
        api=survey.api,
        chip=survey.facts.chip,
        libraries=libraries,
    )


def _version_there(transport: Files, path: str) -> str | None:
    """Return the version in a library on the device; None if it cannot be read."""
    with tempfile.TemporaryDirectory(prefix="edge-harness-") as folder:
        copy = Path(folder) / "library"
        try:
            transport.get(path, copy, _MAX_LIBRARY_BYTES)
        except TransferFailed:
            return None
        return bundles.version_of(copy.read_bytes())


def _check_space(session: Session, local: LocalBundle) -> None:
    free = session.facts.free_bytes
    # A file system without links holds each file twice.
    needed = 2 * sum(one.size_bytes for one in local.bundle.files) + _SPARE_BYTES
    if free is not None and free < needed:
        raise TransferFailed(
            f"{session.device.name}: the bundle takes {needed / 1e6:.0f} MB, and {free / 1e6:.0f} MB are "
            f"free; free space (`edge-harness devices {session.device.name} --clean`)"
        )


def _send(
    session: Session,
    dialect: BenchmarkModelDialect,
    local: LocalBundle,
    workdir: str,
    on_progress: OnProgress,
) -> int:
    """Send the files that the device lacks, and publish the bundle's folder by one rename."""
    transport = session.transport
    assert isinstance(transport, Commands)
    files = local.bundle.files
    paths = {one.digest: bundles.path_of(local, one.name) for one in files}
    on_progress(f"sending what {session.device.name} does not have")
    sent = sum(push.travelled_bytes for push in dialect.deploy(paths))
    pairs: Sequence[str] = [text for one in files for text in (one.name, one.digest)]
    folder = local.bundle.folder
    _run(session, _LINK, [workdir, folder, *pairs], b"linked")
    with tempfile.TemporaryDirectory(prefix="edge-harness-") as temporary:
        manifest = Path(temporary) / MANIFEST
        manifest.write_text(local.bundle.to_json(), encoding="utf-8")
        digest = bundles.digest_of(manifest)
        dialect.push(manifest, f"{workdir}/bundles/.{folder}.part/{MANIFEST}", digest)
    _run(session, _PUBLISH, [workdir, folder], b"published")
    on_progress("starting the program with --help")
    dialect.hello()
    return sent


def _run(session: Session, script: str, arguments: Sequence[str], mark: bytes) -> None:
    transport = session.transport
    assert isinstance(transport, Commands)
    reply = transport.run(["sh", "-c", script, "sh", *arguments], _SECONDS)
    if mark not in reply.stdout.split():
        text = reply.stderr.decode("utf-8", "replace").strip()[-300:]
        raise TransferFailed(
            f"{session.device.name}: the bundle was not installed: {text or 'no reason given'}"
        )
