"""Pack the agent into one zip that Python runs, named by the digest of its sources."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from pathlib import Path

from harness import assets, durable
from harness.errors import ConfigError

_EPOCH = (1980, 1, 1, 0, 0, 0)
_MODE = 0o644 << 16
_FORM = b"a zip of the modules as they are"
"""Part of the digest: the same sources in another form make another zip."""


def agent_zip() -> tuple[Path, str]:
    """Return the zip of the Linux agent and its digest; the file is written if it is not as packed.

    The same sources give the same digest everywhere, and the same bytes with the same zlib, because
    names are sorted and times are fixed. The file is `<cache>/agents/<digest>.zip`. Its members are deflated,
    so the device's Python needs zlib, as the agent itself does. Raises ConfigError if the cache cannot
    be written.
    """
    sources = _sources(assets.agents() / "python_tflite")
    digest = _digest(sources)
    target = assets.cache_folder() / "agents" / f"{digest}.zip"
    packed = _pack(sources)
    if durable.read(target) != packed:
        try:
            durable.keep(target, packed)
        except OSError as error:
            raise ConfigError(
                f"cache folder {target.parent}: {error.strerror or error}; free disk space there, or "
                "set EDGE_HARNESS_CACHE to another folder"
            ) from error
    return target, digest


def _sources(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.py"))}


def _digest(sources: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256(_FORM)
    for name, text in sources.items():
        digest.update(f"{name}\0{len(text)}\0".encode())
        digest.update(text)
    return digest.hexdigest()


def _pack(sources: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in sources.items():
            entry = zipfile.ZipInfo(name, _EPOCH)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = _MODE
            entry.create_system = 3
            archive.writestr(entry, text, compresslevel=9)
    return packed.getvalue()
